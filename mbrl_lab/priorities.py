"""Priorities: windows of a ring drawn in proportion to a number each (Schaul et al. 2016), by a tree of sums."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

FAN = 128
"""Children of a node: with so many, a million leaves are three levels, and each is a handful of tensor calls."""


class SumTree:
    """Numbers from 0, float64, all of them 0 at first; to set or to find one costs O(log leaves).

    `levels[0]` holds the leaves, each later level the sums of FAN neighbours of the one before, the last at most FAN.
    Sums are computed anew from what they sum, so no error gathers.
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
        for below, above in itertools.pairwise(self.levels):
            groups, leaf = below.view(-1, FAN), leaf // FAN
            if len(leaf) < len(groups):
                above[leaf] = groups[leaf].sum(-1)
            else:
                above[: len(groups)] = groups.sum(-1)

    def total(self) -> Tensor:
        """[]: the sum of all."""
        return self.levels[-1].sum()

    def find(self, mass: Tensor) -> Tensor:
        """[N] in [0, total) -> leaves [N]: the first with which the running sum exceeds the mass. None that is 0."""
        node = torch.zeros_like(mass, dtype=torch.int64)
        for level in reversed(self.levels):
            sums = level.view(-1, FAN)[node].cumsum(-1)
            mass = mass.minimum(sums[:, -1].nextafter(torch.zeros_like(mass)))  # a node's sum is rounded otherwise
            child = torch.searchsorted(sums, mass.unsqueeze(-1), right=True)
            before = torch.where(child > 0, sums.gather(-1, (child - 1).clamp(min=0)), 0.0)
            node, mass = node * FAN + child.squeeze(-1), mass - before.squeeze(-1)
        return node


class Priorities:
    """What each window of `length` rows weighs that begins at an index of a ring of `rows` x `num_envs`.

    A window gets the largest priority so far (1 before there is any) when its last row comes, and loses what it has
    when its first row is overwritten. The ring is followed when something is drawn, so adding rows costs nothing.
    """

    def __init__(self, rows: int, num_envs: int, length: int, device: torch.device | str = "cpu") -> None:
        self.rows, self.num_envs, self.length, self.device = rows, num_envs, length, device
        self.spare = rows * num_envs
        self.tree = SumTree(self.spare + 1, device)
        self.largest = torch.ones((), dtype=torch.float64, device=device)
        self.followed = 0

    def follow(self, added: int) -> None:
        """So many rows have been added to the ring by now."""
        first = max(self.followed - self.length + 1, added - self.rows, 0)
        if added > self.followed:
            row = torch.arange(first, added, device=self.device).repeat_interleave(self.num_envs)
            env = torch.arange(self.num_envs, device=self.device).repeat(added - first)
            whole = row + self.length <= added
            self.tree.set(row % self.rows * self.num_envs + env, torch.where(whole, self.largest, 0.0))
        self.followed = added

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """[N] numbers in [0, 1) -> (indices [N], their probabilities [N]); each is drawn in a stratum of its own."""
        strata = torch.arange(len(uniform), device=self.device)
        total = self.tree.total()
        leaf = self.tree.find((strata + uniform) / len(uniform) * total)
        newest = self.followed - 1
        row = newest - (newest - leaf // self.num_envs) % self.rows
        return row * self.num_envs + leaf % self.num_envs, self.tree.levels[0][leaf] / total

    def set(self, indices: Tensor, priority: Tensor) -> None:
        """Indices [N] have priorities [N] from now on, but for those that cannot be drawn (any more)."""
        row, env = indices // self.num_envs, indices % self.num_envs
        there = (row >= self.followed - self.rows) & (row + self.length <= self.followed)
        value = torch.where(there, priority.double(), 0.0)
        self.tree.set(torch.where(there, row % self.rows * self.num_envs + env, self.spare), value)
        self.largest = self.largest.maximum(value.max())

    def state_dict(self) -> dict[str, Any]:
        """All of it: sums too, which a device may round otherwise when it adds up all of them at once."""
        levels = [level.cpu() for level in self.tree.levels]
        return {"length": self.length, "followed": self.followed, "largest": self.largest.cpu(), "levels": levels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.length, self.followed = state["length"], state["followed"]
        self.largest = state["largest"].to(self.device)
        self.tree.levels = [level.to(self.device, copy=True) for level in state["levels"]]
