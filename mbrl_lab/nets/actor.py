"""Distributions over actions whose log-probability follows from the action that was sent, without any hidden sample."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor


class Distribution(Protocol):
    """N distributions over actions."""

    def sample(self) -> Tensor:
        """[N] actions, drawn."""

    def mode(self) -> Tensor:
        """[N] actions to take when not exploring."""

    def scores(self) -> Tensor:
        """[N, A]: log-probabilities of discrete actions, or the action of `mode`."""

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

    def scores(self) -> Tensor:
        return self.logp

    def log_prob(self, action: Tensor) -> Tensor:
        return self.logp.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        return -(self.logp.exp() * self.logp).sum(-1)


class ClippedGaussian:
    """A Gaussian clipped to [-1, 1] after sampling, so a bound has the probability of the tail beyond it.

    Therefore the sent action determines its likelihood: a density within the bounds, a tail's probability at a bound
    (Fujita and Maeda 2018). Entropy is that of the Gaussian before clipping. `mean` [N, A], `log_std` [A].
    """

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean, self.log_std = mean.float(), log_std.float().expand_as(mean)

    def sample(self) -> Tensor:
        return (self.mean + self.log_std.exp() * torch.randn_like(self.mean)).clamp(-1, 1)

    def mode(self) -> Tensor:
        return self.mean.clamp(-1, 1)

    def scores(self) -> Tensor:
        return self.mode()

    def log_prob(self, action: Tensor) -> Tensor:
        z = (action - self.mean) / self.log_std.exp()
        density = -0.5 * z.square() - self.log_std - 0.5 * math.log(2 * math.pi)
        # The upper tail where the action is 1, the lower one where it is -1.
        tail = torch.special.log_ndtr(-action * z)
        return torch.where(action.abs() >= 1, tail, density).sum(-1)

    def entropy(self) -> Tensor:
        # Before clipping, after which densities and probabilities are mixed and there is no one entropy.
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)
