"""Dilated: a trunk of convolutions that keeps an image's size, has a wide receptive field, and takes an action."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DILATIONS = (1, 2), (4, 2)
"""Of the two convolutions of a block, in turn: after three blocks the receptive field covers an image of 21 x 21."""


class Dilated(nn.Module):
    """[N, channels, h, w] and actions [N, A] -> [N, width, h, w].

    A convolution, a bias for each place and channel, then `depth` times x + conv(relu(conv(relu(x)))). A linear
    function of the action is added to each block's input; with 0 `actions` there is none. A block's second convolution
    is initialised to 0. There is no normalisation: on a CPU it takes longer than the convolutions do in bfloat16.
    """

    def __init__(self, channels: int, size: tuple[int, int], actions: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.place = nn.Parameter(torch.zeros(width, *size))
        self.actions = nn.ModuleList(nn.Linear(actions, width) for _ in range(depth if actions else 0))
        pairs = [DILATIONS[k % len(DILATIONS)] for k in range(depth)]
        self.inner = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d, _ in pairs)
        self.outer = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for _, d in pairs)

        # Each block is the identity at first.
        for conv in self.outer:
            nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        x = self.first(x)

        # Convolutions cannot tell places apart, and games have walls.
        x = x + self.place.to(x.dtype)
        for k, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True)):
            conditioned = x if action is None else x + self.actions[k](action).to(x.dtype)[..., None, None]
            x = x + outer(nn.functional.relu_(inner(nn.functional.relu(conditioned))))
        return nn.functional.relu(x)


class Pooled(nn.Module):
    """[N, width, h, w] -> [N, outputs]: mean and maximum over all places through a layer with ReLU."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(2 * width, width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], -1)
        return self.out(nn.functional.relu(self.hidden(pooled)))
