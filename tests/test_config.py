"""Every config composes, every recipe runs, and YAML says exactly what constructors take."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from recipes import ENVS, EXPERIMENTS, EXTRA, NEEDS, RECIPES, SHORT, family_of, smoke

from mbrl_lab import load_run, make_run
from mbrl_lab.app import build_runner
from mbrl_lab.config import CONF, EVALUATED, ConfigError, check, check_rules, choose_device, compose_config, renamed
from mbrl_lab.config.arguments import arguments
from mbrl_lab.config.rules import RULES
from mbrl_lab.env import Episode
from mbrl_lab.scores import Reference, statistics
from mbrl_lab.tracking.folder import RunFolder, RunRefused
from mbrl_lab.tracking.state import module_state

AT_RUN_TIME = {
    "mbrl_lab.algo.": {"spec"},
    "mbrl_lab.dynamics.": {"spec"},
    "mbrl_lab.dynamics.TerminationModel": {"members", "dim"},
    "mbrl_lab.env.objects.": {"images"},
    "mbrl_lab.policy.": {"spec"},
    "mbrl_lab.tracking.loggers.": {"folder"},
    "mbrl_lab.env.physics.": {"obs", "action", "next_obs"},
    "mbrl_lab.env.cs285_physics.": {"obs", "action", "next_obs"},
    "mbrl_lab.env.mujoco_physics.": {"obs", "action", "next_obs"},
    "mbrl_lab.env.minatar_physics.": {"obs", "action", "next_obs"},
    "mbrl_lab.env.cs285.make_cs285": {"render_mode"},
    "mbrl_lab.env.dmc.make_dmc": {"render_mode"},
    "mbrl_lab.env.cs285.simulated": {"obs", "action"},
    "mbrl_lab.env.MinAtar": {"render_mode", "num"},
    "mbrl_lab.env.AtariVector": {"num"},
    "mbrl_lab.env.make_atari": {"render_mode"},
    "mbrl_lab.nets.encoder.": {"spec"},
}
"""What the call that completes a partial brings; everything else stands in YAML."""


def targets(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping with a `_target_`, however deep."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for inner in node.values():
            yield from targets(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from targets(inner)


def all_targets() -> list[Any]:
    found = []
    for path in sorted(CONF.rglob("*.yaml")):
        for node in targets(OmegaConf.to_container(OmegaConf.load(path))):
            found.append(pytest.param(node, id=f"{path.relative_to(CONF)}:{node['_target_'].rpartition('.')[2]}"))
    return found


@pytest.mark.parametrize("node", all_targets())
def test_yaml_keys_are_the_constructors_arguments(node: dict[str, Any]) -> None:
    name = node["_target_"]
    if not name.startswith("mbrl_lab."):
        pytest.skip("hydra's own")
    parameters = arguments(get_object(name))
    brought = set().union(*(words for prefix, words in AT_RUN_TIME.items() if name.startswith(prefix)))
    named = {k for k, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - brought
    keys = {k for k in node if not (k.startswith("_") and k.endswith("_"))} - {"defaults"}
    open_ended = len(parameters) > len(named | brought & set(parameters))
    assert named <= keys if open_ended else named == keys
    waits = bool(brought & set(parameters)) or open_ended
    assert bool(node.get("_partial_")) >= waits, f"{name} is built before its {brought} are there"


@pytest.mark.parametrize("env", ENVS)
def test_every_environment_runs(env: str, tmp_path: Path) -> None:
    for package in EXTRA.get(env, []):
        pytest.importorskip(package)
    words = [
        "debug=smoke",
        "video.final=0",
        "steps=20",
        "log_every=10",
        "eval.every=0",
        "replay.capacity=100",
        "env.num=2",
    ]
    short = [SHORT] if "make_gym" in (CONF / "env" / f"{env}.yaml").read_text() else []
    runner = make_run("random", env, *words, *short, *NEEDS.get(env, []), folder=tmp_path)
    runner.run()
    runner.envs.close()
    last = json.loads(runner.folder.metrics.read_text().splitlines()[-1])
    assert last["step"] == 20 and last["frames"] == 20 * runner.envs.frame_skip
    vectors = {True: "discrete", False: "continuous"}[runner.envs.spec.discrete]
    assert family_of(env) in (vectors, "pixels", "grid")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_holds_what_can_be(experiment: str) -> None:
    check(compose_config([f"experiment={experiment}"]))


OF_IMAGES = {"frames": ["env=breakout"], "grid": ["env=minatar_breakout"]}
"""What can be built for its own family alone."""


def test_all_groups_and_options_compose_and_build(tmp_path: Path) -> None:
    for group in ("dynamics", "planner", "logger", "runtime"):
        for option in sorted(path.stem for path in (CONF / group).glob("*.yaml")):
            cfg = compose_config([f"{group}={option}", *OF_IMAGES.get(option, [])])
            check(cfg)
            build_runner(cfg, RunFolder(tmp_path)).envs.close()


def test_a_config_composes_while_hydra_runs_a_command() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose_config(["algo=random"]).algo._target_ == "mbrl_lab.algo.Random"
        assert GlobalHydra.instance().is_initialized(), "Hydra has its own back"


def test_several_loggers_compose() -> None:
    assert set(compose_config(["logger=[jsonl,tensorboard,wandb]"]).logger) == {"jsonl", "tensorboard", "wandb"}


@pytest.fixture(scope="module")
def every_config() -> list[DictConfig]:
    configs = [compose_config(smoke(recipe)) for recipe in RECIPES] + [
        compose_config(["planner=icem"]),
        compose_config(["value=ddqn"]),
        compose_config(["algo=ddqn", "env=breakout", "encoder=impala"]),
        compose_config(["env=gym", "env.id=CartPole-v1"]),
        compose_config(["algo=sac", "env=dmc"]),
        compose_config(["algo=sac", "env=pendulum", "policy=crossq"]),
        compose_config(["algo=mbpo", "env=pendulum", "policy=svg"]),
        compose_config(["launcher=parallel"]),
        compose_config(["launcher=slurm"]),
    ]
    for cfg in configs:
        check(cfg)
    return sorted(configs, key=lambda cfg: len(OmegaConf.to_yaml(cfg)))  # the small ones are the quickest to check


MAY_BE_NEGATIVE = {"policy.head.v_min", "policy.head.v_max", "env.score.random", "env.score.human", "env.threshold"}


ALLOWED = [("algo.real_ratio", None), ("policy.critic.target_subset", None), ("dynamics.optim.weight_decay", [1])]
ALLOWED += [(f"launcher.{key}", None) for key in ("workers", "memory_gb", "cpus")]
ALLOWED += [("init_from", "banana"), ("init_from", None), ("init_checkpoint", "banana"), ("init_parts", None)]
ALLOWED += [("replay.init", "banana"), ("replay.init", None)]
ALLOWED += [("env.task", "banana"), *((f"env.{key}", None) for key in ("max_steps", "action_bound", "resize"))]
"""What most settings cannot be, and some can."""


def holder(configs: list[DictConfig], key: str) -> DictConfig:
    """A fresh copy of a config that has the setting."""
    parent, _, leaf = key.rpartition(".")
    for cfg in configs:
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if isinstance(node, DictConfig) and leaf in node:
            return copy.deepcopy(cfg)
    raise AssertionError(f"no config has {key}: its rule guards nothing")


@pytest.mark.parametrize("key", sorted(RULES))
def test_every_rule_guards_a_setting_that_exists(key: str, every_config: list[DictConfig]) -> None:
    cfg = holder(every_config, key)
    wrongs = ("banana", None, -float("inf") if key in MAY_BE_NEGATIVE else -1, [1], [-1], float("nan"))
    for k, wrong in enumerate(w for w in wrongs if (key, w) not in ALLOWED):
        OmegaConf.update(cfg, key, wrong, force_add=True)
        with pytest.raises(ConfigError) as caught:
            check_rules(cfg) if k else check(cfg)  # the first of them with all that is looked at before
        said = str(caught.value)
        assert said.startswith(f"{key} is {wrong!r}; it must be "), said


def numbers(node: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys of numbers and booleans."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            yield f"{prefix}{key}"


def test_every_number_is_guarded(every_config: list[DictConfig]) -> None:
    """By a rule of its own, by that of what takes it from env.termination, by the planner, or by env.make."""
    found = {k for cfg in every_config for k in numbers(OmegaConf.to_container(cfg, resolve=True))}
    within = (
        "algo.planner.",
        "algo.dynamics.",
        "algo.policy.",
        "algo.value.",
        "value.policy.",
        "policy.encoder.",
        "dynamics.encoder.",
        "env.actions",
        "planner.",
        "logger.",
        "env.termination.",
        "env.make.",
        "env.make_vector.",
    )
    unguarded = {k for k in found if k not in RULES and not k.startswith(within) and not k.endswith("_partial_")}
    assert not unguarded


def test_renamed_settings_exist_under_their_new_names_only(every_config: list[DictConfig]) -> None:
    """tests/test_renamed.py holds what is answered."""
    configs: list[Any] = [OmegaConf.to_container(cfg) for cfg in every_config]
    known = {key for config in configs for key, _, _ in renamed.entries(config)}
    files = {f"{file.parent.relative_to(CONF).as_posix()}={file.stem}" for file in CONF.rglob("*.yaml")}
    assert not set(renamed.KEYS.values()) - known - files
    assert not {*renamed.KEYS, *renamed.GONE} & files
    assert not [answer for config in configs if (answer := renamed.answer_config(config))]
    for old, new in renamed.TARGETS.items():
        assert not renamed.exists(old) and renamed.exists(new), (old, new)


def test_the_plain_python_way(tmp_path: Path) -> None:
    words = ["debug=smoke", "planner.population=16", "video.final=0", "eval.final_episodes=2", "eval.every=0"]
    runner = make_run("mpc", "cartpole", *words, folder=tmp_path / "mine", steps=150, seed=3)
    assert (runner.schedule.steps, runner.seed) == (150, 3)
    runner.run()
    runner.envs.close()
    assert (tmp_path / "mine" / "overrides.txt").read_text().split()[:3] == ["algo=mpc", "env=cartpole", "debug=smoke"]
    with pytest.raises(RunRefused, match="is done: load_run reads it"):
        make_run("mpc", "cartpole", *words, folder=tmp_path / "mine", steps=150, seed=3)

    loaded = load_run(tmp_path / "mine")
    assert loaded.steps == 150 and len(loaded.replay) == 0
    saved, read = module_state(runner.algo)["weights"], module_state(loaded.algo)["weights"]
    assert saved and all(torch.equal(x, read[name]) for name, x in saved.items())
    once, twice = loaded.evaluate(episodes=2), runner.evaluate(episodes=2)
    assert [(e.seed, e.ret, e.actions.tolist()) for e in once] == [(e.seed, e.ret, e.actions.tolist()) for e in twice]
    last = json.loads((tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["final/return"] == (once[0].ret + once[1].ret) / 2
    for r in (loaded, runner):
        r.envs.close()


def test_load_run_reads_the_best_or_a_folder(tmp_path: Path) -> None:
    runner = make_run("random", "cartpole", "debug=smoke", "video.final=0", folder=tmp_path)
    runner.run()
    assert load_run(tmp_path, "best").steps == 200
    assert load_run(tmp_path, str(tmp_path / "checkpoints" / "last")).steps == 300
    with pytest.raises(ConfigError, match="holds no checkpoint"):
        load_run(tmp_path, "bets")
    with pytest.raises(ConfigError, match="holds no run"):
        load_run(tmp_path / "elsewhere")


def test_seeds_decide_everything(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> dict[str, Any]:
        runner = make_run("mpc", "cartpole", folder=tmp_path / name, seed=seed)
        return {k: x.clone() for k, x in module_state(runner.algo)["weights"].items()}

    a, b, c = weights("a", 0), weights("b", 0), weights("c", 1)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_building_leaves_the_config_as_it_was() -> None:
    cfg = compose_config(["env=pendulum"])
    before = OmegaConf.to_yaml(cfg)
    algo: Any = build_runner(cfg, RunFolder("/nowhere")).algo
    assert OmegaConf.to_yaml(cfg) == before
    held = [v for module in algo.modules() for v in vars(module).values()]
    assert not any(isinstance(v, DictConfig | ListConfig) for v in held), "a part holds a piece of the config"


def test_a_run_can_wait_for_every_number_of_an_evaluation() -> None:
    numbers = statistics([Episode(0, 0, 0, 1.0, 1, np.zeros(1))], Reference(0.0, 2.0))
    assert set(numbers) == {*EVALUATED, "hns"}
    for name in numbers:
        check(compose_config([f"stop.metric=eval/{name}", "stop.target=1", "+env.score={random: 1.7, human: 30.5}"]))


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_other_setting_follows_the_number_of_steps(recipe: str) -> None:
    """So that a run that is done goes further by `steps` alone."""
    cfg = compose_config(smoke(recipe))
    one, other = (OmegaConf.to_container(OmegaConf.merge(cfg, {"steps": n}), resolve=True) for n in (300, 400))
    assert isinstance(one, dict) and isinstance(other, dict)
    assert one | {"steps": 0} == other | {"steps": 0}


@pytest.mark.parametrize(
    "words",
    [
        "algo=mpc env=breakout",
        "algo=mpc env=cheetah",
        "algo=mpc env=pendulum planner=icem dynamics=rssm_xs",
        "algo=mbpo env=breakout",
        "algo=sac env=pendulum policy=crossq",
        "algo=mbpo env=pendulum policy=crossq",
        "experiment=planet_cartpole",
        "experiment=reference_cartpole",
        "experiment=reference_breakout",
        "experiment=reference_spaceinvaders",
    ],
)
def test_smoke_leaves_nothing_that_takes_minutes(words: str) -> None:
    """The size of a plan does not depend on the machine; benchmarks/smoke.py counts processor seconds."""
    cfg = compose_config([*words.split(), "debug=smoke"])
    check(cfg)
    if "planner" in cfg:
        steps = cfg.planner.population * cfg.planner.horizon * cfg.planner.get("iterations", 1)
        assert steps <= 500 and (cfg.planner.get("elites") or 1) <= cfg.planner.population
    if "policy=crossq" in words:
        assert (cfg.policy.width, cfg.policy.critic.width) == (32, 32)
    if words == "algo=mpc env=cheetah":  # each step of two evaluations is planned in five networks of four layers
        assert cfg.env.make.max_episode_steps == 200
    if cfg.family.name == "pixels":
        assert cfg.dynamics.width == 8 and cfg.dynamics.depth == 1


def test_planets_batches_are_counted_in_windows() -> None:
    """They once were counted in steps, and 512 windows of 32 steps took minutes where 16 take seconds."""
    dynamics = compose_config(["experiment=planet_cartpole"]).dynamics
    assert dynamics.trainer.batch * dynamics.length == 512
