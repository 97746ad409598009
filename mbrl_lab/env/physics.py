"""True dynamics, rewards and terminations of gymnasium's classic control, as batched functions of observations.

Observations [N, D]; actions [N] int64 or [N, A] in [-1, 1]; rewards [N] float32; terminations [N] bool. All rewards
and terminations take (obs, action, next_obs), even if they do not need all three.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cartpole_next_obs(obs: Tensor, action: Tensor) -> Tensor:
    """CartPole-v1, Euler steps of 0.02 s: a 1 kg cart, a 0.1 kg pole of half-length 0.5 m, 10 N (Barto et al. 1983)."""
    gravity, pole, half_length, total, dt = 9.8, 0.1, 0.5, 1.1, 0.02
    x, x_dot, theta, theta_dot = obs.unbind(-1)
    force = 20.0 * action - 10.0

    # Pole and cart accelerate each other: first the pole's angular acceleration, then the cart's.
    sin, cos = theta.sin(), theta.cos()
    push = (force + pole * half_length * theta_dot.square() * sin) / total
    theta_acc = (gravity * sin - cos * push) / (half_length * (4 / 3 - pole * cos.square() / total))
    x_acc = push - pole * half_length * theta_acc * cos / total

    # Explicit Euler: positions move by the old velocities, as in gymnasium.
    after = (x + dt * x_dot, x_dot + dt * x_acc, theta + dt * theta_dot, theta_dot + dt * theta_acc)
    return torch.stack(after, -1)


def cartpole_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """One for every step, the last one too."""
    return torch.ones_like(next_obs[:, 0])


def cartpole_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The cart 2.4 m from the centre, or the pole 12 degrees from upright."""
    return (next_obs[:, 0].abs() > 2.4) | (next_obs[:, 2].abs() > math.radians(12))


def pendulum_next_obs(obs: Tensor, action: Tensor) -> Tensor:
    """Pendulum-v1 on (cos, sin, angular velocity): 1 kg, 1 m, g = 10, steps of 0.05 s; an action of 1 is 2 N m."""
    cos, sin, velocity = obs.unbind(-1)
    torque = 2 * action[:, 0].clamp(-1, 1)
    # Semi-implicit Euler: the angle moves by the new velocity, as in gymnasium.
    velocity = (velocity + (15.0 * sin + 3.0 * torque) * 0.05).clamp(-8, 8)
    angle = torch.atan2(sin, cos) + velocity * 0.05
    return torch.stack((angle.cos(), angle.sin(), velocity), -1)


def pendulum_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Minus the squared angle from upright, a tenth of the squared velocity and a thousandth of the squared torque."""
    cos, sin, velocity = obs.unbind(-1)
    torque = 2 * action[:, 0].clamp(-1, 1)
    return -(torch.atan2(sin, cos).square() + 0.1 * velocity.square() + 0.001 * torque.square())


def pendulum_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Never."""
    return torch.zeros_like(next_obs[:, 0], dtype=torch.bool)


def mountaincar_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Minus one for every step."""
    return -torch.ones_like(next_obs[:, 0])


def mountaincar_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Past the flag at 0.5, not rolling back."""
    return (next_obs[:, 0] >= 0.5) & (next_obs[:, 1] >= 0)


def mountaincar_continuous_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """A hundred at the flag, less a tenth of the squared action."""
    return 100.0 * mountaincar_continuous_termination(obs, action, next_obs).float() - 0.1 * action[:, 0].square()


def mountaincar_continuous_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Past the flag at 0.45, not rolling back."""
    return (next_obs[:, 0] >= 0.45) & (next_obs[:, 1] >= 0)


def acrobot_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """Minus one for every step but the one that reaches the line."""
    return acrobot_termination(obs, action, next_obs).float() - 1.0


def acrobot_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The tip a link's length above the pivot: -cos(a) - cos(a + b) > 1, on (cos a, sin a, cos b, sin b, ...)."""
    cos_a, sin_a, cos_b, sin_b = next_obs[:, :4].unbind(-1)
    return -cos_a - (cos_a * cos_b - sin_a * sin_b) > 1.0
