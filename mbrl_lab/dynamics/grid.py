"""Grid: a world model of small grids of 0 and 1, such as MinAtar's."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.dynamics.visual import Net, Said, Visual
from mbrl_lab.nets.dilated import Dilated, Pooled
from mbrl_lab.ops import pick
from mbrl_lab.types import EnvSpec

LARGEST = 32
"""Cells of a side; what is larger is an image."""

COLOURS = "algo=dreamer, ddqn and ppo read any channels; with env=gym, env.grayscale=true makes one of three colours"
"""What to do with large images that are not grey, of which no ensemble makes a model."""

RARE_LOGIT = -4.0
"""With what logit a change begins, and that another action is done."""

TINY = 1e-8
"""The least probability of an outcome."""


class GridNet(Net):
    """An outcome for each action that may have been done in truth: for each channel and cell whether it changes.

    That is the one that was asked for but for a learned probability, `slip`, with which it is one that the state makes
    likely: where actions stick, the last one is done again now and then. Cells that are drawn apart, each with its own
    probability, would fit neither. In one outcome a cell changes where that has a probability over a half; but a
    channel that has had the same number of cells in all real frames keeps it, in the likeliest cells: a ball neither
    vanishes nor doubles where the network is unsure of its way.
    """

    least: Tensor
    most: Tensor

    def __init__(self, spec: EnvSpec, channels: int, history: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels, self.outcomes = channels, spec.action_dim
        self.trunk = Dilated(channels * history, spec.obs_shape[1:], 0, width, depth)  # type: ignore[arg-type]
        self.change = nn.Conv2d(width, self.outcomes * channels, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.constant_(self.change.bias, RARE_LOGIT)  # type: ignore[arg-type]
        self.rest = Pooled(width, 5 * self.outcomes)
        self.slip = nn.Parameter(torch.tensor(RARE_LOGIT))
        self.register_buffer("least", torch.full((channels,), spec.obs_shape[1] * spec.obs_shape[2]))
        self.register_buffer("most", torch.zeros(channels, dtype=torch.int64))
        self._kept: list[tuple[int, int]] | None = None
        self.register_load_state_dict_post_hook(lambda net, _: setattr(net, "_kept", None))

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, on: bool) -> Said:
        change, logits, weight = self._say(state, action)
        changed = (state[:, -self.channels :] != frame).float().unsqueeze(1).expand_as(change)
        error = F.binary_cross_entropy_with_logits(change, changed, reduction="none").sum((2, 3, 4))
        if on:
            likeliest = pick(change, (weight - error).argmax(1)).unsqueeze(1)
            frame = self._decide(state, likeliest)[:, 0]
        return Said(error, logits, weight, action.argmax(1), frame)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        change, logits, weight = self._say(state, action)
        return self._decide(state, change), logits, weight

    @torch.no_grad()
    def study(self, frames: Tensor) -> None:
        """Count the cells of each channel in real frames [N, C, H, W]."""
        count = frames.flatten(2).long().sum(-1)
        torch.minimum(self.least, count.amin(0), out=self.least)
        torch.maximum(self.most, count.amax(0), out=self.most)
        self._kept = None

    def kept(self) -> list[tuple[int, int]]:
        """(channel, number of cells) of the channels whose number never changed; the device is asked once a fit."""
        if self._kept is None:
            channels = (self.least == self.most).nonzero().flatten()
            self._kept = list(zip(channels.tolist(), self.most[channels].tolist(), strict=True))
        return self._kept

    def _say(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits of changes [N, K, C, H, W], logits of the rest [N, K, 4], log-probabilities [N, K])."""
        seen = state.float().contiguous(memory_format=torch.channels_last)
        features = self.trunk(seen)
        change = self.change(features).float().unflatten(1, (self.outcomes, self.channels))
        rest = self.rest(features).float().unflatten(1, (self.outcomes, 5))
        slip = self.slip.sigmoid()
        return change, rest[..., :4], ((1 - slip) * action + slip * rest[..., 4].softmax(-1)).clamp(min=TINY).log()

    @torch.no_grad()
    def _decide(self, state: Tensor, change: Tensor) -> Tensor:
        """[N, K, C, H, W] uint8: the next frames by logits of changes."""
        old = state[:, None, -self.channels :].bool()
        filled = torch.where(old, -change, change)
        frame = (filled > 0).byte()
        cells = frame.flatten(3)
        for channel, count in self.kept():
            best = filled[:, :, channel].flatten(2).topk(count, -1).indices
            cells[:, :, channel] = torch.zeros_like(cells[:, :, channel]).scatter_(-1, best, 1)
        return cells.view_as(frame)


class GridModel(Visual):
    """Per channel and cell of the next grid one bit, given the newest `history` grids and the action.

    ValueError for images, and for actions that are no choice among some.
    """

    far, chance = 0, True

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
        trainer: Trainer[Visual],
    ) -> None:
        if max(spec.obs_shape[1:], default=0) > LARGEST:
            size = " x ".join(map(str, spec.obs_shape[1:]))
            cure = "try dynamics=frames" if spec.obs_shape[0] == spec.stack else COLOURS
            raise ValueError(f"dynamics=grid predicts cells of 0 and 1, not images of {size}: {cure}")
        if not spec.discrete:
            given = f"not vectors of {spec.action_dim} numbers"
            raise ValueError(f"dynamics=grid needs discrete actions, {given}: try dynamics=latent or rssm_xs")
        channels = spec.obs_shape[0] // spec.stack

        def make() -> Net:
            return GridNet(spec, channels, history, width, depth)

        super().__init__(spec, make, members, history, unroll, width, lr, clip, trainer)

    def study(self, frames: Tensor) -> None:
        for net in self.nets:
            cast(GridNet, net).study(frames)
