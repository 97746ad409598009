"""The equations against gymnasium's own, step by step from random states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from mbrl_lab.env import physics

Head = Callable[[Tensor, Tensor, Tensor], Tensor]


class Case(NamedTuple):
    id: str
    low: list[float]
    high: list[float]
    reward: Head
    termination: Head
    next_obs: Callable[[Tensor, Tensor], Tensor] | None = None
    ends: bool = True


CASES = [
    Case(
        "CartPole-v1",
        [-2.6, -3, -0.25, -3],
        [2.6, 3, 0.25, 3],
        physics.cartpole_reward,
        physics.cartpole_termination,
        physics.cartpole_next_obs,
    ),
    Case(
        "Pendulum-v1",
        [-10, -9],
        [10, 9],
        physics.pendulum_reward,
        physics.pendulum_termination,
        physics.pendulum_next_obs,
        ends=False,
    ),
    Case("MountainCar-v0", [0.3, -0.07], [0.6, 0.07], physics.mountaincar_reward, physics.mountaincar_termination),
    Case(
        "MountainCarContinuous-v0",
        [0.3, -0.07],
        [0.6, 0.07],
        physics.mountaincar_continuous_reward,
        physics.mountaincar_continuous_termination,
    ),
    Case("Acrobot-v1", [-3, -3, -9, -20], [3, 3, 9, 20], physics.acrobot_reward, physics.acrobot_termination),
]


def observe(env_id: str, state: np.ndarray) -> np.ndarray:
    """What the environment would show of its state."""
    if env_id == "Pendulum-v1":
        return np.array([np.cos(state[0]), np.sin(state[0]), state[1]])
    if env_id == "Acrobot-v1":
        a, b = state[:2]
        return np.array([np.cos(a), np.sin(a), np.cos(b), np.sin(b), *state[2:]])
    return state


def transitions(case: Case, count: int) -> tuple[Tensor, ...]:
    """`count` single steps of the environment: obs, action (ours), next_obs, reward, terminal."""
    rng = np.random.default_rng(0)
    env = gymnasium.make(case.id).unwrapped
    space = env.action_space
    rows = []
    for _ in range(count):
        env.reset(seed=0)
        env.state = rng.uniform(case.low, case.high)
        obs = observe(case.id, env.state)
        if isinstance(space, gymnasium.spaces.Discrete):
            action = theirs = int(rng.integers(space.n))
        else:
            action = rng.uniform(-1, 1, space.shape).astype(np.float32)
            theirs = action * space.high
        next_obs, reward, terminal, _, _ = env.step(theirs)
        rows.append((obs, action, next_obs, reward, terminal))
    obs, action, next_obs, reward, terminal = (torch.as_tensor(np.array(x)) for x in zip(*rows, strict=True))
    return obs.float(), action, next_obs.float(), reward.float(), terminal


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_one_step_from_a_random_state_is_gymnasiums(case: Case) -> None:
    obs, action, next_obs, reward, terminal = transitions(case, 500)
    torch.testing.assert_close(case.reward(obs, action, next_obs), reward, atol=2e-4, rtol=1e-5)
    assert case.termination(obs, action, next_obs).equal(terminal)
    assert terminal.any() == case.ends and not terminal.all()
    if case.next_obs is not None:
        torch.testing.assert_close(case.next_obs(obs, action), next_obs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("case", [c for c in CASES if c.next_obs], ids=lambda case: case.id)
def test_an_episode_imagined_from_its_start_stays_on_the_real_one(case: Case) -> None:
    assert case.next_obs is not None
    env = gymnasium.make(case.id)
    env.action_space.seed(0)
    obs = torch.from_numpy(env.reset(seed=0)[0])[None]
    for _ in range(20):
        theirs = env.action_space.sample()
        discrete = isinstance(theirs, np.integer)
        action = torch.tensor([int(theirs)]) if discrete else torch.from_numpy(theirs / 2)[None]
        obs = case.next_obs(obs, action)
        real, _, terminal, _, _ = env.step(theirs)
        torch.testing.assert_close(obs[0], torch.from_numpy(real), atol=1e-4, rtol=1e-4)
        if terminal:
            break
    env.close()
