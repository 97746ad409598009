"""Cycle: when a learner begins anew, and how far ahead it looks since then (BBF, Schwarzer et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cycle:
    """A reset every `reset_every` updates (0: never), none after `reset_until` of them (0: no bound).

    From the beginning and from each reset on, n goes from `n_step_start` to `n_step` and gamma from `gamma_start` to
    `gamma` within `anneal_updates`, n and 1 - gamma by the same factor at each update. All follows from the count.
    """

    reset_every: int
    reset_until: int
    n_step_start: int
    n_step: int
    gamma_start: float
    gamma: float
    anneal_updates: int

    @property
    def longest(self) -> int:
        """The largest n."""
        return max(self.n_step, self.n_step_start if self.anneal_updates else 1)

    def due(self, updates: Tensor) -> bool:
        """Whether the learner begins anew after so many updates []."""
        if not self.reset_every:
            return False
        count = int(updates)
        return count % self.reset_every == 0 and (not self.reset_until or count <= self.reset_until)

    def horizon(self, updates: Tensor) -> tuple[Tensor | int, Tensor | float]:
        """(n, gamma) after so many updates []."""
        if not self.anneal_updates:
            return self.n_step, self.gamma
        share = (self.since(updates) / self.anneal_updates).clamp(max=1)
        n = self.n_step_start ** (1 - share) * self.n_step**share
        return n.round(), 1 - (1 - self.gamma_start) ** (1 - share) * (1 - self.gamma) ** share

    def since(self, updates: Tensor) -> Tensor:
        """[]: the updates since the latest reset."""
        if not self.reset_every:
            return updates
        bounded = updates.clamp(max=self.reset_until) if self.reset_until else updates
        return updates - bounded // self.reset_every * self.reset_every


@torch.no_grad()
def shrink_and_perturb(net: nn.Module, fresh: nn.Module, share: float) -> None:
    """The parameters of `net.encoder` go this share of the way to the `fresh` ones, all others all the way."""
    for (name, old), new in zip(net.named_parameters(), fresh.parameters(), strict=True):
        old.lerp_(new.to(old.device), share if name.startswith("encoder.") else 1.0)


def forget(opt: torch.optim.Optimizer) -> None:
    """Put an optimizer's averages and counts back to where they begin, at 0, in the tensors that they are in."""
    for state in opt.state.values():
        for x in state.values():
            x.zero_()
