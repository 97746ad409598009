"""Imagined: a second replay, of what a model imagined lately."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_lab.replay import Replay, shortage
from mbrl_lab.types import EnvSpec, Step


class Imagined:
    """The newest `keep` batches of rollouts, each from `starts` states and of up to `longest` steps, on `device`.

    Stacked observations are kept a frame a step, as real ones are. A rollout begins with a whole stack, so steps that
    hold its older frames stand before it, in which no transition begins. With stacks of 3 and a rollout of 2 steps:

        kept step           0     1     2     3     4
        its newest frame    a     b     c     d     e
        first               yes   no    no    no    no     so that stacks are never filled from another rollout
        stack read here                abc   bcd   cde
        transition from                 2     3

    ValueError names what to make smaller where there is no memory for them.
    """

    def __init__(self, spec: EnvSpec, keep: int, starts: int, longest: int, device: torch.device | str) -> None:
        capacity, device = keep * (longest + spec.stack) * starts, torch.device(device)
        if problem := shortage(spec, capacity, device):
            asked = f"algo.starts={starts} for {keep} times up to {longest} imagined steps"
            raise ValueError(f"{asked} {problem}: make algo.starts, algo.rollouts.keep or algo.rollouts.length smaller")
        self.keep = keep
        self.replay = Replay(spec, capacity, starts, 0, device)
        self.lengths: list[int] = []  # rows of each batch, the newest last
        self.indices = torch.zeros(0, dtype=torch.int64, device=device)  # at which a transition begins

    def add(self, steps: Step) -> None:
        """Keep rollouts [T, starts], and let go of those that are too old."""
        rows = [*self._before(steps.at(0)), *(steps.at(t) for t in range(len(steps.first)))]
        if self.replay.older_frames:
            rows[self.replay.older_frames] = steps.at(0)._replace(first=torch.zeros_like(steps.first[0]))
        for row in rows:
            self.replay.add(row)
        self.lengths = [*self.lengths, len(rows)][-self.keep :]
        self._index()

    def _before(self, start: Step) -> list[Step]:
        """Rows whose newest frames are the older ones of where a rollout starts, the first of them marked so."""
        older = self.replay.older_frames
        stacks = [start.obs[:, t : t + 1].expand_as(start.obs) for t in range(older)]
        return [start._replace(obs=x, first=torch.full_like(start.first, t == 0)) for t, x in enumerate(stacks)]

    def sample(self, batch: int, length: int, n_step: Tensor | int | None = None) -> Step:
        """[length, batch] windows, uniform over imagined transitions; see `Replay.read`."""
        index = torch.randint(len(self.indices), (batch,), device=self.indices.device)
        return self.replay.read(self.indices[index], length, n_step)

    def _index(self) -> None:
        oldest, device = self.replay.added - sum(self.lengths), self.indices.device
        begun = torch.cat([torch.arange(n, device=device) >= self.replay.older_frames for n in self.lengths])
        indices = self.replay.transitions()
        row = indices // self.replay.num_envs - oldest
        indices, row = indices[row >= 0], row[row >= 0]
        self.indices = indices[begun[row]]

    def get_extra_state(self) -> dict[str, Any]:
        """Everything, the rows too, on the CPU."""
        rows = self.replay.steps(self.replay.added - sum(self.lengths), self.replay.added)
        return {"added": self.replay.added, "lengths": list(self.lengths), "rows": tuple(rows)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_extra_state` gave."""
        self.replay.added, self.lengths = state["added"], list(state["lengths"])
        self.replay.restore(self.replay.added - sum(self.lengths), Step(*state["rows"]))
        self._index()


def mix(real: Step, imagined: Step) -> Step:
    """[L, A] and [L, B] rows -> [L, A + B]."""
    return Step(*(torch.cat([a, b], 1) for a, b in zip(real, imagined, strict=True)))


def mean_length(steps: Step) -> Tensor:
    """[]: of rollouts [T + 1, B], the mean number of steps that were imagined."""
    return (~steps.first[1:]).float().sum(0).mean()
