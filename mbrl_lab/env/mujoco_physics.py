"""Rewards and terminations of gymnasium's MuJoCo tasks (version 5) as functions of observations, for planners.

As in `mbrl_lab.env.physics`: (obs [N, D], action [N, A] in [-1, 1], next_obs [N, D]) -> [N].

HalfCheetah and Hopper reward the distance covered in a step, which the default observation does not contain. If the
position along the track is observed (`exclude_current_positions_from_observation: false`), the reward is exact.
Otherwise the mean of the velocities before and after the step approximates it; docs/algos/mpc.md has its error.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cheetah_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Velocity forwards less a tenth of the squared action; 17 observations, or 18 with the position."""
    return _velocity(obs, next_obs, hidden=17, at=8, dt=0.05) - 0.1 * action.square().sum(-1)


def hopper_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Velocity forwards, one for standing, less a thousandth of the squared action; 11 observations, or 12."""
    standing = (~hopper_termination(obs, action, next_obs)).float()
    return _velocity(obs, next_obs, hidden=11, at=5, dt=0.008) + standing - 1e-3 * action.square().sum(-1)


def hopper_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The torso at 0.7 m or lower, leaning by 0.2 rad or more, or any number beyond 100.

    Exact except for velocities, which are observed only up to 10: none above 100 was ever observed.
    """
    # The last 11 numbers, with or without the position in front of them.
    obs = next_obs[:, next_obs.shape[1] - 11 :]
    fallen = (obs[:, 0] <= 0.7) | (obs[:, 1].abs() >= 0.2)
    return fallen | ~(obs[:, 1:].abs() < 100).all(-1)


def reacher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Minus the distance of fingertip and target, whose difference is observed, and the squared action."""
    return -torch.linalg.vector_norm(next_obs[:, 8:10], dim=-1) - action.square().sum(-1)


def walker_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The torso not between 0.8 and 2 m, or leaning by 1 rad or more."""
    height, angle = next_obs[:, 0], next_obs[:, 1]
    return (height <= 0.8) | (height >= 2.0) | (angle.abs() >= 1.0)


def ant_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The torso lower than 0.2 m or higher than 1 m."""
    return (next_obs[:, 0] < 0.2) | (next_obs[:, 0] > 1.0)


def humanoid_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The torso not between 1 and 2 m."""
    return (next_obs[:, 0] <= 1.0) | (next_obs[:, 0] >= 2.0)


def inverted_pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """One for every step that does not terminate the episode."""
    return (~inverted_pendulum_termination(obs, action, next_obs)).float()


def inverted_pendulum_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The pole leaning by more than 0.2 rad."""
    return next_obs[:, 1].abs() > 0.2


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """No state is terminal."""
    return torch.zeros_like(next_obs[:, 0], dtype=torch.bool)


def _velocity(obs: Tensor, next_obs: Tensor, hidden: int, at: int, dt: float) -> Tensor:
    """[N]: the position's change over `dt`, if it is observed; else the mean of column `at`, its speed."""
    if obs.shape[-1] == hidden:
        return (obs[:, at] + next_obs[:, at]) / 2
    return (next_obs[:, 0] - obs[:, 0]) / dt
