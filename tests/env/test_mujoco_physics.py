"""Rewards and ends of MuJoCo tasks against gymnasium's own, over random steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl_lab.config import build, compose_config
from mbrl_lab.env import mujoco_physics as physics
from mbrl_lab.env.envs import spec_of

WITH_POSITION = {"exclude_current_positions_from_observation": False}
STEPS = 600


def steps(id: str, **kwargs: Any) -> tuple[Tensor, ...]:
    """Random actions, each held for a while: obs, action, next_obs, reward, terminal."""
    env, rng, rows = gymnasium.make(id, **kwargs), np.random.default_rng(0), []
    obs, _ = env.reset(seed=0)
    for t in range(STEPS):
        if t % 5 == 0:
            action = rng.uniform(-1, 1, env.action_space.shape)
        next_obs, reward, terminal, truncated, _ = env.step(action)
        rows.append((obs, action, next_obs, reward, terminal))
        obs = env.reset()[0] if terminal or truncated else next_obs
    env.close()
    return tuple(torch.as_tensor(np.array(x)) for x in zip(*rows, strict=True))


Head = Callable[[Tensor, Tensor, Tensor], Tensor]
EXACT: list[tuple[str, dict[str, bool], Head, Head]] = [
    ("HalfCheetah-v5", WITH_POSITION, physics.cheetah_reward, physics.never),
    ("Hopper-v5", WITH_POSITION, physics.hopper_reward, physics.hopper_termination),
    ("Reacher-v5", {}, physics.reacher_reward, physics.never),
]


@pytest.mark.parametrize(("id", "kwargs", "reward_fn", "end_fn"), EXACT, ids=[x[0] for x in EXACT])
def test_where_all_is_observed_the_formulas_are_exact(
    id: str, kwargs: dict[str, bool], reward_fn: Head, end_fn: Head
) -> None:
    obs, action, next_obs, reward, terminal = steps(id, **kwargs)
    torch.testing.assert_close(reward_fn(obs, action, next_obs), reward, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        reward_fn(obs.float(), action.float(), next_obs.float()), reward.float(), atol=1e-3, rtol=0
    )
    assert end_fn(obs, action, next_obs).equal(terminal) and reward.std() > 0.1


@pytest.mark.parametrize(
    ("id", "reward_fn", "at", "most"),
    [("HalfCheetah-v5", physics.cheetah_reward, 8, 0.12), ("Hopper-v5", physics.hopper_reward, 5, 0.02)],
)
def test_without_the_position_the_mean_velocity_comes_near(id: str, reward_fn: Head, at: int, most: float) -> None:
    """Root mean square error in units of reward; the velocity at the step's end alone is at least 1.3 times as far."""
    obs, action, next_obs, reward, terminal = steps(id)
    error = reward_fn(obs, action, next_obs) - reward
    late = error + (next_obs[:, at] - obs[:, at]) / 2
    assert error.square().mean().sqrt() < min(most, late.square().mean().sqrt() / 1.3)
    assert error.mean().abs() < most / 4
    if id == "Hopper-v5":
        assert physics.hopper_termination(obs, action, next_obs).equal(terminal) and terminal.any()


def test_a_hopper_falls_by_height_by_angle_and_by_what_is_too_much() -> None:
    standing = torch.tensor([1.2, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    cases = [(0, 1.2, False), (0, 0.71, False), (0, 0.69, True), (1, 0.19, False), (1, -0.21, True), (4, 101.0, True)]
    rows = standing.repeat(len(cases), 1)
    for row, (at, value, _) in zip(rows, cases, strict=True):
        row[at] = value
    expected = [over for *_, over in cases]
    assert physics.hopper_termination(rows, rows, rows).tolist() == expected
    placed = torch.cat([torch.full((len(cases), 1), 500.0), rows], 1)  # far along the track, and standing there
    assert physics.hopper_termination(placed, placed, placed).tolist() == expected
    nothing = torch.zeros(len(cases), 3)
    assert physics.hopper_reward(rows, nothing, rows).tolist() == [1.0 - over for over in expected]


@pytest.mark.parametrize(
    ("id", "end_fn", "at", "cases"),
    [
        ("Walker2d-v5", physics.walker_termination, 0, {0.79: True, 0.81: False, 1.99: False, 2.01: True}),
        ("Walker2d-v5", physics.walker_termination, 1, {-1.01: True, -0.99: False, 0.99: False, 1.01: True}),
        ("Ant-v5", physics.ant_termination, 0, {0.19: True, 0.21: False, 0.99: False, 1.01: True}),
        ("Humanoid-v5", physics.humanoid_termination, 0, {0.99: True, 1.01: False, 1.99: False, 2.01: True}),
        ("InvertedPendulum-v5", physics.inverted_pendulum_termination, 1, {-0.21: True, 0.19: False, 0.21: True}),
    ],
)
def test_who_has_fallen(id: str, end_fn: Head, at: int, cases: dict[float, bool]) -> None:
    obs, action, next_obs, _, terminal = steps(id)
    assert end_fn(obs, action, next_obs).equal(terminal) and (terminal.any() or id == "Ant-v5")
    rows = torch.zeros(len(cases), 5)
    rows[:, 0] = {"Walker2d-v5": 1.2, "Ant-v5": 0.5, "Humanoid-v5": 1.4}.get(id, 0.0)
    rows[:, at] = torch.tensor(list(cases))
    assert end_fn(rows, rows, rows).tolist() == list(cases.values())


def test_a_pendulum_that_stands_pays_one() -> None:
    obs, action, next_obs, reward, _ = steps("InvertedPendulum-v5")
    assert physics.inverted_pendulum_reward(obs, action, next_obs).double().equal(reward.double())


@pytest.mark.parametrize("env", ["cheetah", "hopper", "reacher"])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "expectation"])
def test_an_ensemble_can_take_them(env: str, propagation: str) -> None:
    cfg = compose_config(
        ["algo=mpc", f"env={env}", f"dynamics.imagination.propagation={propagation}", "dynamics.members=5"]
    )
    real = build(cfg.env.make)()
    spec = spec_of(real.observation_space, real.action_space)
    model = build(cfg.dynamics)(spec)
    obs = torch.randn(40, *spec.obs_shape)
    after, outcome = model.imagine(obs, action := spec.sample(40))
    physics_of = build(cfg.env.physics)
    assert torch.equal(outcome.reward, physics_of["reward"](obs, action, after))
    assert torch.equal(outcome.cont, 1 - physics_of["termination"](obs, action, after).float())
    real.close()
