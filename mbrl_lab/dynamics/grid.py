"""Grid: a world model of small grids of 0 and 1, such as MinAtar's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.visual import Net, Visual
from mbrl_lab.nets.dilated import Dilated, Pooled
from mbrl_lab.types import EnvSpec

LARGEST = 32
"""Cells of a side; what is larger is an image."""

SELDOM = -4.0
"""With what logit a change begins."""


class GridNet(Net):
    """For each channel and cell the probability that it changes; it is taken to change where that is over a half."""

    def __init__(self, spec: EnvSpec, channels: int, history: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels = channels
        self.trunk = Dilated(channels * history, spec.obs_shape[1:], spec.action_dim, width, depth)  # type: ignore[arg-type]
        self.change = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.constant_(self.change.bias, SELDOM)  # type: ignore[arg-type]
        self.rest = Pooled(width, 4)

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, on: bool) -> tuple[Tensor, Tensor, Tensor]:
        change, logits = self._say(state, action)
        old = state[:, -self.channels :]
        error = F.binary_cross_entropy_with_logits(change, (old != frame).float(), reduction="none")
        return error.sum((1, 2, 3)), logits, old ^ (change.detach() > 0).byte() if on else frame

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        change, logits = self._say(state, action)
        return state[:, -self.channels :] ^ (change > 0).byte(), logits

    def _say(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        seen = state.float().contiguous(memory_format=torch.channels_last)
        features = self.trunk(seen, action)
        return self.change(features).float(), self.rest(features)


class Grid(Visual):
    """Per channel and cell of the next grid one bit, given the newest `history` grids and the action."""

    far = 0

    def __init__(
        self,
        spec: EnvSpec,
        members: int,
        history: int,
        unroll: int,
        width: int,
        depth: int,
        lr: float,
        clip: float,
    ) -> None:
        if max(spec.obs_shape[1:], default=0) > LARGEST:
            size = " x ".join(map(str, spec.obs_shape[1:]))
            raise ValueError(f"dynamics=grid predicts cells of 0 and 1, not images of {size}: try dynamics=frames")
        channels = spec.obs_shape[0] // spec.stack

        def make() -> Net:
            return GridNet(spec, channels, history, width, depth)

        super().__init__(spec, make, members, history, unroll, width, lr, clip)
