"""Prioritised replay: windows of a ring drawn in proportion to their priorities (Schaul et al. 2016), by a sum tree."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

FAN = 128
"""Children of a node: with so many, a million leaves are three levels, and each is a handful of tensor calls."""


class SumTree:
    """Leaves of float64 numbers from 0, all of them 0 at first; to set or to find one costs O(log leaves).

    `levels[0]` holds the leaves, each later level the sums of FAN neighbours of the one before, the last at most FAN.
    A sum is always computed from its children, never by adding a difference, so rounding errors do not accumulate.
    """

    def __init__(self, leaves: int, device: torch.device | str = "cpu") -> None:
        self.levels: list[Tensor] = []
        while not self.levels or leaves > 1:
            groups = math.ceil(leaves / FAN)
            self.levels.append(torch.zeros(groups * FAN, dtype=torch.float64, device=device))
            leaves = groups

    def set(self, leaf: Tensor, value: Tensor) -> None:
        """Leaves [N] take values [N]; the largest where a leaf is named more than once."""
        self.levels[0].scatter_reduce_(0, leaf, value, "amax", include_self=False)

        # Upwards, the parents of what has changed: all of a level at once where that is fewer sums.
        for below, above in itertools.pairwise(self.levels):
            groups, leaf = below.view(-1, FAN), leaf // FAN
            if len(leaf) < len(groups):
                above[leaf] = groups[leaf].sum(-1)
            else:
                above[: len(groups)] = groups.sum(-1)

    def total(self) -> Tensor:
        """[]: the sum of all leaves."""
        return self.levels[-1].sum()

    def find(self, mass: Tensor) -> Tensor:
        """[N] in [0, total) -> leaves [N]: the first whose cumulative sum exceeds the mass. Never a leaf of 0."""
        node = torch.zeros_like(mass, dtype=torch.int64)
        for level in reversed(self.levels):
            sums = level.view(-1, FAN)[node].cumsum(-1)
            # This cumulative sum may be rounded below the node's own value, which must not lead past its last child.
            mass = mass.minimum(sums[:, -1].nextafter(torch.zeros_like(mass)))
            child = torch.searchsorted(sums, mass.unsqueeze(-1), right=True)
            before = torch.where(child > 0, sums.gather(-1, (child - 1).clamp(min=0)), 0.0)
            node, mass = node * FAN + child.squeeze(-1), mass - before.squeeze(-1)
        return node


class Priorities:
    """The priority of each window of `length` steps, by the index at which it begins.

    A window gets the largest priority so far (1 before there is any) when its last step is added, and loses it when its
    first step is overwritten. New steps are only counted when something is drawn, so adding them costs nothing.

    Args:
        slots: vector steps in the ring.
        num_envs: environment steps in a vector step.
        length: of the windows, in steps.
        device: of the tree.
    """

    def __init__(self, slots: int, num_envs: int, length: int, device: torch.device | str = "cpu") -> None:
        self.slots = slots
        self.num_envs = num_envs
        self.length = length
        self.device = device
        self.spare = slots * num_envs  # a leaf that takes what cannot be drawn any more
        self.tree = SumTree(self.spare + 1, device)
        self.largest = torch.ones((), dtype=torch.float64, device=device)
        self.synced = 0  # vector steps that the tree knows of

    def sync(self, added: int) -> None:
        """Give priorities to the windows that the ring has gained, and take them from those it has lost.

        Args:
            added: vector steps added to the ring so far.
        """
        # Windows that lacked their last step until now begin up to `length` - 1 steps before the new ones.
        first = max(self.synced - self.length + 1, added - self.slots, 0)
        if added > self.synced:
            number = torch.arange(first, added, device=self.device).repeat_interleave(self.num_envs)
            env = torch.arange(self.num_envs, device=self.device).repeat(added - first)
            complete = number + self.length <= added
            self.tree.set(self._leaf(number, env), torch.where(complete, self.largest, 0.0))
        self.synced = added

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """[N] numbers in [0, 1) -> (indices [N], their probabilities [N]); each is drawn in a stratum of its own."""
        strata = torch.arange(len(uniform), device=self.device)
        total = self.tree.total()
        leaf = self.tree.find((strata + uniform) / len(uniform) * total)

        # A leaf is a slot; the newest step with that slot is the one that is there.
        newest = self.synced - 1
        number = newest - (newest - leaf // self.num_envs) % self.slots
        return number * self.num_envs + leaf % self.num_envs, self.tree.levels[0][leaf] / total

    def set(self, indices: Tensor, priority: Tensor) -> None:
        """Windows at indices [N] get priorities [N], but for those that are not in the ring (any more)."""
        number, env = indices // self.num_envs, indices % self.num_envs
        there = (number >= self.synced - self.slots) & (number + self.length <= self.synced)
        value = torch.where(there, priority.double(), 0.0)
        self.tree.set(torch.where(there, self._leaf(number, env), self.spare), value)
        self.largest = self.largest.maximum(value.max())

    def _leaf(self, number: Tensor, env: Tensor) -> Tensor:
        return number % self.slots * self.num_envs + env

    def state_dict(self) -> dict[str, Any]:
        """All of it: sums too, which a device may round otherwise when it adds up all of them at once."""
        levels = [level.cpu() for level in self.tree.levels]
        return {"length": self.length, "followed": self.synced, "largest": self.largest.cpu(), "levels": levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.length, self.synced = state["length"], state["followed"]
        self.largest = state["largest"].to(self.device)
        self.tree.levels = [level.to(self.device, copy=True) for level in state["levels"]]
