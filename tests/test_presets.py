"""Tuned values apply to the part that they were tuned for, and a run's length does not depend on its parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from mbrl_lab.app import build_runner
from mbrl_lab.config import CONF, ConfigError, check, compose_config, presets
from mbrl_lab.config.presets import Files, View
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import flatten, plain

BUDGET = {"steps", "log_every", "eval", "checkpoint", "replay", "env"}
"""Of `env` the number of environments."""


def budget_of(cfg: DictConfig) -> dict[str, object]:
    """All that a budget may set."""
    return {"num": cfg.env.num, **{key: cfg[key] for key in sorted(BUDGET - {"env"})}}


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("algo=mpc env=cartpole", "preset=none"),
        ("algo=mpc env=cartpole", "dynamics=rssm_xs planner=cem"),
        ("algo=mbpo env=breakout", "policy=sac"),
        ("algo=mbpo env=breakout preset=mbpo_small_breakout", "policy=ppo dynamics=rssm_xs"),
        ("algo=dreamer env=cartpole", "preset=none dynamics=rssm_s"),
        ("algo=ddqn env=minatar_breakout", "preset=sac_pendulum budget=ddqn_minatar_breakout policy=sac"),
    ],
)
def test_a_swapped_part_leaves_the_budget_as_it_is(pair: str, words: str) -> None:
    assert budget_of(compose_config([*pair.split(), *words.split()])) == budget_of(compose_config(pair.split()))


def test_budgets_can_be_chosen() -> None:
    assert compose_config(["algo=mbpo", "env=breakout", "budget=mbpo_small_breakout"]).steps == 15_000
    assert compose_config(["env=cartpole", "budget=none"]).steps == compose_config(["env=acrobot"]).steps == 100_000
    with pytest.raises(ConfigError, match=r"^budget=mpc_cartpol does not exist; did you mean mpc_cartpole\?"):
        compose_config(["budget=mpc_cartpol"])


@pytest.mark.parametrize(
    ("words", "applies", "leaves"),
    [
        ("algo=dreamer env=cartpole", {"dynamics.optim.anneal_updates": 2_675, "policy.optim.actor_tau": 0.002}, {}),
        ("algo=dreamer env=cartpole dynamics=rssm_xs", {"policy.width": 64}, {"dynamics.optim.anneal_updates": 0}),
        ("algo=mpc env=pendulum planner=icem", {"planner.horizon": 20}, {}),
        ("algo=mbpo env=cheetah policy=ppo", {"dynamics.members": 7, "algo.update.batch": 200}, {"policy.width": 64}),
        ("algo=mbpo env=cheetah dynamics=latent", {"policy.temperature.target_entropy": -3}, {"dynamics.width": 64}),
        ("algo=mbpo env=breakout policy=sac", {"policy.width": 512, "dynamics.depth": 3}, {"algo.update.batch": 256}),
    ],
)  # fmt: skip
def test_tuned_values_follow_their_part(words: str, applies: dict[str, object], leaves: dict[str, object]) -> None:
    cfg = compose_config(words.split())
    assert {key: OmegaConf.select(cfg, key) for key in applies | leaves} == applies | leaves


@pytest.mark.parametrize("game", ["asterix", "breakout", "freeway", "seaquest", "spaceinvaders"])
def test_minatar_games_share_their_tuned_values(game: str) -> None:
    # Breakout alone shows all of its state in two grids.
    few = game == "breakout"
    expected: dict[str, dict[str, object]] = {
        "ddqn": {"policy.target.every": 125, "algo.update.every": 8, "steps": 1_000_000},
        "ppo": {"policy.optim.anneal_updates": 244, "env.num": 32, "steps": 1_000_000},
        "dreamer": {"policy.optim.anneal_updates": 6_125, "algo.update.every": 16, "steps": 100_000},
        "mbpo": {
            "dynamics.history": 2 if few else 12,
            "algo.update.number": 16 if few else 4,
            "dynamics.members": 2,
            "steps": 50_000,
        },
    }
    for algo, values in expected.items():
        cfg = compose_config([f"algo={algo}", f"env=minatar_{game}"])
        assert {key: OmegaConf.select(cfg, key) for key in values} == values


def test_models_of_space_invaders_see_the_march() -> None:
    """Aliens move every eight steps or so: four frames do not show when."""
    small = compose_config(["algo=mbpo", "env=spaceinvaders", "preset=mbpo_small_spaceinvaders"])
    assert (small.dynamics.history, small.dynamics.members, small.steps) == (12, 2, 15_000)
    assert compose_config(["algo=mbpo", "env=spaceinvaders"]).dynamics.history == 12
    assert compose_config(["algo=mbpo", "env=breakout", "preset=mbpo_small_breakout"]).dynamics.history == 4


@pytest.mark.parametrize(
    "words",
    ["env=breakout policy=sac", "env=spaceinvaders policy=ppo", "env=cheetah policy=ppo", "env=pendulum policy=ppo"],
)
def test_policies_of_mbpo_need_no_other_word(words: str) -> None:
    cfg = compose_config(["algo=mbpo", *words.split(), "env.num=1", "replay.capacity=6000"])
    check(cfg)
    build_runner(cfg, RunFolder("/nowhere")).envs.close()


def test_a_later_layer_wins_over_tuned_values(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nplanner:\n  horizon: 7\n")
    (tmp_path / "experiment" / "plain.yaml").write_text("# @package _global_\ndefaults:\n  - override /preset: null\n")
    assert compose_config(["experiment=plain"], tmp_path).planner.horizon == 15
    assert compose_config(["experiment=mine"], tmp_path).planner.horizon == 7
    assert compose_config(["experiment=mine", "planner.horizon=8"], tmp_path).planner.horizon == 8


OWN = """
defaults: [mpc_cartpole]
budget:
  steps: 777
algo:
  every: 33
planner=cem|icem:
  planner: {horizon: 9}
"""


def test_a_preset_of_ones_own(tmp_path: Path) -> None:
    """It stands in another folder, inherits from one of ours, and has sections too."""
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "mine.yaml").write_text(OWN)
    chosen, other, none = (
        compose_config(["preset=mine", *w], tmp_path) for w in (["planner=icem"], [], ["preset=none"])
    )
    assert (chosen.steps, chosen.algo.every, chosen.planner.horizon, chosen.planner.population) == (777, 33, 9, 256)
    assert (other.steps, other.planner.horizon) == (777, 40)
    assert (none.steps, none.algo.every) == (2_500, 50)
    assert compose_config([]).steps == 2_500, "another folder's presets are forgotten"
    with pytest.raises(ConfigError, match="preset=mine does not exist"):
        compose_config(["preset=mine"])


def test_views_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "preset").mkdir()
    files, path = Files(tmp_path), tmp_path / "preset" / "a.yaml"
    path.write_text("x: 1\nbudget: {steps: 5}\npolicy=ddqn|sac:\n  policy: {lr: 1}\n")
    (tmp_path / "preset" / "b.yaml").write_text("defaults: [a]\npolicy=sac:\n  policy: {lr: 2}\n")
    assert files.view("preset/a") == View([path], None) and files.load(View([path], None)) == {"x": 1}
    sac, ddqn, budget = (
        files.view(f"{p}") for p in ("sections/preset/policy/b/sac", "sections/preset/policy/b/ddqn", "budget/b")
    )
    assert sac and ddqn and budget
    assert files.load(sac) == {"policy": {"lr": 2}} and files.load(ddqn) == {"policy": {"lr": 1}}
    assert files.load(budget) == {"steps": 5}
    assert files.view("budget/b/none") == budget == files.view("budget/a/b")
    for nothing in ("preset/c", "sections/preset/policy/b/ppo", "budget/c/none", "env/cartpole", "sections/preset"):
        assert files.view(nothing) is None


SECTIONED = [path for group in presets.GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


@pytest.mark.parametrize("path", SECTIONED, ids=lambda path: path.stem)
def test_sections_say_what_they_can(path: Path) -> None:
    """A section is for options that exist, sets what these have, and nothing that the file sets anyway."""
    own = flatten(plain(OmegaConf.to_container(Files(CONF).load(View([path], None)))))
    algos = [known_keys(CONF / "algo" / f"{algo}.yaml") for algo in algos_of(path)]
    for name, section in presets.sections(presets.read(path)).items():
        keys = set(flatten(plain(OmegaConf.to_container(section))))
        assert not keys & set(own), name
        if name == "budget":
            assert {key.partition(".")[0] for key in keys} <= BUDGET and not keys & {"env.frame_skip"}
            continue
        group, _, option = name.partition("=")
        known = known_keys(CONF / group / f"{option}.yaml")
        bases = {group: known, "algo": set.intersection(*algos), "encoder": {"hidden"}}
        for key in keys:
            head, _, rest = key.partition(".")
            assert rest.partition(".")[0] in bases[head], f"{name}: {key}"


def algos_of(path: Path) -> set[str]:
    """The algorithms of a file: its own, or of a file that belongs to none those of its variations."""
    algo = path.stem.removeprefix("smoke_").partition("_")[0]
    if (CONF / "algo" / f"{algo}.yaml").is_file():
        return {algo}
    variations = [p for p in path.parent.glob("*.yaml") if path.stem in presets.read(p).get("defaults", [])]
    return {p.stem.partition("_")[0] for p in variations}


def known_keys(path: Path) -> set[str]:
    """The settings of a part, those of the file that it is a variation of included."""
    content = presets.read(path)
    names = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    bases = [known_keys(path.with_stem(name)) for name in names]
    return set(content) - {"defaults"} | set().union(*bases)


def test_a_pairs_preset_is_of_a_pair() -> None:
    """Every file is a pair's, or one that others are made from or a choice; none is left behind under another name."""
    algos, envs = ({path.stem for path in (CONF / group).glob("*.yaml")} for group in ("algo", "env"))
    pairs = {f"{algo}_{env}" for algo in algos for env in envs}
    bases = {"none", "ddqn_atari", "ppo_atari", "ppo_mujoco", "mbpo_atari", "mbpo_mujoco", "mpc_mujoco", "atari_100k"}
    bases |= {"mbpo_svg_mujoco"}
    others = {path.stem for path in (CONF / "preset").glob("*.yaml")} - pairs - bases
    names = ("fast_cheetah", "fast_inverted_pendulum", "small_breakout", "small_spaceinvaders")
    names += ("svg_cheetah", "svg_hopper", "svg_walker")
    assert others == {f"mbpo_{name}" for name in (*names, "atari_100k")} | {"ddqn_atari_100k"}


def test_atari_in_100k_steps_has_the_same_learner_with_a_model_and_without() -> None:
    without, with_model = (compose_config(["experiment=atari_100k", f"algo={algo}"]) for algo in ("ddqn", "mbpo"))
    assert without.policy == with_model.policy and without.algo["update"] == with_model.algo["update"]
    assert without.steps == with_model.steps == 100_000 and with_model.algo.real_ratio == 0.5
    assert with_model.algo.rollouts.adaptive
