"""Grid: a world model of small grids of 0 and 1, such as MinAtar's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.visual import Net, Said, Visual, of
from mbrl_lab.nets.dilated import Dilated, Pooled
from mbrl_lab.types import EnvSpec

LARGEST = 32
"""Cells of a side; what is larger is an image."""

SELDOM = -4.0
"""With what logit a change begins, and that another action is done."""

TINY = 1e-8
"""The least probability of an outcome."""


class GridNet(Net):
    """An outcome for each action that may have been done in truth: for each channel and cell whether it changes.

    That is the one that was asked for but for a learned probability, `slip`, with which it is one that the state makes
    likely: where actions stick, the last one is done again now and then. Cells that are drawn apart, each with its own
    probability, would fit neither. In one outcome a cell changes where that has a probability over a half.
    """

    def __init__(self, spec: EnvSpec, channels: int, history: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels, self.outcomes = channels, spec.action_dim
        self.trunk = Dilated(channels * history, spec.obs_shape[1:], 0, width, depth)  # type: ignore[arg-type]
        self.change = nn.Conv2d(width, self.outcomes * channels, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.constant_(self.change.bias, SELDOM)  # type: ignore[arg-type]
        self.rest = Pooled(width, 5 * self.outcomes)
        self.slip = nn.Parameter(torch.tensor(SELDOM))

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, on: bool) -> Said:
        change, logits, weight = self._say(state, action)
        old = state[:, -self.channels :]
        changed = (old != frame).float().unsqueeze(1).expand_as(change)
        error = F.binary_cross_entropy_with_logits(change, changed, reduction="none").sum((2, 3, 4))
        if on:
            frame = old ^ (of(change, (weight - error).argmax(1)) > 0).byte()
        return Said(error, logits, weight, frame)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        change, logits, weight = self._say(state, action)
        return state[:, None, -self.channels :] ^ (change > 0).byte(), logits, weight

    def _say(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits of changes [N, K, C, H, W], logits of the rest [N, K, 4], log-probabilities [N, K])."""
        seen = state.float().contiguous(memory_format=torch.channels_last)
        features = self.trunk(seen)
        change = self.change(features).float().unflatten(1, (self.outcomes, self.channels))
        rest = self.rest(features).float().unflatten(1, (self.outcomes, 5))
        slip = self.slip.sigmoid()
        return change, rest[..., :4], ((1 - slip) * action + slip * rest[..., 4].softmax(-1)).clamp(min=TINY).log()


class Grid(Visual):
    """Per channel and cell of the next grid one bit, given the newest `history` grids and the action.

    ValueError for images, and for actions that are no choice among some.
    """

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
        if not spec.discrete:
            raise ValueError(f"dynamics=grid needs discrete actions, not vectors of {spec.action_dim} numbers")
        channels = spec.obs_shape[0] // spec.stack

        def make() -> Net:
            return GridNet(spec, channels, history, width, depth)

        super().__init__(spec, make, members, history, unroll, width, lr, clip)
