"""Rewards, terminations and known dynamics of the cs285 tasks, batched; the environments in `cs285` call them.

Observations [N, D]; actions [N, A] in [-1, 1]; every reward is of the next observation. Definitions: UC Berkeley,
CS 285 Deep Reinforcement Learning, fall 2022, homework 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

BORDER = 0.99
"""Half the side of the square in which the point moves, and the bound of its actions."""

STRIDE = 0.1
"""Distance that an action of 1 would move it."""

GOAL_RADIUS = 0.1

OBSTACLES = (
    (-0.4, 0.8, 0.4, 0.3),
    (-0.9, 0.3, 0.2, 0.6),
    (0.6, -0.1, 0.12, 0.4),
    (-0.1, 0.2, 0.15, 0.4),
    (0.1, -0.7, 0.3, 0.15),
)
"""Rectangles: left, top, width, height."""


def cheetah_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Velocity along x, less 10 each for a front thigh beyond 0.2 rad, a front shin and a front foot beyond 0."""
    bent = (next_obs[:, 6] > 0.2).float() + (next_obs[:, 7] > 0).float() + (next_obs[:, 8] > 0).float()
    return next_obs[:, 9] - 10.0 * bent


def reacher_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Minus ten times the distance from fingertip to target."""
    return -10.0 * (next_obs[:, 14:17] - next_obs[:, 17:20]).norm(dim=-1)


def never(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Never terminates. Plans on obstacles use it too: if rewards are negative, a termination is a gain, and a model
    that errs across the border would predict one there."""
    return torch.zeros_like(next_obs[:, 0], dtype=torch.bool)


def obstacles_next_obs(obs: Tensor, action: Tensor) -> Tensor:
    """A move by the action, at most `STRIDE`, or none if it would lead into a rectangle, to the border or beyond it."""
    moved = obs[:, :2] + (BORDER * action).clamp(-1, 1) * STRIDE
    at = torch.where(free(moved).unsqueeze(-1), moved, obs[:, :2])
    return torch.cat([at, obs[:, 2:]], -1)


def obstacles_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Minus the distance to the goal."""
    return -(next_obs[:, :2] - next_obs[:, 2:]).norm(dim=-1)


def obstacles_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Within `GOAL_RADIUS` of the goal, or outside of the border, which only a model can reach."""
    return (-obstacles_reward(obs, action, next_obs) < GOAL_RADIUS) | (next_obs[:, :2].abs() > BORDER).any(-1)


def free(at: Tensor) -> Tensor:
    """[N, 2] -> [N]: whether the point may be there; a rectangle's edge is free, the border is not."""
    left, top, width, height = at.new_tensor(OBSTACLES).unbind(-1)
    x, y = at[:, :1], at[:, 1:]
    within = (x > left) & (x < left + width) & (y < top) & (y > top - height)
    return ~within.any(-1) & (at.abs() < BORDER).all(-1)
