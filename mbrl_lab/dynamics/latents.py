"""Latents: the states that a recurrent model inferred at the steps of replay, from which windows can start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import Tree


class Latents:
    """A ring of packed states beside a replay's ring of steps.

    `put` stores the states inferred while acting; `refresh` overwrites them with those of the newer model that has
    just been trained on the same steps (Hafner et al. 2023).
    """

    def __init__(self, model: SequenceModel, replay: Replay) -> None:
        self.model, self.replay = model, replay
        # A packed state shows the shapes and dtypes of the rings.
        size = replay.slots * replay.num_envs
        template = model.pack(model.initial_state(1, replay.device))
        self.rings = {key: x.new_zeros(size, *x.shape[1:], device=replay.storage) for key, x in template.items()}

    def put(self, row: int, state: Tree) -> None:
        """Store the states [num_envs] of a vector step, numbered `row` since the start of the run."""
        indices = row * self.replay.num_envs + torch.arange(self.replay.num_envs, device=self.replay.storage)
        self._write(indices, self.model.pack(state))

    def refresh(self, indices: Tensor, states: Tree) -> None:
        """Store the states [L * B] of windows [L, B] that begin at indices [B], except those of the first steps."""
        packed = self.model.pack(states)
        length = len(next(iter(packed.values()))) // len(indices)

        # The first state of a window is the stored one that it was filtered from: there is nothing newer to store.
        every = indices + torch.arange(length, device=indices.device)[:, None] * self.replay.num_envs
        self._write(every[1:].flatten(), {key: x[len(indices) :] for key, x in packed.items()})

    def read(self, indices: Tensor) -> Tree:
        """The states [B] at indices [B]."""
        return self.model.unpack({key: x[self._places(indices)].to(indices.device) for key, x in self.rings.items()})

    def _write(self, indices: Tensor, packed: dict[str, Tensor]) -> None:
        places = self._places(indices)
        for key, x in packed.items():
            self.rings[key][places] = x.to(self.rings[key])

    def _places(self, indices: Tensor) -> Tensor:
        """Positions in the rings: replay's indices count up over the run, so they wrap at the ring's size."""
        return indices.to(self.replay.storage) % (self.replay.slots * self.replay.num_envs)

    def state(self) -> dict[str, Any]:
        return {key: x.cpu() for key, x in self.rings.items()}

    def load(self, state: dict[str, Any]) -> None:
        for key, x in self.rings.items():
            x.copy_(state[key])
