"""Frames: a world model of grey images that keeps what is small, such as a ball."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.grid import COLOURS, LARGEST, RARE_LOGIT
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.dynamics.visual import Net, Said, Visual
from mbrl_lab.nets.dilated import Dilated, Pooled
from mbrl_lab.nets.encoder import space_to_depth
from mbrl_lab.types import EnvSpec

STEP = 8
"""Grey values in a level, and by more than how many a pixel changes."""

LEVELS = 256 // STEP

FRAME, LEVEL = 0.1, 0.3
"""Weights of a frame's loss, and in it of the levels: the sum over 7,056 pixels stands beside one reward."""


class FrameNet(Net):
    """Images as squares of `patch` x `patch` pixels in their channels, through a trunk that keeps the places."""

    def __init__(self, spec: EnvSpec, history: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patch, self.square = patch, patch * patch
        size = spec.obs_shape[1] // patch, spec.obs_shape[2] // patch
        self.trunk = Dilated(self.square * history, size, spec.action_dim, width, depth)
        self.pixels = nn.Linear(width, self.square)
        self.rest = Pooled(width, 4)
        nn.init.zeros_(self.pixels.weight)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        old, features, out, logits = self._say(state, action)
        return self._decide(old, features, out)[:, None], logits[:, None], torch.zeros_like(logits[:, :1])

    @abstractmethod
    def _decide(self, old: Tensor, features: Tensor, out: Tensor) -> Tensor:
        """[N, 1, H, W] uint8: the next frame, by what `_say` says."""

    def _say(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(the newest frame in squares, features, both [N, h, w, .], a number for each of its pixels, logits)."""
        squares = space_to_depth(state, self.patch)
        seen = squares.to(torch.float32).mul_(1 / 255).movedim(-1, 1)
        features = self.trunk(seen, action)
        placed = features.movedim(1, -1)
        return squares[..., -self.square :], placed, self.pixels(placed).float(), self.rest(features)


class LevelNet(FrameNet):
    """For each pixel whether it changes, and if so to which of 32 grey levels; else it stays as it is, exactly.

    What a level looks like is the value that is most frequent in it.
    """

    palette: Tensor

    def __init__(self, spec: EnvSpec, history: int, patch: int, width: int, depth: int) -> None:
        super().__init__(spec, history, patch, width, depth)
        nn.init.constant_(self.pixels.bias, RARE_LOGIT)
        self.levels = nn.Linear(width, self.square * LEVELS)
        self.register_buffer("palette", torch.arange(STEP // 2, 256, STEP).byte())

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, on: bool) -> Said:
        old, features, gate, logits = self._say(state, action)
        new = space_to_depth(frame, self.patch)
        changes = (new.short() - old.short()).abs() > STEP
        error = F.binary_cross_entropy_with_logits(gate, changes.float(), reduction="none").sum((1, 2, 3))
        some = changes.any(-1).nonzero(as_tuple=True)
        level = self._levels(features, some)[changes[some]]
        wrong = F.cross_entropy(level, (new[changes] // STEP).long(), reduction="none")
        error = error + LEVEL * torch.zeros_like(gate).masked_scatter(changes, wrong).sum((1, 2, 3))
        return sure(FRAME * error, logits, self._decide(old, features, gate) if on else frame)

    @torch.no_grad()
    def _decide(self, old: Tensor, features: Tensor, gate: Tensor) -> Tensor:
        """[N, 1, H, W]: the levels where a change is more likely than not."""
        open_ = gate > 0
        some = open_.any(-1).nonzero(as_tuple=True)
        new = old.clone()
        seen = self.palette[self._levels(features, some).argmax(-1)]
        new[some] = torch.where(open_[some], seen, old[some])
        return depth_to_space(new, self.patch)

    def _levels(self, features: Tensor, where: tuple[Tensor, ...]) -> Tensor:
        """[M, S, 32] logits of S pixels at M places of [N, h, w]: they are few."""
        return self.levels(features[where]).float().unflatten(-1, (self.square, LEVELS))


class DeltaNet(FrameNet):
    """The change of each pixel by squared error: the classic form, which forgets what is small."""

    def __init__(self, spec: EnvSpec, history: int, patch: int, width: int, depth: int) -> None:
        super().__init__(spec, history, patch, width, depth)
        nn.init.zeros_(self.pixels.bias)

    def loss(self, state: Tensor, action: Tensor, frame: Tensor, on: bool) -> Said:
        old, features, delta, logits = self._say(state, action)
        target = (space_to_depth(frame, self.patch).short() - old.short()) / 255
        return sure(
            (delta - target).square().sum((1, 2, 3)), logits, self._decide(old, features, delta) if on else frame
        )

    @torch.no_grad()
    def _decide(self, old: Tensor, features: Tensor, delta: Tensor) -> Tensor:
        return depth_to_space((old + 255 * delta).round().clamp(0, 255).byte(), self.patch)


def sure(error: Tensor, logits: Tensor, frame: Tensor) -> Said:
    """One outcome, that is certain: errors [N], logits [N, 4]."""
    zero = torch.zeros_like(error)
    return Said(error[:, None], logits[:, None], zero[:, None], zero.long(), frame)


def depth_to_space(squares: Tensor, side: int) -> Tensor:
    """[N, h, w, side * side] -> [N, 1, side * h, side * w]: the inverse of `space_to_depth` for one channel."""
    return squares.unflatten(-1, (side, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2).unsqueeze(1)


TARGETS: dict[str, type[LevelNet] | type[DeltaNet]] = {"levels": LevelNet, "delta": DeltaNet}


class FrameModel(Visual):
    """The next grey frame of the newest `history`, as `target` says: levels or delta.

    ValueError for observations that are no grey frames, or whose sides are no multiples of `patch`.
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
        lr: float,
        clip: float,
        trainer: Trainer[Visual],
    ) -> None:
        if len(spec.obs_shape) == 3 and spec.obs_shape[0] != spec.stack:
            cure = "try dynamics=grid" if max(spec.obs_shape[1:]) <= LARGEST else COLOURS
            raise ValueError(f"dynamics=frames predicts grey frames, not {spec.obs_shape[0]} channels: {cure}")
        if any(side % patch for side in spec.obs_shape[1:]):
            high, wide = spec.obs_shape[1:]
            allowed = ", ".join(str(n) for n in range(1, min(high, wide) + 1) if not high % n and not wide % n)
            raise ValueError(f"dynamics.patch is {patch}; for images of {high} x {wide} it must be one of {allowed}")
        self.square = patch * patch

        def make() -> Net:
            return TARGETS[target](spec, history, patch, width, depth)

        super().__init__(spec, make, members, history, unroll, width, lr, clip, trainer)

    def study(self, frames: Tensor) -> None:
        """Learn what each level looks like from real frames; one that is not there stays as it was."""
        count = torch.bincount(frames.flatten().long(), minlength=256).view(LEVELS, STEP)
        most = count.argmax(1) + torch.arange(LEVELS, device=count.device) * STEP
        for net in self._levelled():
            net.palette.copy_(torch.where(count.any(1), most.byte(), net.palette))

    def _levelled(self) -> Iterable[LevelNet]:
        return (net for net in self.nets if isinstance(net, LevelNet))
