"""The tasks of CS 285 by their definitions: moves, walls, rewards, ends and resets worked out by hand."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from mbrl_lab.config import PACKAGE, build, compose_config
from mbrl_lab.env import Envs
from mbrl_lab.env import cs285_physics as physics
from mbrl_lab.env.cs285 import ARM, TASKS, make_cs285, simulated

LENGTHS = {"cheetah": 500, "obstacles": 100, "reacher": 200}
NOTHING = torch.zeros(1, 1)
"""What a reward does not look at."""


def rows(*values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


def made(task: str, **more: Any) -> Any:
    return make_cs285(task, LENGTHS[task], **more)


def at(x: float, y: float) -> Any:
    """The point there."""
    env = made("obstacles")
    env.reset(seed=0)
    env.unwrapped.obs = np.array([x, y, 0.7, -0.8])
    return env


def test_cheetah_is_paid_for_speed_and_fined_for_each_bent_joint() -> None:
    obs = torch.zeros(5, 21)
    obs[:, 9] = torch.tensor([1.5, 1.5, 1.5, -2.0, 1.5])
    obs[1, 6], obs[2, 6] = 0.19, 0.21
    obs[3, 7], obs[3, 8] = 0.01, -0.01
    obs[4, 6], obs[4, 7], obs[4, 8] = 0.3, 0.3, 0.3
    obs[:, 2] = 3.0  # lying on its back costs nothing
    assert physics.cheetah_reward(NOTHING, NOTHING, obs).tolist() == pytest.approx([1.5, 1.5, -8.5, -12.0, -28.5])


def test_reacher_is_fined_ten_times_the_distance() -> None:
    obs = torch.full((2, 20), 9.0)
    obs[:, 14:17] = rows([0.1, 0.1, 0.1], [0.4, -0.3, 0.1])
    obs[:, 17:] = 0.1
    assert physics.reacher_reward(NOTHING, NOTHING, obs).tolist() == pytest.approx([0.0, -5.0])


def test_obstacles_reward_and_termination() -> None:
    obs = rows([0.7, -0.8], [0.7, -0.71], [0.7, -0.69], [0.4, -0.4], [-0.98, 0.98], [1.0, 0.0], [0.0, -1.0])
    obs = torch.cat([obs, rows([0.7, -0.8]).expand(7, 2)], 1)
    reward = physics.obstacles_reward(NOTHING, NOTHING, obs)
    assert reward[:4].tolist() == pytest.approx([0.0, -0.09, -0.11, -0.5])
    ends = physics.obstacles_termination(NOTHING, NOTHING, obs)
    assert ends.tolist() == [True, True, False, False, False, True, True]
    assert not physics.never(NOTHING, NOTHING, obs).any()


@pytest.mark.parametrize(
    ("start", "action", "end"),
    [
        ((0.3, 0.5), (1.0, -0.5), (0.399, 0.4505)),  # 0.99 of a tenth for an action of 1
        ((0.3, 0.5), (9.0, -9.0), (0.4, 0.4)),  # never more than a tenth
        ((-0.45, 0.65), (1.0, 0.0), (-0.45, 0.65)),  # into the first rectangle, x from -0.4 to 0, y from 0.5 to 0.8
        ((-0.45, 0.65), (0.5, 0.0), (-0.4005, 0.65)),  # short of it
        ((0.05, 0.65), (-1.0, 0.0), (0.05, 0.65)),  # from its right
        ((-0.2, 0.85), (0.0, -1.0), (-0.2, 0.85)),  # from above
        ((-0.2, 0.45), (0.0, 1.0), (-0.2, 0.45)),  # from below
        ((-0.75, -0.35), (0.0, 1.0), (-0.75, -0.35)),  # the second, y from -0.3 to 0.3
        ((0.66, -0.55), (0.0, 1.0), (0.66, -0.55)),  # the third, y from -0.5 to -0.1
        ((0.1, 0.0), (-1.0, 0.0), (0.1, 0.0)),  # the fourth, x from -0.1 to 0.05
        ((0.25, -0.65), (0.0, -1.0), (0.25, -0.65)),  # the fifth, y from -0.85 to -0.7
        ((0.95, 0.0), (1.0, 0.0), (0.95, 0.0)),  # over the border
        ((0.95, 0.0), (0.4, 0.0), (0.9896, 0.0)),  # up to it
        ((0.0, -0.95), (0.3, -1.0), (0.0, -0.95)),  # rejected as a whole: no sliding along
    ],
)
def test_the_point_moves_or_stays(
    start: tuple[float, float], action: tuple[float, float], end: tuple[float, float]
) -> None:
    obs, reward, terminal, truncated, _ = at(*start).step(np.array(action, np.float32))
    assert obs.tolist() == pytest.approx([*end, 0.7, -0.8])
    assert reward == pytest.approx(-math.dist(end, (0.7, -0.8))) and not terminal and not truncated


def test_a_rectangles_edge_is_free_and_the_border_is_not() -> None:
    exact = torch.tensor([[-0.4, 0.6], [0.0, 0.5], [0.99, 0.0], [0.0, -0.99]], dtype=torch.float64)
    assert physics.free(exact).tolist() == [True, True, False, False]


def test_the_goal_terminates_the_episode() -> None:
    _, reward, terminal, _, _ = at(0.7, -0.65).step(np.array([0.0, -1.0], np.float32))
    assert terminal and reward == pytest.approx(-0.051)


def test_known_dynamics_are_the_environments() -> None:
    env, torch_obs = at(0.5, 0.5), torch.tensor([[0.5, 0.5, 0.7, -0.8]])
    generator = np.random.default_rng(0)
    for _ in range(300):
        action = generator.uniform(-1, 1, 2).astype(np.float32)
        obs = env.unwrapped.step(action)[0]
        torch_obs = physics.obstacles_next_obs(torch_obs, torch.as_tensor(action)[None])
        assert torch_obs[0].tolist() == pytest.approx(obs.tolist(), abs=1e-4)


def test_the_point_begins_in_the_upper_left_outside_rectangles() -> None:
    env = made("obstacles")
    starts = np.array([env.reset(seed=s)[0] for s in range(400)])
    assert (starts[:, 2:] == [0.7, -0.8]).all()
    x, y = starts[:, 0], starts[:, 1]
    assert x.min() == pytest.approx(-0.99, abs=0.02) and x.max() == pytest.approx(0.59, abs=0.02)
    assert y.min() == pytest.approx(0.26, abs=0.02) and y.max() == pytest.approx(0.99, abs=0.02)
    within = (x > -0.4) & (x < 0.0) & (y > 0.5) & (y < 0.8)
    assert not within.any(), "where a twentieth of the rectangle drawn from lies"


def test_cheetah_begins_near_its_pose_and_shows_where_it_is() -> None:
    env = made("cheetah")
    starts = np.array([env.reset(seed=s)[0] for s in range(400)])
    position, speed = starts[:, :9], starts[:, 9:18]
    assert abs(position).max() <= 0.1 and position.std() == pytest.approx(0.2 / 12**0.5, rel=0.05)
    assert speed.std() == pytest.approx(0.1, rel=0.05) and abs(speed).max() > 0.3
    assert starts[:, 18] == pytest.approx(position[:, 0]) and starts[:, 20] == pytest.approx(0.7 + position[:, 1])
    before = starts[-1]
    obs = env.step(np.zeros(6))[0]
    assert obs[0] == pytest.approx(before[0] + 0.01 * obs[9]), "a step is 0.01 s, by semi-implicit Euler"


def test_reacher_always_begins_at_rest() -> None:
    env = made("reacher")
    obs, again = env.reset(seed=0)[0], env.reset(seed=1)[0]
    assert (obs == again).all() and (obs[:14] == 0).all() and (obs[17:] == 0.1).all()
    assert obs[14:17].tolist() == pytest.approx([0.4 + 0.38 + 0.12, -0.6, 0.0])
    after, reward, terminal, _, _ = env.step(np.zeros(7))
    assert after == pytest.approx(obs) and not terminal
    assert reward == pytest.approx(-10 * math.dist([0.9, -0.6, 0.0], [0.1, 0.1, 0.1]))


def test_the_fingertip_is_where_the_angles_say() -> None:
    env = made("reacher")
    env.reset(seed=0)
    for k in range(20):
        obs, reward, *_ = env.step(np.cos(k + np.arange(7)))
    model = env.unwrapped.model
    data = mujoco.MjData(model)
    data.qpos[:] = obs[:7]
    mujoco.mj_forward(model, data)
    assert obs[14:17] == pytest.approx(data.site("fingertip").xpos)
    assert obs[7:14] == pytest.approx(env.unwrapped.data.qvel / 10)
    assert reward == pytest.approx(-10 * math.dist(obs[14:17], [0.1] * 3))
    assert env.unwrapped.dt == pytest.approx(0.02)


@pytest.mark.parametrize("task", ["cheetah", "reacher"])
def test_the_simulator_as_known_dynamics_steps_as_the_environment(task: str) -> None:
    env, generator = made(task), np.random.default_rng(0)
    rows, actions = [env.reset(seed=0)[0]], []
    for _ in range(60):
        actions.append(generator.uniform(-1, 1, env.action_space.shape))
        rows.append(env.step(actions[-1])[0])
    seen, sent = (torch.as_tensor(np.stack(x)) for x in (rows, actions))
    order = torch.randperm(60)  # a state is all that counts, not what was stepped before
    after = simulated(seen[:-1][order], sent[order], task)
    assert (after - seen[1:][order]).abs().max() < 1e-3
    assert (after - seen[:-1][order]).abs().max() > 0.1


def test_the_arm_can_reach_the_target() -> None:
    """A turn of 2.0 rad to the left, then gradient-free search, finds angles that put the fingertip there."""
    env = made("reacher").unwrapped
    low, high = env.model.jnt_range.T
    generator = np.random.default_rng(0)
    best, least = env.init_qpos, math.inf
    for k in range(4000):
        angles = np.clip(best + generator.normal(size=7) * (1.0 if k < 1000 else 0.05), low, high)
        env.set_state(angles, env.init_qvel)
        distance = math.dist(env.data.site("fingertip").xpos, [0.1] * 3)
        best, least = (angles, distance) if distance < least else (best, least)
    assert least < 0.02


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_a_function_of_seed_and_actions(task: str) -> None:
    env, generator = made(task), np.random.default_rng(0)
    actions = generator.uniform(-1, 1, (40, *env.action_space.shape)).astype(np.float32)

    def played(seed: int) -> list[Any]:
        kept = [env.reset(seed=seed)[0].tolist()]
        for action in actions:
            obs, reward, *_ = env.step(action)
            kept.append((obs.tolist(), reward))
        return kept

    first = played(3)
    other = played(4)
    assert played(3) == first and (task == "reacher" or other != first)


@pytest.mark.parametrize("task", TASKS)
def test_several_resume_exactly(task: str) -> None:
    make = partial(make_cs285, task, 30)
    for stop in (0, 7, 30, 31, 50):
        one, other = Envs(make, 2, seed=5), Envs(make, 2, seed=5)
        one.reset()
        for _ in range(stop):
            one.step(one.spec.sample(2))
        other.load_state_dict(one.state_dict())
        for _ in range(20):
            action = one.spec.sample(2)
            pairs = zip(one.step(action), other.step(action), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs), stop


@pytest.mark.parametrize("task", TASKS)
def test_time_is_limited_which_is_not_terminal(task: str) -> None:
    env = made(task)
    env.reset(seed=0)
    answers = [env.step(np.zeros(env.action_space.shape, np.float32)) for _ in range(LENGTHS[task])]
    assert [a[3] for a in answers] == [False] * (LENGTHS[task] - 1) + [True]
    assert not any(a[2] for a in answers)


@pytest.mark.filterwarnings("ignore:.*(Box observation space|alternative to):UserWarning")
@pytest.mark.parametrize("task", TASKS)
def test_gymnasium_finds_no_fault(task: str) -> None:
    check_env(TASKS[task](render_mode="rgb_array"), skip_render_check=True)


def test_an_unknown_task_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"env.make.task is 'ant'; it must be cheetah \| obstacles \| reacher"):
        make_cs285("ant", 10)


def test_a_picture_of_obstacles() -> None:
    env = made("obstacles", render_mode="rgb_array")
    env.reset(seed=0)
    env.unwrapped.obs = np.array([-0.5, 0.9, 0.7, -0.8])
    picture = env.render()
    assert picture.shape == (240, 240, 3) and picture.dtype == np.uint8

    def pixel(x: float, y: float) -> list[int]:
        return picture[round((1 - y) * 120), round((1 + x) * 120)].tolist()

    assert pixel(-0.5, 0.9) == [0, 0, 0] and pixel(0.7, -0.8) == [80, 180, 90]
    assert pixel(-0.2, 0.65) == [150] * 3 and pixel(0.2, 0.65) == [255] * 3 and pixel(0.995, 0) == [90] * 3


@pytest.mark.parametrize("task", ["cheetah", "reacher"])
def test_a_picture_of_mujoco(task: str) -> None:
    env = made(task, render_mode="rgb_array")
    env.reset(seed=0)
    try:
        picture = env.render()
    except Exception as error:
        pytest.skip(f"no renderer: {error}")
    assert picture.shape == (480, 480, 3) and picture.std() > 5
    for _ in range(5):
        env.step(np.ones(env.action_space.shape))
    assert (env.render() != picture).any()
    env.close()


@pytest.mark.parametrize("task", TASKS)
def test_configs_say_what_the_functions_are(task: str) -> None:
    cfg = compose_config(["algo=mpc", f"env={task}_cs285"])
    env = build(cfg.env.make)()
    obs, known = env.reset(seed=0)[0], build(cfg.env.physics)
    after, reward, terminal, _, _ = env.step(np.full(env.action_space.shape, 0.3, np.float32))
    one = [torch.as_tensor(x, dtype=torch.float32)[None] for x in (obs, np.zeros(2), after)]
    assert known["reward"](*one).item() == pytest.approx(reward, abs=1e-4)
    assert known["termination"](*one).item() is terminal
    assert cfg.dynamics.known.reward_fn == cfg.env.physics.reward and cfg.dynamics.regression.noise == 0.01


def test_the_arm_stands_in_the_package() -> None:
    assert ARM.is_relative_to(PACKAGE) and ARM.is_file(), "where hatchling's only-include takes it from"
