"""Actors: from feature vectors to distributions over actions whose probabilities the sent action alone determines."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn

from mbrl_lab.nets.mlp import mlp
from mbrl_lab.types import EnvSpec


class Distribution(Protocol):
    """One distribution over actions for each of N rows."""

    def sample(self) -> Tensor:
        """[N] actions, drawn."""

    def mode(self) -> Tensor:
        """[N] actions to take when not exploring."""

    def log_prob(self, action: Tensor) -> Tensor:
        """[N]: logarithms of the probabilities of actions [N]."""

    def entropy(self) -> Tensor:
        """[N], in nats."""


class Categorical:
    """Discrete actions, from logits [N, A]."""

    def __init__(self, logits: Tensor) -> None:
        self.logp = logits.float().log_softmax(-1)

    def sample(self) -> Tensor:
        return torch.multinomial(self.logp.exp(), 1).squeeze(-1)

    def mode(self) -> Tensor:
        return self.logp.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        return self.logp.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.logp.exp() * self.logp).sum(-1)


class ClippedGaussian:
    """A Gaussian cut to [-1, 1] after it was drawn: what lies beyond a bound is a probability of its own, at the bound.

    So an action that was sent says all there is to know: within the bounds a density, at a bound the mass of the tail
    (Fujita and Maeda 2018). Entropy is that of the Gaussian before the cut. `mean` [N, A], `log_std` [A].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean.float(), log_std.float().expand_as(mean)

    def sample(self) -> Tensor:
        return (self.mean + self.log_std.exp() * torch.randn_like(self.mean)).clamp(-1, 1)

    def mode(self) -> Tensor:
        return self.mean.clamp(-1, 1)

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) / self.log_std.exp()
        within = -0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        beyond = torch.special.log_ndtr(-action * z)  # of the upper tail where the action is 1, of the lower at -1
        return torch.where(action.abs() >= 1, beyond, within).sum(-1)

    def entropy(self) -> Tensor:
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class Actor(nn.Module):
    """A perceptron with tanh that tells logits or means; the standard deviation, at first `std`, is of no state."""

    def __init__(self, spec: EnvSpec, dim: int, width: int, depth: int, std: float) -> None:
        super().__init__()
        self.net = mlp([dim, *[width] * depth, spec.action_dim], activation=nn.Tanh)
        self.log_std = None if spec.discrete else nn.Parameter(torch.full((spec.action_dim,), math.log(std)))

    def forward(self, features: Tensor) -> Distribution:
        """[N, dim] -> a distribution over [N] actions."""
        out = self.net(features)
        return Categorical(out) if self.log_std is None else ClippedGaussian(out, self.log_std)
