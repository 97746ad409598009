"""Which digits networks compute in, where that is not for autocast alone to say."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

FEW = 128
"""Rows from which fewer digits pay, for layers of some hundred units on a CPU."""

FEW_BATCHED = 64
"""The same where the layers of several members are one product: rows of each member."""

LARGE = 2**15
"""Weights of a layer from which they pay at all, as measured by benchmarks/precision.py; 128 x 128 is less."""


def autocast_dtype(device: str) -> torch.dtype:
    """What matrix products compute in on a kind of device: float32, or what a surrounding autocast says."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def worthwhile(rows: int, device: str, few: int = FEW) -> AbstractContextManager[object]:
    """A surrounding autocast, or float32 for so few rows that to cast weights would take longer than it saves."""
    return without_autocast(device) if rows < few else nullcontext()


def large_enough(net: nn.Module) -> bool:
    """Whether bf16 is faster for a network on hardware with native bf16: in small layers the casts cost more."""
    return any((p[0] if p.ndim == 3 else p).numel() >= LARGE for p in net.parameters() if p.ndim > 1)


def fp32_if_small(net: nn.Module, x: Tensor) -> Tensor:
    """`net` of [N, D], where that is `worthwhile` in the digits of a surrounding autocast."""
    with worthwhile(len(x), x.device.type):
        return net(x if len(x) >= FEW else x.float())


class Fp32Linear(nn.Linear):
    """A layer in float32 even under autocast: of numbers near 500 bfloat16 has every second or fourth only."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device.type):
            return super().forward(x.float())


def without_autocast(device: str) -> AbstractContextManager[object]:
    """A context in which products of float32 tensors are float32's."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def differentiate(loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
    """`loss.backward`, each layer in the digits it computed in: on a CPU a surrounding autocast casts anew."""
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward(inputs=inputs)
