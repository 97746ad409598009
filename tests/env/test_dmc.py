"""Tasks of the DeepMind Control suite: as dm_control plays them, and as functions of a seed and actions."""

from __future__ import annotations

import io
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from mbrl_lab.env import Envs
from mbrl_lab.env.dmc import LEFT_OUT, ControlTask, load_suite, make_dmc, tasks
from mbrl_lab.env.vector import warn_once
from mbrl_lab.tracking.video import frame_rate, rendering

pytestmark = pytest.mark.skipif(find_spec("dm_control") is None, reason="dm-control is not installed")

TASKS = ["hopper-stand", "point_mass-hard"]
"""One with contacts; one that draws its actuators in every episode, and keeps them in its model."""


def actions_of(env: Any, number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (number, *env.action_space.shape)).astype(np.float32)


def play(env: Any, seed: int | None, actions: np.ndarray) -> list[list[float]]:
    """Observation, reward, terminated and truncated of each step."""
    steps = [env.reset(seed=seed)[0].tolist()]
    for action in actions:
        obs, *rest = env.step(action)[:4]
        steps.append([*obs.tolist(), *rest])
    return steps


@pytest.mark.parametrize("task", TASKS)
def test_steps_are_those_of_dm_control(task: str) -> None:
    env = make_dmc(task, 1)
    actions = actions_of(env, 25)
    steps = play(env, 3, actions)

    domain, name = task.split("-")
    theirs = load_suite().load(domain, name, task_kwargs={"random": 99})
    drawn = np.random.default_rng(3).integers(2**32)
    theirs.task.random.seed(drawn)
    moments = [theirs.reset(), *(theirs.step(action) for action in actions)]
    for moment, (*obs, reward, terminated, truncated) in zip(moments[1:], steps[1:], strict=True):
        expected = np.concatenate([np.ravel(moment.observation[key]) for key in theirs.observation_spec()])
        assert obs == expected.astype(np.float32).tolist()
        assert reward == moment.reward and not terminated and not truncated


@pytest.mark.parametrize("task", TASKS)
def test_a_seed_and_actions_are_an_episode_whatever_came_before(task: str) -> None:
    env = make_dmc(task, 1)
    actions = actions_of(env, 60)
    for seed in (None, 5):
        play(env, seed, actions_of(env, 47, seed=8))
    assert env.unwrapped.inner.physics.data.qacc_warmstart.any(), "there is something to discard"
    again = play(env, 2**40 + 7, actions)
    assert again == play(make_dmc(task, 1), 2**40 + 7, actions)
    assert again[0] != play(env, 8, actions)[0]


def test_without_a_seed_episodes_differ() -> None:
    env = make_dmc("hopper-stand", 1)
    assert env.reset(seed=1)[0].tolist() != env.reset()[0].tolist() != env.reset()[0].tolist()


@pytest.mark.filterwarnings("ignore:.*A Box observation space")
def test_it_holds_to_gymnasiums_api() -> None:
    check_env(ControlTask("hopper-stand"), skip_render_check=True)


def test_the_time_limit_truncates_after_a_thousand_skipped_steps() -> None:
    env = make_dmc("point_mass-hard", 64)
    *before, last = play(env, 0, actions_of(env, 16))
    assert all(step[-2:] == [False, False] for step in before[1:]) and last[-2:] == [False, True]
    assert env.unwrapped.inner.physics.time() == pytest.approx(1_000 * 0.02)
    assert env.spec is not None and env.spec.max_episode_steps == 16  # 15.6


def test_a_skipped_step_adds_up_rewards() -> None:
    once, thrice = make_dmc("cartpole-balance", 1), make_dmc("cartpole-balance", 3)
    action = np.full(1, 0.3, np.float32)
    rewards = [step[-3] for step in play(once, 0, action.repeat(3)[:, None])[1:]]
    assert play(thrice, 0, action[None])[1][-3] == sum(rewards)


def test_discount_zero_is_a_termination(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_dmc("hopper-stand", 1)
    env.reset(seed=0)
    monkeypatch.setattr(env.unwrapped.inner.task, "get_termination", lambda physics: 0.0)
    assert env.step(np.zeros(4, np.float32))[2:4] == (True, False)


def test_a_simulation_that_diverges_is_truncated(caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    env: Any = make_dmc("hopper-stand", 1)
    start = env.reset(seed=0)[0]
    for _ in range(2):
        env.unwrapped.inner.physics.data.qvel[:] = 1e12
        obs, reward, terminated, truncated, _ = env.step(np.zeros(4, np.float32))
        assert (reward, terminated, truncated) == (0.0, False, True) and obs.tolist() == start.tolist()
        assert env.reset(seed=0)[0].tolist() == start.tolist()
    said = [record.getMessage() for record in caplog.records if "env.task" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith("env.task=hopper-stand: Physics state is invalid.")
    assert said[0].endswith("The episode is cut before that step")
    assert not np.isnan(play(env, 1, actions_of(env, 5))[-1]).any()


@pytest.mark.parametrize("skip", [1, 3])
def test_a_step_that_diverges_is_no_transition(skip: int) -> None:
    """Neither the reward nor the state after it is known, so nothing of it may be learned from."""
    envs = Envs(partial(make_dmc, "cartpole-balance", skip), 2, seed=0)
    inner: Any = envs.vector.envs[0].unwrapped.inner
    take, left = inner.step, [1 + 2 * skip - (skip > 1)]  # in the last of the frames of a step

    def step(action: np.ndarray) -> Any:
        left[0] -= 1
        if left[0] == 0:
            inner.physics.data.qvel[:] = 1e12
        return take(action)

    inner.step = step
    action = torch.full((2, 1), 0.5)
    steps = [envs.reset(), *(envs.step(action) for _ in range(5))]
    cut = next(k for k, step in enumerate(steps[1:], 1) if step.first[0])
    valid = torch.stack([step.first for step in steps]).logical_not()

    assert valid[1:, 1].all() and not valid[cut : cut + 2, 0].any() and valid[cut + 2, 0]
    assert not steps[cut].terminal[0] and steps[cut].reward[0] == 0 and not steps[cut].action[0].any()
    assert torch.isfinite(steps[cut].obs).all()
    (episode,) = envs.finished()
    assert episode.truncated and episode.length == cut and len(episode.actions) == cut
    envs.close()


def test_actions_are_within_their_bounds_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[np.ndarray] = []
    for task in ("quadruped-walk", "hopper-stand"):
        env: Any = make_dmc(task, 1)
        assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
        env.reset(seed=0)
        step = env.unwrapped.inner.step
        monkeypatch.setattr(
            env.unwrapped.inner, "step", lambda action, step=step: (sent.append(action), step(action))[1]
        )
        for value in (-1, 1, 1e-9):
            env.step(np.full(env.action_space.shape, value, np.float32))
    assert sent[0][:3].tolist() == np.float32([-1, -1, -0.8]).tolist()
    assert sent[1][:3].tolist() == np.float32([1, 1.1, 0.8]).tolist()
    assert [set(action.tolist()) for action in sent[3:]] == [{-1.0}, {1.0}, {float(np.float32(1e-9))}]


def test_processes_play_the_same_episodes() -> None:
    make = partial(make_dmc, "point_mass-hard", 500)
    here, there = Envs(make, 2, seed=2), Envs(make, 2, seed=2, asynchronous=True)
    assert here.time_limit == 2
    actions = torch.as_tensor(np.random.default_rng(0).uniform(-1, 1, (3, 2, 2)).astype(np.float32))
    steps = [[envs.reset(), *map(envs.step, actions)] for envs in (here, there)]
    for one, other in zip(*steps, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    ended = [envs.finished() for envs in (here, there)]
    assert [e.ret for e in ended[0]] == [e.ret for e in ended[1]] and len(ended[0]) == 2
    assert all(e.truncated and e.length == 2 for e in ended[0])
    here.close(), there.close()


def test_the_first_camera_draws_it() -> None:
    try:
        with rendering(partial(make_dmc, "cartpole-swingup", 4)) as env:
            assert frame_rate(env) == 25
            env.reset(seed=0)
            shown: list[Any] = [env.render()]
            env.step(np.ones(1, np.float32))
            shown.append(env.render())
    except RuntimeError as error:
        pytest.skip(f"no renderer: {error}")
    assert shown[0].shape == (480, 480, 3) and (shown[0] != shown[1]).any()


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("hopper-stnad", "which the DeepMind Control suite does not have; did you mean hopper-stand?"),
        ("Hopper_Stand", "which the DeepMind Control suite does not have; did you mean hopper-stand?"),
        ("hopper", "which the DeepMind Control suite does not have; it has hopper-hop, hopper-stand"),
        ("pong", "which the DeepMind Control suite does not have; it has the domains acrobot, ball_in_cup, cartpole"),
        ("lqr-lqr_2_1", "which is left out here: its actions have no bounds"),
        ("quadruped-escape", "which is left out here: dm_control resets it only with a renderer"),
    ],
)
def test_a_task_that_is_not_there(task: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_dmc(task, 1)
    line = str(caught.value)
    assert line.startswith(f"env.task is {task!r}, {said}") and "\n" not in line


def test_there_are_tasks_enough() -> None:
    assert set(TASKS) < set(tasks()) and len(tasks()) >= 48 and not set(tasks()) & set(LEFT_OUT)


def test_a_configuration_of_logging_leaves_the_standard_error_of_a_caller_open() -> None:
    """absl's handler closed it, and with it pytest's: all later tests failed."""
    logging = pytest.importorskip("absl.logging")
    caller = io.StringIO()
    logging.get_absl_handler().python_handler.setStream(caller)
    load_suite.cache_clear()
    load_suite()
    logging.get_absl_handler().close()
    assert not caller.closed
