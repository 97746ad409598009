"""Frames: a world model of grey images that keeps small objects, such as a ball."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.grid import COLOURS, LARGEST, RARE_LOGIT
from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.dynamics.visual import Net, NetOutput, Visual
from mbrl_lab.nets.dilated import Dilated, Pooled
from mbrl_lab.nets.encoder import space_to_depth
from mbrl_lab.types import EnvSpec

STEP = 8
"""Grey values in a level; a pixel changes if it differs by more."""

LEVELS = 256 // STEP

FRAME_WEIGHT, LEVEL_WEIGHT = 0.1, 0.3
"""Weights of the frame loss, and in it of the levels: a sum over 7,056 pixels is added to the loss of one reward."""


class FrameNet(Net):
    """Patches of `patch` x `patch` pixels become channels (space to depth) of a trunk that keeps the resolution.

    No bottleneck: a ball of five pixels would be lost in a vector, and does not pay for itself in the loss.
    """

    def __init__(self, spec: EnvSpec, history: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patch, self.square = patch, patch * patch
        size = spec.obs_shape[1] // patch, spec.obs_shape[2] // patch
        self.trunk = Dilated(self.square * history, size, spec.action_dim, width, depth)
        self.pixels = nn.Linear(width, self.square)
        self.outcome_head = Pooled(width, 4)
        # At first every pixel gets the same prediction, that of the bias: subclasses choose "nothing changes".
        nn.init.zeros_(self.pixels.weight)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        old, features, out, logits = self._run(state, action)
        return self._decode_frame(old, features, out)[:, None], logits[:, None], torch.zeros_like(logits[:, :1])

    @abstractmethod
    def _decode_frame(self, old: Tensor, features: Tensor, out: Tensor) -> Tensor:
        """[N, 1, H, W] uint8: the next frame from the newest one and the outputs of `_run`."""

    def _run(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(newest frame as patches, features, both [N, h, w, .], an output for each of its pixels, logits [N, 4])."""
        squares = space_to_depth(state, self.patch)
        pixels = squares.to(torch.float32).mul_(1 / 255).movedim(-1, 1)
        features = self.trunk(pixels, action)
        placed = features.movedim(1, -1)
        return squares[..., -self.square :], placed, self.pixels(placed).float(), self.outcome_head(features)


class LevelNet(FrameNet):
    """Classifies each pixel: whether it changes, and to which of 32 grey levels. Other pixels are copied exactly.

    A level is drawn as its most frequent grey value in real frames.
    """

    palette: Tensor

    def __init__(self, spec: EnvSpec, history: int, patch: int, width: int, depth: int) -> None:
        super().__init__(spec, history, patch, width, depth)
        nn.init.constant_(self.pixels.bias, RARE_LOGIT)
        self.levels = nn.Linear(width, self.square * LEVELS)
        self.register_buffer("palette", torch.arange(STEP // 2, 256, STEP).byte())

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, need_frame: bool) -> NetOutput:
        old, features, gate, logits = self._run(state, action)
        new = space_to_depth(frame, self.patch)
        # Signed, since differences of uint8 wrap around.
        changes = (new.short() - old.short()).abs() > STEP
        error = F.binary_cross_entropy_with_logits(gate, changes.float(), reduction="none").sum((1, 2, 3))

        # Levels are computed only where a patch has a changed pixel, which few have.
        some = changes.any(-1).nonzero(as_tuple=True)
        level = self._levels(features, some)[changes[some]]
        level_loss = F.cross_entropy(level, (new[changes] // STEP).long(), reduction="none")
        error = error + LEVEL_WEIGHT * torch.zeros_like(gate).masked_scatter(changes, level_loss).sum((1, 2, 3))
        following = self._decode_frame(old, features, gate) if need_frame else frame
        return single_outcome(FRAME_WEIGHT * error, logits, following)

    @torch.no_grad()
    def _decode_frame(self, old: Tensor, features: Tensor, gate: Tensor) -> Tensor:
        """[N, 1, H, W]: the likeliest level where the probability of a change is above a half."""
        changes = gate > 0
        some = changes.any(-1).nonzero(as_tuple=True)
        new = old.clone()
        values = self.palette[self._levels(features, some).argmax(-1)]
        new[some] = torch.where(changes[some], values, old[some])
        return depth_to_space(new, self.patch)

    def _levels(self, features: Tensor, where: tuple[Tensor, ...]) -> Tensor:
        """[M, S, 32] logits of S pixels at M positions of [N, h, w]."""
        return self.levels(features[where]).float().unflatten(-1, (self.square, LEVELS))


class DeltaNet(FrameNet):
    """Regresses the change of each pixel by squared error: the usual baseline, which loses small objects."""

    def __init__(self, spec: EnvSpec, history: int, patch: int, width: int, depth: int) -> None:
        super().__init__(spec, history, patch, width, depth)
        nn.init.zeros_(self.pixels.bias)

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, need_frame: bool) -> NetOutput:
        old, features, delta, logits = self._run(state, action)
        # In fractions of the brightness, signed, since differences of uint8 wrap around.
        target = (space_to_depth(frame, self.patch).short() - old.short()) / 255
        error = (delta - target).square().sum((1, 2, 3))
        following = self._decode_frame(old, features, delta) if need_frame else frame
        return single_outcome(error, logits, following)

    @torch.no_grad()
    def _decode_frame(self, old: Tensor, features: Tensor, delta: Tensor) -> Tensor:
        return depth_to_space((old + 255 * delta).round().clamp(0, 255).byte(), self.patch)


def single_outcome(error: Tensor, logits: Tensor, frame: Tensor) -> NetOutput:
    """A single outcome with probability 1: frame losses [N], logits [N, 4]."""
    zero = torch.zeros_like(error)
    return NetOutput(error[:, None], logits[:, None], zero[:, None], zero.long(), frame)


def depth_to_space(squares: Tensor, side: int) -> Tensor:
    """[N, h, w, side * side] -> [N, 1, side * h, side * w]: the inverse of `space_to_depth` for one channel."""
    return squares.unflatten(-1, (side, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2).unsqueeze(1)


TARGETS: dict[str, type[LevelNet] | type[DeltaNet]] = {"levels": LevelNet, "delta": DeltaNet}


class FrameModel(Visual):
    """Predicts the next grey frame from the newest `history`, by `target`: levels or delta.

    ValueError for observations that are not grey frames, or whose sides are not multiples of `patch`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        members: int,
        history: int,
        unroll: int,
        patch: int,
        width: int,
        depth: int,
        target: str,
        optim: Optim,
        trainer: Trainer[Visual],
    ) -> None:
        if len(spec.obs_shape) == 3 and spec.obs_shape[0] != spec.stack:
            hint = "try dynamics=grid" if max(spec.obs_shape[1:]) <= LARGEST else COLOURS
            raise ValueError(f"dynamics=frames predicts grey frames, not {spec.obs_shape[0]} channels: {hint}")
        if any(side % patch for side in spec.obs_shape[1:]):
            high, wide = spec.obs_shape[1:]
            allowed = ", ".join(str(n) for n in range(1, min(high, wide) + 1) if not high % n and not wide % n)
            raise ValueError(f"dynamics.patch is {patch}; for images of {high} x {wide} it must be one of {allowed}")
        self.square = patch * patch

        # The base class makes the members, once it has checked the spec.
        def make() -> Net:
            return TARGETS[target](spec, history, patch, width, depth)

        super().__init__(spec, make, members, history, unroll, width, optim, trainer)

    def update_statistics(self, frames: Tensor) -> None:
        """Set the grey value of each level to its most frequent one in real frames; absent levels keep theirs.

        Games have few grey values: drawn as its centre, every level would be slightly wrong in each predicted frame.
        """
        count = torch.bincount(frames.flatten().long(), minlength=256).view(LEVELS, STEP)
        most = count.argmax(1) + torch.arange(LEVELS, device=count.device) * STEP
        for net in self.nets:
            if isinstance(net, LevelNet):
                net.palette.copy_(torch.where(count.any(1), most.byte(), net.palette))
