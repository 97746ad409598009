"""Latents: what a model inferred at each row of replay, so that windows may begin where it was."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_lab.dynamics.rssm import RSSM
from mbrl_lab.replay import Replay
from mbrl_lab.types import Tree


class Latents:
    """A ring of states beside a replay's ring of rows, each a memory and the numbers of its latents' classes.

    `put` keeps what was inferred while acting; `renew` what a newer model infers at the same rows (Hafner et al. 2023).
    """

    def __init__(self, model: RSSM, replay: Replay) -> None:
        self.model, self.replay = model, replay
        places = replay.capacity_rows * replay.num_envs
        self.memory = torch.zeros(places, model.units, device=replay.storage)
        self.classes = torch.zeros(places, model.groups, dtype=torch.int16, device=replay.storage)

    def put(self, row: int, state: Tree) -> None:
        """Keep the states [num_envs] of a row."""
        indices = row * self.replay.num_envs + torch.arange(self.replay.num_envs, device=self.memory.device)
        self._write(indices, state)

    def renew(self, indices: Tensor, states: Tree) -> None:
        """Keep the states [L * B] of windows [L, B] that begin at indices [B], but for first rows, which were given."""
        length = len(states["memory"]) // len(indices)
        every = indices + torch.arange(length, device=indices.device)[:, None] * self.replay.num_envs
        self._write(every[1:].flatten(), {key: x[len(indices) :] for key, x in states.items()})

    def read(self, indices: Tensor) -> dict[str, Tensor]:
        """The states [B] at indices [B]."""
        place, device = indices.to(self.memory.device) % len(self.memory), indices.device
        classes = self.classes[place].to(device).long()
        latent = torch.nn.functional.one_hot(classes, self.model.classes).float()
        return {"memory": self.memory[place].to(device), "latent": latent}

    def _write(self, indices: Tensor, state: Tree) -> None:
        place = indices.to(self.memory.device) % len(self.memory)
        self.memory[place] = state["memory"].to(self.memory)
        self.classes[place] = state["latent"].argmax(-1).to(self.classes)

    def state(self) -> dict[str, Any]:
        return {"memory": self.memory.cpu(), "classes": self.classes.cpu()}

    def load(self, state: dict[str, Any]) -> None:
        self.memory.copy_(state["memory"])
        self.classes.copy_(state["classes"])
