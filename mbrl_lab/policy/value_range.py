"""ValueRange: the interval in which soft values lie, from the observed rewards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

RATE = 3e-4
"""How far the interval moves at each update towards that of the newest rewards (Kubo et al.: their learning rate)."""


class ValueRange(nn.Module):
    """[low, high]: the values of getting the least, or the largest, reward of a batch at every step; it contains 0.

    A critic that predicts where in this interval a value lies learns as fast for returns of 1,000 as for returns of 1,
    while Adam's steps in the value itself are all of one size. Kubo et al. (2025) take quantiles of 0.01 and 0.99,
    which miss rare rewards, where these are extremes. 0 is the value of an episode after its termination.
    """

    low: Tensor
    high: Tensor
    known: Tensor

    def __init__(self, gamma: float) -> None:
        """ValueError for a discount of 1, with which values have no bound."""
        super().__init__()
        if gamma >= 1:
            raise ValueError(
                f"policy.gamma is {gamma}; with policy=svg it must be below 1, as values are bounded by it"
            )
        self.effective_horizon = 1 / (1 - gamma)
        self.register_buffer("low", torch.tensor(-1.0))
        self.register_buffer("high", torch.tensor(1.0))
        self.register_buffer("known", torch.tensor(False))

    @torch.no_grad()
    def update(self, reward: Tensor) -> None:
        """Move towards the interval of these rewards; the first ones set it."""
        # A tensor, not an `if`: a GPU would have to be waited for.
        rate = torch.where(self.known, RATE, 1.0)
        self.low.lerp_(reward.amin().clamp(max=0) * self.effective_horizon, rate)
        self.high.lerp_(reward.amax().clamp(min=0) * self.effective_horizon, rate)
        self.known.fill_(True)

    def value(self, x: Tensor) -> Tensor:
        """From -1, the lowest value, to 1, the highest."""
        return torch.lerp(self.low, self.high, 0.5 * (x + 1))

    def clip(self, value: Tensor) -> Tensor:
        """The nearest values within the interval."""
        return value.clamp(self.low, self.high)
