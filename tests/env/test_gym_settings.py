"""Settings of env=gym: limits, skipped frames, images, actions, and the family that an environment belongs to."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from odd_envs import CASES, GOAL, WHOLE, Case, Odd, acts, obs
from omegaconf import OmegaConf

from mbrl_lab.app import make_run
from mbrl_lab.cli import train as cli_train
from mbrl_lab.config import ConfigError, build, check, compose_config, with_family
from mbrl_lab.dynamics.frames import FrameModel as FramesModel
from mbrl_lab.dynamics.grid import GridModel
from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.env import Envs, make_gym, make_gym_with
from mbrl_lab.env.envs import taken_actions
from mbrl_lab.env.gym import FrameSkip, warn_endless
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec

pytestmark = pytest.mark.usefixtures("forgotten")


@pytest.fixture
def known() -> dict[str, str]:
    """The ids of all odd environments, by name."""
    return {case.name: case.register() for case in CASES}


def envs_of(made_of: dict[str, Any], num: int = 2, **wrap: Any) -> Envs:
    return Envs(partial(make_gym_with, Case("Tried", made_of).register(), wrap), num, seed=0)


def played(envs: Envs, actions: list[Any]) -> list[Any]:
    return [envs.reset(), *(envs.step(torch.as_tensor(action)) for action in actions)]


# ---- limits and skipped frames


def test_max_steps_cuts_episodes_and_is_not_terminal() -> None:
    envs = Envs(partial(make_gym_with, "Pendulum-v1", {"max_steps": 3}), 1, seed=0)
    rows = played(envs, [np.zeros((1, 1), np.float32)] * 9)
    assert [bool(row.first) for row in rows] == [k % 4 == 0 for k in range(10)]
    assert not any(row.terminal for row in rows)
    assert [e.truncated for e in envs.finished()] == [True, True]


def test_max_steps_may_be_longer_than_the_limit_that_was_there() -> None:
    env = make_gym_with("Pendulum-v1", {"max_steps": 230})
    env.reset(seed=0)
    ends = [any(env.step(np.zeros(1, np.float32))[2:4]) for _ in range(230)]
    assert ends.index(True) == 229


def test_skipped_frames_are_played_and_their_rewards_added() -> None:
    once, twice = (make_gym_with("CartPole-v1", {"frame_skip": n}) for n in (1, 2))
    once.reset(seed=3), twice.reset(seed=3)
    for action in (0, 1, 1):
        once.step(action)
        single = once.step(action)
        double = twice.step(action)
        np.testing.assert_array_equal(single[0], double[0])
        assert double[1] == 2


def test_skipping_stops_where_the_episode_does() -> None:
    env = make_gym_with(Case("Five", {}).register(), {"frame_skip": 3})
    env.reset(seed=0)
    assert [env.step(0)[1:3] for _ in range(2)] == [(3.0, False), (2.0, True)]


def test_frames_are_not_counted_where_nobody_skips_them() -> None:
    for env in ("cartpole", "minatar_breakout", "reacher_cs285"):
        with pytest.raises(ConfigError, match=r"env\.frame_skip is 2; this environment takes each action once"):
            check(compose_config([f"env={env}", "algo=random", "env.frame_skip=2"]))
    for words in (["env=breakout"], ["env=gym", "env.id=CartPole-v1"]):
        check(compose_config([*words, "algo=random", "env.frame_skip=2"]))


def test_one_warning_where_nothing_limits_an_episode(caplog: pytest.LogCaptureFixture) -> None:
    warn_endless.cache_clear()
    id = Case("Unlimited", {}).register()
    for _ in range(3):
        make_gym(id)
        make_gym_with(id, {"max_steps": 10})
        make_gym("CartPole-v1")
    (record,) = caplog.records
    assert record.getMessage().startswith("Unlimited-v0 has no time limit")
    assert record.getMessage().endswith("for a run in a new folder: one that has begun keeps its settings")


MINE = """
import gymnasium
class Env(gymnasium.Env): pass
gymnasium.register("Mine-v0", entry_point=f"{__name__}:Env")
gymnasium.register("Mine-v1", entry_point=Env)
gymnasium.register("Elsewhere-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
"""


def test_an_unknown_id_of_a_module_lists_what_that_registers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    (tmp_path / "ids_of_mine.py").write_text(MINE)
    (tmp_path / "ids_of_nobody.py").write_text("")
    with pytest.raises(
        ValueError, match=r"ids_of_mine registers no Nope-v0; it registers Elsewhere-v0, Mine-v0, Mine-v1$"
    ):
        make_gym("ids_of_mine:Nope-v0")
    with pytest.raises(ValueError, match="ids_of_nobody registers no Nope-v0; it registers none"):
        make_gym("ids_of_nobody:Nope-v0")
    with pytest.raises(ValueError, match="No module named"):
        make_gym("ids_of_no_module:X-v0")


def test_an_unknown_id_shows_the_spelling_for_a_users_module() -> None:
    with pytest.raises(ValueError, match=r"has no environment of this name\. An id that .* is my_module:NoRender-v0$"):
        make_gym("NoRender-v0")
    with pytest.raises(ValueError, match=r"did you mean CartPole-v1\? An id that .* my_module:CartPol-v1$"):
        make_gym("CartPol-v1")


# ---- what is passed on


def test_arguments_arrive_as_plain_dicts_and_lists() -> None:
    node = OmegaConf.create({"_target_": "builtins.dict", "config": {"a": {"b": [1, {"c": 2}]}}})
    made = build(node)["config"]
    assert (type(made), type(made["a"]), type(made["a"]["b"]), type(made["a"]["b"][1])) == (dict, dict, list, dict)


class Ours(Odd):
    """Takes action 1 whatever it is sent, and loses a life at every second step."""

    trusted_infos = ("action", "life_lost")

    def info(self, action: Any) -> Any:
        return {"action": 1, "life_lost": self.time % 2 == 0, "path": np.zeros(self.time)} if action is not None else {}


def test_infos_of_an_environment_that_declares_them_are_read() -> None:
    envs = Envs(Ours, 2, seed=0)
    rows = played(envs, [[0, 0]] * 3)
    assert [row.action.tolist() for row in rows[1:]] == [[1, 1]] * 3
    assert [row.terminal.tolist() for row in rows[1:]] == [[False] * 2, [True] * 2, [False] * 2]


def test_a_process_for_each_sends_no_infos_and_errors_of_one_line(known: dict[str, str]) -> None:
    envs = Envs(partial(make_gym, known["InfoRagged"]), 2, seed=0, asynchronous=True)
    played(envs, [[0, 1]] * 3)
    envs.close()
    envs = Envs(partial(make_gym, known["StepRaises"]), 2, seed=0, asynchronous=True)
    envs.reset()
    try:
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="step raised KeyError: 'goal'"):
            envs.step(torch.zeros(2, dtype=torch.int64))
    finally:
        envs.close()


def test_steps_do_not_change_with_an_array_that_is_written_into(known: dict[str, str]) -> None:
    envs = Envs(partial(make_gym, known["Reused"]), 1, seed=0)
    assert [row.obs[0, 0].item() for row in played(envs, [[0]] * 3)] == [0, 1, 2, 3]


# ---- actions


def taken(space: gymnasium.Space, action: Any, **wrap: Any) -> Any:
    """What reaches the environment."""
    seen: list[Any] = []
    made_of = acts(space) | {"info": lambda self, action: seen.append(action) or {}}
    env = make_gym_with(Case("Watched", made_of).register(), wrap)
    env.reset(seed=0)
    env.step(action)
    return seen[-1]


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (Discrete(3, start=5), 2, 7),
        (Box(0, 2, (1,), np.int64), [-1.0], [0]),
        (Box(0, 2, (1,), np.int64), [-0.34], [0]),
        (Box(0, 2, (1,), np.int64), [-0.33], [1]),
        (Box(0, 2, (1,), np.int64), [0.34], [2]),
        (Box(0, 2, (1,), np.int64), [1.0], [2]),
        (Box(np.float32([0, 1]), np.float32([4, 1])), [0.5, -0.5], [3, 1]),
        (Box(-2, 6, (2, 2), np.float32), [-1.0, -0.5, 0.5, 1.0], [[-2, 0], [4, 6]]),
        (Box(0, np.inf, (1,), np.float32), [0.5], [1.5]),
        (Box(-np.inf, np.inf, (1,), np.float64), [3.0], [2]),
    ],
)
def test_an_action_becomes_one_of_the_environments_own(space: gymnasium.Space, action: Any, expected: Any) -> None:
    sent = action if isinstance(action, int) else np.array(action, np.float32)
    got = taken(space, sent, action_bound=2.0)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.asarray(got).dtype == space.dtype


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_action_that_is_not_finite_reaches_an_environment(value: float) -> None:
    envs = Envs(partial(make_gym, "Pendulum-v1"), 2, seed=0)
    envs.reset()
    with pytest.raises(FloatingPointError, match=r"the agent's action \[.*\] is not finite at step 0, environment 1"):
        envs.step(torch.tensor([[0.0], [value]]))


def test_actions_of_another_maker_must_be_in_range() -> None:
    with pytest.raises(ValueError, match=r"must be \[-1, 1\], this is Box\(-2.*RescaleAction"):
        Envs(partial(gymnasium.make, "Pendulum-v1"), 1, seed=0)


# ---- images


def test_grey_frames_are_kept_once_and_stacked_again() -> None:
    envs = envs_of(obs(WHOLE), grayscale=True, frame_stack=3)
    assert (envs.spec.obs_shape, envs.spec.stack) == ((3, 40, 36), 3)
    replay = Replay(envs.spec, 100, 2, seed=0)
    rows = played(envs, [[0, 1]] * 13)
    for row in rows:
        replay.add(row)
    assert replay.store.obs.shape[2:] == (40, 36)
    assert torch.equal(replay.latest(14).obs, torch.stack([row.obs for row in rows]))
    assert not rows[0].obs[:, :2].any() and rows[2].obs[:, 0].any()


def test_channels_are_put_first_and_pixels_stay_in_their_place() -> None:
    image = np.arange(2 * 40 * 36 * 3).reshape(2, 40, 36, 3).astype(np.uint8)
    envs = envs_of(obs(Box(0, 255, (2, 40, 36, 3), np.uint8), image))
    got = envs.reset().obs[0].numpy()
    assert (got[4] == image[1, :, :, 1]).all() and (got[0] == image[0, :, :, 0]).all()


def test_floats_become_bytes_from_the_lowest_to_the_highest() -> None:
    image = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
    envs = envs_of(obs(Box(-1, 1, (4, 4), np.float32), image), to_bytes=True)
    assert envs.reset().obs[0, 0].flatten().tolist() == [17 * k for k in range(16)]


@pytest.mark.parametrize("grayscale", [False, True])
def test_images_are_resized(grayscale: bool) -> None:
    pytest.importorskip("cv2")
    envs = envs_of(obs(WHOLE, np.full((40, 36, 3), 7, np.uint8)), resize=[84, 80], grayscale=grayscale)
    assert envs.spec.obs_shape == (1 if grayscale else 3, 84, 80)
    assert abs(envs.reset().obs.int() - 7).max() <= 1


def test_resizing_without_opencv_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"env.resize needs OpenCV: pip install 'mbrl_lab\[resize\]'"):
        envs_of(obs(WHOLE), resize=[84, 84])


def test_advice_on_models_of_images_does_not_lead_in_a_circle() -> None:
    colour, settings = EnvSpec((3, 64, 48), torch.uint8, 4, True), {"members": 1, "history": 4, "unroll": 1}
    rest: dict[str, Any] = {"width": 8, "depth": 1, "optim": Optim(1e-3, 0.0), "trainer": None}
    with pytest.raises(ValueError, match="not 3 channels: algo=dreamer"):
        FramesModel(colour, **settings, patch=4, target="levels", **rest)
    with pytest.raises(ValueError, match="not images of 64 x 48: algo=dreamer"):
        GridModel(colour, **settings, **rest)


# ---- the family


@pytest.mark.parametrize(
    ("name", "family"),
    [("Half", "discrete"), ("IntegerBox", "continuous"), ("ChannelsLast", "pixels"), ("Cells", "grid")],
)
def test_the_family_is_found_by_the_spaces(name: str, family: str, known: dict[str, str]) -> None:
    cfg = compose_config(["env=gym", f"env.id={known[name]}", "algo=random"])
    assert cfg.family.name == family


def test_settings_of_the_environment_count_when_it_is_looked_at(known: dict[str, str]) -> None:
    words = ["env=gym", f"env.id={known['Goal']}"]
    with pytest.raises(ValueError, match=r"env\.flatten=true makes a vector"):
        with_family(words)
    assert with_family([*words, "env.flatten=true"])[0][-1] == "family=discrete"
    with pytest.raises(ConfigError, match=r"env.max_steps is 0; it must be null or a whole number from 1"):
        with_family([*words, "env.max_steps=0"])


def test_a_family_that_was_given_stands_and_other_environments_are_left_alone() -> None:
    for words in (["env=gym", "env.id=nonsense", "family=pixels"], ["env=cartpole"], ["env=gym"], []):
        assert with_family(words) == (words, "")


def test_a_sweep_over_environments_of_one_family(known: dict[str, str]) -> None:
    same_family = ["env=gym", f"env.id={known['Half']},CartPole-v1", "seed=0,1"]
    assert with_family(same_family)[0] == [*same_family, "family=discrete"]
    with pytest.raises(ConfigError, match=r"several families \(discrete, pixels\)"):
        with_family(["env=gym", f"env.id={known['Half']},{known['ChannelsLast']}"])


def test_the_command_line_shows_the_spaces(
    known: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "env=gym", f"env.id={known['IntegerBox']}"])
    monkeypatch.setattr(cli_train, "hydra_main", lambda: None)
    cli_train.main()
    assert sys.argv[3] == "family=continuous"
    assert capsys.readouterr().err == "family=continuous: observations [2] float32, actions [1]\n"
    monkeypatch.setattr(sys, "argv", ["train.py", "env=gym", f"env.id={known['InitRaises']}"])
    with pytest.raises(SystemExit):
        cli_train.main()
    assert "making it raised OSError: no licence" in capsys.readouterr().err


# ---- runs


def test_a_run_with_all_of_it_resumes_exactly(tmp_path: Path) -> None:
    id = Case("Whole", obs(GOAL) | acts(Box(0, 10, (2,), np.int64))).register()
    settings = {"env.id": id, "env.flatten": True, "env.frame_skip": 2, "env.max_steps": 2, "env.frame_stack": 2}
    words = ["debug=smoke", "video.final=0", "eval.every=0", "checkpoint.every=11", "log_every=5"]

    def run(folder: str, steps: int) -> list[str]:
        runner = make_run("random", "gym", *words, folder=tmp_path / folder, steps=steps, **settings)
        runner.run()
        runner.envs.close()
        return runner.folder.path.joinpath("episodes.jsonl").read_text().splitlines()

    run("stopped", 11)
    assert [x for x in run("stopped", 29) if "train" in x] == [x for x in run("whole", 29) if "train" in x]


def test_copies_that_differ_are_rejected(tmp_path: Path, known: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"env\.make builds differ in their spaces"):
        runner = make_run("random", "gym", "debug=smoke", folder=tmp_path, **{"env.id": known["OwnLength"]})
        runner.run()


class LosesALifeFirst(Ours):
    """Loses a life in the first of two steps that are taken as one, and tells its action now and then."""

    def info(self, action: Any) -> Any:
        return {"life_lost": self.time == 1} | ({"action": 1} if self.time == 2 else {})


def test_a_life_lost_in_a_skipped_frame_counts() -> None:
    env = FrameSkip(LosesALifeFirst(), 2)
    env.reset(seed=0)
    assert env.step(0)[4]["life_lost"]
    assert not env.step(0)[4]["life_lost"]


def test_actions_are_those_reported_or_else_those_sent() -> None:
    info = {"action": np.array([0, 1, 0]), "_action": np.array([False, True, False])}
    assert taken_actions(info, np.array([3, 3, 3])).tolist() == [3, 1, 3]
    assert taken_actions({"action": np.array([5, 6])}, np.array([3, 3])).tolist() == [5, 6]
    info = {"action": np.ones((2, 1)), "_action": np.array([False, True])}
    assert taken_actions(info, np.zeros((2, 1))).tolist() == [[0], [1]]
