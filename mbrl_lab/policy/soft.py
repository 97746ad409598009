"""The two kinds of actor that soft actor-critic has: what they may do, how likely it is, and what critics are asked."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_STD = (-20.0, 2.0)
"""Where logarithms of standard deviations are cut, as in the authors' code."""


class Choices(NamedTuple):
    """What an actor may do in N states, with its gradient: one action that was drawn (C = 1), or all that there are."""

    action: Tensor | None  # [N, A] that were drawn; None: all there are
    prob: Tensor  # [N, C]; [1] where one was drawn
    logp: Tensor  # [N, C]

    def expect(self, x: Tensor) -> Tensor:
        """[N, C] -> [N]: the mean over actions."""
        return (self.prob * x).sum(-1)


class SoftActor(Protocol):
    """How the `outputs` of an actor's network are read, and how critics are asked, who give `answers` numbers each."""

    outputs: int
    inputs: int
    answers: int
    target_entropy: float

    def act(self, out: Tensor, explore: bool) -> Tensor:
        """[N, outputs] -> [N] actions: drawn, or the most likely ones."""

    def consider(self, out: Tensor) -> Choices:
        """[N, outputs] -> what the expectation over actions is made of."""

    def question(self, features: Tensor, action: Tensor | None) -> Tensor:
        """[N, D] and actions -> [N, D + inputs]: what critics see."""

    def taken(self, q: Tensor, action: Tensor) -> Tensor:
        """[K, N, answers] -> [K, N]: those about the actions [N] that were taken."""


class SquashedGaussian:
    """Continuous actions: tanh of a Gaussian. One is drawn, and gradients flow through it (Haarnoja et al. 2018)."""

    def __init__(self, action_dim: int) -> None:
        self.outputs, self.inputs, self.answers = 2 * action_dim, action_dim, 1
        self.target_entropy = -float(action_dim)

    def act(self, out: Tensor, explore: bool) -> Tensor:
        mean, log_std = self._read(out)
        return (mean + log_std.exp() * torch.randn_like(mean) if explore else mean).tanh()

    def consider(self, out: Tensor) -> Choices:
        """log p(tanh u) = log N(u) - log(1 - tanh(u)^2); the latter is 2 (log 2 - u - softplus(-2 u)) for any u."""
        mean, log_std = self._read(out)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise
        normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        logp = normal - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return Choices(u.tanh(), logp.new_ones(1), logp.sum(-1, keepdim=True))

    def question(self, features: Tensor, action: Tensor | None) -> Tensor:
        assert action is not None
        return torch.cat([features, action], -1)

    def taken(self, q: Tensor, action: Tensor) -> Tensor:
        return q.squeeze(-1)

    def _read(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = out.float().chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)


class Categorical:
    """Discrete actions: every one is considered, so that no expectation is estimated (Christodoulou 2019)."""

    def __init__(self, action_dim: int, entropy_share: float) -> None:
        self.outputs, self.inputs, self.answers = action_dim, 0, action_dim
        self.target_entropy = entropy_share * math.log(action_dim)

    def act(self, out: Tensor, explore: bool) -> Tensor:
        out = out.float()
        return torch.multinomial(out.softmax(-1), 1).squeeze(-1) if explore else out.argmax(-1)

    def consider(self, out: Tensor) -> Choices:
        logp = out.float().log_softmax(-1)
        return Choices(None, logp.exp(), logp)

    def question(self, features: Tensor, action: Tensor | None) -> Tensor:
        return features

    def taken(self, q: Tensor, action: Tensor) -> Tensor:
        return q.gather(-1, action.expand(len(q), -1).unsqueeze(-1)).squeeze(-1)
