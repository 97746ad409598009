"""Resets of a learner, and the annealing of n and gamma after each (BBF, Schwarzer et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Resets:
    """When a learner resets, and how n and gamma go from their start to their final values after each reset.

    Everything follows from the count of updates, so a resumed run needs no further state.
    """

    every: int
    """Updates between resets (BBF: 40,000). 0: none."""
    until: int
    """The last update that may reset. 0: no bound."""
    shrink: float
    """Fraction of the way that a reset moves the encoder towards fresh weights (BBF: 0.5); all else is replaced."""
    anneal_updates: int
    """Updates after the start and after each reset over which n and gamma reach their final values. 0: at once."""
    n_step_start: int
    """The n of n-step returns after a reset (BBF: 10, and 3 finally)."""
    gamma_start: float
    """The discount after a reset (BBF: 0.97, and 0.997 finally)."""

    def longest(self, n_step: int) -> int:
        """The largest n there is, if `n_step` is the final one."""
        return max(n_step, self.n_step_start if self.anneal_updates else 1)

    def due(self, updates: int) -> bool:
        """Whether the learner resets after so many updates."""
        return self.every > 0 and updates % self.every == 0 and (not self.until or updates <= self.until)

    def anneal(self, updates: int, n_step: int, gamma: float) -> tuple[int, float]:
        """(n, gamma) after so many updates, on the way to the final `n_step` and `gamma`.

        n and 1 - gamma change by the same factor at each update.
        """
        if not self.anneal_updates:
            return n_step, gamma
        fraction = min(self.since_reset(updates) / self.anneal_updates, 1.0)
        n = self.n_step_start ** (1 - fraction) * n_step**fraction
        return round(n), 1 - (1 - self.gamma_start) ** (1 - fraction) * (1 - gamma) ** fraction

    def since_reset(self, updates: int) -> int:
        """Updates since the latest reset."""
        if not self.every:
            return updates
        # Multiples of `every` beyond `until` are no resets.
        bounded = min(updates, self.until) if self.until else updates
        return updates - bounded // self.every * self.every


@torch.no_grad()
def shrink_and_perturb(net: nn.Module, fresh: nn.Module, shrink: float) -> None:
    """Move `net.encoder` by this fraction towards the `fresh` weights, and replace all other weights by them."""
    # In place: the optimiser and its state refer to these tensors.
    for (name, old), new in zip(net.named_parameters(), fresh.parameters(), strict=True):
        old.lerp_(new.to(old.device), shrink if name.startswith("encoder.") else 1.0)


def reset_optimizer(opt: torch.optim.Optimizer) -> None:
    """Set an optimizer's moments and step counts to 0."""
    # In place: a step would create a missing state again, but a checkpoint between would lack it.
    for state in opt.state.values():
        for x in state.values():
            x.zero_()
