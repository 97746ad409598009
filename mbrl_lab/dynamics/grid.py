"""Grid: a world model of small binary grids, such as MinAtar's."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.dynamics.visual import Net, NetOutput, Visual
from mbrl_lab.nets.dilated import Dilated, Pooled
from mbrl_lab.ops import pick
from mbrl_lab.types import EnvSpec

LARGEST = 32
"""Most cells of a side; larger observations are images."""

COLOURS = "algo=dreamer, ddqn and ppo read any channels; with env=gym, env.grayscale=true makes one of three colours"
"""Advice for large colour images, which no ensemble predicts."""

RARE_LOGIT = -4.0
"""Initial logit of a change, and of executing another action than the chosen one."""

MIN_PROBABILITY = 1e-8
"""Floor of the probability of an outcome, for its logarithm."""


class GridNet(Net):
    """A mixture with an outcome for each action that the environment may have executed.

    With probability 1 - `slip` (learned) the chosen action is executed, else one drawn from a distribution given the
    state: sticky actions repeat the last one. Independent Bernoulli cells could not represent that: they would mix the
    outcomes within a frame. Within an outcome a cell changes where its probability of a change is above a half. A
    channel that had the same number of cells in all real frames keeps that number, in the likeliest cells: a ball
    neither vanishes nor doubles where the network is unsure of its direction.
    """

    min_cells: Tensor  # [C]: least number of full cells in real frames
    max_cells: Tensor  # [C]: the largest

    def __init__(self, spec: EnvSpec, channels: int, history: int, width: int, depth: int) -> None:
        super().__init__()
        self.channels, self.outcomes = channels, spec.action_dim
        # The trunk does not see the action: its features serve all outcomes, one for each executed action.
        self.trunk = Dilated(channels * history, spec.obs_shape[1:], 0, width, depth)  # type: ignore[arg-type]
        self.change = nn.Conv2d(width, self.outcomes * channels, 1)
        nn.init.zeros_(self.change.weight)
        nn.init.constant_(self.change.bias, RARE_LOGIT)  # type: ignore[arg-type]
        self.outcome_head = Pooled(width, 5 * self.outcomes)
        self.slip = nn.Parameter(torch.tensor(RARE_LOGIT))
        self.register_buffer("min_cells", torch.full((channels,), spec.obs_shape[1] * spec.obs_shape[2]))
        self.register_buffer("max_cells", torch.zeros(channels, dtype=torch.int64))
        # Counted from the buffers on first use, and again after a checkpoint is loaded.
        self._conserved: list[tuple[int, int]] | None = None
        self.register_load_state_dict_post_hook(lambda net, _: setattr(net, "_conserved", None))

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, need_frame: bool) -> NetOutput:
        change, logits, weight = self._run(state, action)
        # The loss of every outcome, as if the true frame were its own: the mixture weighs them.
        changed = (state[:, -self.channels :] != frame).float().unsqueeze(1).expand_as(change)
        error = F.binary_cross_entropy_with_logits(change, changed, reduction="none").sum((2, 3, 4))
        # The outcome by which the true frame is likeliest is the one to unroll from.
        if need_frame:
            likeliest = pick(change, (weight - error).argmax(1)).unsqueeze(1)
            frame = self._decode_frame(state, likeliest)[:, 0]
        return NetOutput(error, logits, weight, action.argmax(1), frame)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        change, logits, weight = self._run(state, action)
        return self._decode_frame(state, change), logits, weight

    @torch.no_grad()
    def update_statistics(self, frames: Tensor) -> None:
        """Update the least and largest number of full cells of each channel in real frames [N, C, H, W]."""
        count = frames.flatten(2).long().sum(-1)
        torch.minimum(self.min_cells, count.amin(0), out=self.min_cells)
        torch.maximum(self.max_cells, count.amax(0), out=self.max_cells)
        self._conserved = None

    def conserved(self) -> list[tuple[int, int]]:
        """(channel, number of cells) of the channels of constant number; cached, as reading waits for the device."""
        if self._conserved is None:
            channels = (self.min_cells == self.max_cells).nonzero().flatten()
            self._conserved = list(zip(channels.tolist(), self.max_cells[channels].tolist(), strict=True))
        return self._conserved

    def _run(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(logits of changes [N, K, C, H, W], of reward and termination [N, K, 4], log-probabilities [N, K])."""
        grids = state.float().contiguous(memory_format=torch.channels_last)
        features = self.trunk(grids)
        change = self.change(features).float().unflatten(1, (self.outcomes, self.channels))
        outcome = self.outcome_head(features).float().unflatten(1, (self.outcomes, 5))

        # p(k | s, a): the chosen action, or with probability `slip` another that the state makes likely.
        slip = self.slip.sigmoid()
        probability = (1 - slip) * action + slip * outcome[..., 4].softmax(-1)
        return change, outcome[..., :4], probability.clamp(min=MIN_PROBABILITY).log()

    @torch.no_grad()
    def _decode_frame(self, state: Tensor, change: Tensor) -> Tensor:
        """[N, K, C, H, W] uint8: the next frames given the logits of changes."""
        old = state[:, None, -self.channels :].bool()

        # A full cell stays full if it does not change: its logit of being full is that of no change.
        filled = torch.where(old, -change, change)
        frame = (filled > 0).byte()

        cells = frame.flatten(3)
        for channel, count in self.conserved():
            best = filled[:, :, channel].flatten(2).topk(count, -1).indices
            cells[:, :, channel] = torch.zeros_like(cells[:, :, channel]).scatter_(-1, best, 1)
        return cells.view_as(frame)


class GridModel(Visual):
    """Predicts every cell of the next binary grid from the newest `history` grids and the action.

    ValueError for images, and for continuous actions.
    """

    change_threshold, stochastic = 0, True

    def __init__(
        self,
        spec: EnvSpec,
        members: int,
        history: int,
        unroll: int,
        width: int,
        depth: int,
        optim: Optim,
        trainer: Trainer[Visual],
    ) -> None:
        if max(spec.obs_shape[1:], default=0) > LARGEST:
            size = " x ".join(map(str, spec.obs_shape[1:]))
            hint = "try dynamics=frames" if spec.obs_shape[0] == spec.stack else COLOURS
            raise ValueError(f"dynamics=grid predicts cells of 0 and 1, not images of {size}: {hint}")
        if not spec.discrete:
            given = f"not vectors of {spec.action_dim} numbers"
            raise ValueError(f"dynamics=grid needs discrete actions, {given}: try dynamics=latent or rssm_xs")
        channels = spec.obs_shape[0] // spec.stack

        def make() -> Net:
            return GridNet(spec, channels, history, width, depth)

        super().__init__(spec, make, members, history, unroll, width, optim, trainer)

    def update_statistics(self, frames: Tensor) -> None:
        for net in self.nets:
            cast(GridNet, net).update_statistics(frames)
