"""Old names of settings and classes are answered with the new ones, wherever a user may have written them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mbrl_lab import load_run, make_run
from mbrl_lab.config import CONF, ConfigError, check, compose_config, renamed
from mbrl_lab.config.options import declared
from mbrl_lab.sweep.launch import wanted

QUICK = ("debug=smoke", "video.final=0", "steps=40", "algo.warmup=30", "policy.width=8", "eval.final_episodes=1")


def test_the_new_name_of_each_old_setting_is_one() -> None:
    known = {option.key for option in declared(CONF)} | {"dynamics.termination", "dynamics.trainer.objects"}
    known |= {"env.termination", "env.objects"}  # of single environments
    known |= {"policy.resets.n_step_start", "policy.resets.gamma_start"}  # their defaults are other settings
    assert not [new for new in renamed.KEYS.values() if not any(f"{key}.".startswith(f"{new}.") for key in known)]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("algo.updates=4", "algo.updates is now algo.update.number"),
        ("algo.batch=4", "algo.batch is gone: it is algo.update.batch; with algo=mpc dynamics.trainer.batch; ppo and "),
    ],
)
def test_settings_of_updates(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{said}"):
        check(compose_config(["algo=sac", "env=pendulum", word]))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("policy.n_step=3", "policy.n_step is now policy.target.n_step"),
        ("policy.random_shift=4", "policy.random_shift is now policy.optim.random_shift"),
        ("policy.target._target_=mbrl_lab.policy.ddqn.TargetNetwork", "which is now mbrl_lab.policy.ddqn.TDTarget"),
    ],
)
def test_settings_of_ddqn(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said}$"):
        check(compose_config(["algo=ddqn", "env=cartpole", word]))


def test_a_setting_that_a_class_hands_on_to_its_base_is_known_and_others_are_not() -> None:
    """SVG takes those of SAC by **."""
    words = ["algo=mbpo", "env=pendulum", "policy=svg"]
    check(compose_config([*words, "policy.tau=0.1"]))
    with pytest.raises(ConfigError, match=r"^policy\.clip is now policy\.optim\.clip$"):
        check(compose_config([*words, "+policy.clip=1"]))
    with pytest.raises(ConfigError, match=r"^policy\.std is 1, but policy=svg has no such setting$"):
        check(compose_config([*words, "+policy.std=1"]))


@pytest.mark.parametrize(
    ("model", "key", "answer"),
    [
        ("RSSM", "lr", "dynamics.lr is now dynamics.optim.lr"),
        ("GridModel", "clip", "dynamics.clip is now dynamics.optim.clip"),
        ("Ensemble", "elites", "dynamics.elites is now dynamics.imagination.elites"),
        ("Ensemble", "gaussian", "dynamics.gaussian is gone: it is dynamics.regression.gaussian of ensemble, "),
        ("Ensemble", "dropout", "dynamics.dropout is now dynamics.regression.dropout"),
        ("Ensemble", "reward_fn", "dynamics.reward_fn is now dynamics.known.reward_fn"),
        ("Analytic", "reward_fn", ""),
    ],
)
def test_every_checkpoint_with_old_names_of_weights_is_answered_by_its_settings(
    model: str, key: str, answer: str
) -> None:
    """Models of that time have one of these settings, and a config is read before the weights beside it."""
    config = {"dynamics": {"_target_": f"mbrl_lab.dynamics.{model}", key: 1}}
    assert (renamed.answer_config(config) or "").startswith(answer) and bool(renamed.answer_config(config)) == bool(
        answer
    )


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three renames of names that never were here, so that the real tables may be empty."""
    monkeypatch.setattr(
        renamed, "KEYS", {"policy.rate": "policy.optim.lr", "algo.old": "algo.update", "preset=yore": "preset=none"}
    )
    monkeypatch.setattr(renamed, "GONE", {"algo.luck": "the policy needs none"})
    monkeypatch.setitem(renamed.TARGETS, "mbrl_lab.policy.DeepQ", "mbrl_lab.policy.DDQN")


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("policy.rate=1", "policy.rate is now policy.optim.lr"),
        ("+policy.rate=1", "policy.rate is now policy.optim.lr"),
        ("algo.old.batch=1", "algo.old.batch is now algo.update.batch"),
        ("algo.luck=1", "algo.luck is gone: the policy needs none"),
        ("preset=yore", "preset=yore is now preset=none"),
        (
            "policy._target_=mbrl_lab.policy.DeepQ",
            "policy._target_ is mbrl_lab.policy.DeepQ, which is now mbrl_lab.policy.DDQN",
        ),
    ],
)
def test_an_old_word_on_the_command_line(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose_config(["algo=ddqn", word]))
    assert str(caught.value) == said


@pytest.mark.usefixtures("names")
def test_an_old_word_in_a_file_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\npolicy:\n  rate: 1\n")
    with pytest.raises(ConfigError, match=r"^policy\.rate is now policy\.optim\.lr$"):
        check(compose_config(["algo=ddqn", "experiment=mine"], tmp_path))


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("key", ["policy.rate", "policy._target_"])
def test_an_old_word_in_a_runs_folder(key: str, tmp_path: Path) -> None:
    """Whoever reads the folder refuses it: a resume, an evaluation, a warm start and a sweep."""
    make_run("ddqn", "cartpole", *QUICK, folder=tmp_path / "run").run()
    stored = tmp_path / "run" / "config.yaml"
    cfg = OmegaConf.load(stored)
    OmegaConf.update(cfg, key, "mbrl_lab.policy.DeepQ", force_add=True)
    OmegaConf.save(cfg, stored)

    wanted_cfg = compose_config(["algo=ddqn", "env=cartpole", *QUICK])
    readers: list[Any] = [
        lambda: make_run("ddqn", "cartpole", *QUICK, folder=tmp_path / "run"),
        lambda: load_run(tmp_path / "run"),
        lambda: make_run("ddqn", "cartpole", *QUICK, f"init_from={tmp_path / 'run'}", folder=tmp_path / "new"),
        lambda: wanted(tmp_path / "run", wanted_cfg, lambda key: None),
    ]
    new = {"policy.rate": "policy.optim.lr", "policy._target_": "mbrl_lab.policy.DDQN"}[key]
    for read in readers:
        with pytest.raises(ConfigError, match=rf"config\.yaml: {key} is .*now {new}; an older version wrote it$"):
            read()


@pytest.mark.usefixtures("names")
def test_a_class_may_keep_a_name_that_another_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renamed.KEYS, "policy.width", "policy.net.width")
    kept = {"_target_": "mbrl_lab.policy.DDQN", "width": 1}
    assert renamed.answer_config({"policy": kept}) is None
    gave_up = {"_target_": "mbrl_lab.algo.Random", "width": 1}
    assert renamed.answer_config({"policy": gave_up}) == "policy.width is now policy.net.width"
    assert renamed.answer_config({"policy": {"_target_": "mine.Policy", "width": 1}}) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=crossq", "policy.tau=0.1"], "it is a setting of policy=actor_critic, sac, svg;"),
        (["policy.clip=1"], "it is now policy.optim.clip, a setting of policy=actor_critic, ddqn, ppo, svg;"),
        (["policy.optim.clip=1"], "it is a setting of policy=actor_critic, ddqn, ppo, svg;"),
    ],
)
def test_a_setting_that_the_chosen_part_lacks_leads_to_the_parts_that_have_it(words: list[str], said: str) -> None:
    """`policy.tau` is `policy.target.tau` of DDQN, and nothing of CrossQ."""
    with pytest.raises(ConfigError) as error:
        check(compose_config(["algo=sac", "env=pendulum", *words]))
    assert str(error.value) == f"{words[-1]}: {said} the policy chosen here has none"
