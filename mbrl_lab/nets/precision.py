"""Which precision networks compute in, where a surrounding autocast does not decide alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

SMALL_BATCH = 128
"""Below so many rows float32 is quicker than bfloat16, for layers of some hundred units on a CPU."""

SMALL_MEMBER_BATCH = 64
"""The same where the layers of several members are one product: rows of each member."""

LARGE_LAYER = 2**15
"""From so many weights on bfloat16 makes a layer quicker, as measured by benchmarks/precision.py; 128 x 128 is less."""


def autocast_dtype(device: str) -> torch.dtype:
    """The dtype of matrix products on a kind of device: float32, or that of a surrounding autocast."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def fp32_if_few(rows: int, device: str, few: int = SMALL_BATCH) -> AbstractContextManager[object]:
    """A surrounding autocast, or float32 below `few` rows, where casting weights would take longer than it saves."""
    # Autocast first: an exported network has none, and must not depend on its number of rows.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) and rows < few else nullcontext()


def fp32_if_small(net: nn.Module, x: Tensor) -> Tensor:
    """`net` of [N, D], in float32 if the batch is small, else in the dtype of a surrounding autocast."""
    if not torch.is_autocast_enabled(x.device.type):
        return net(x)
    # A large batch is cast by autocast itself. A small one may come in bfloat16, from an encoder.
    with fp32_if_few(len(x), x.device.type):
        return net(x if len(x) >= SMALL_BATCH else x.float())


def gains_from_bf16(net: nn.Module) -> bool:
    """Whether a network has a layer that bfloat16 makes quicker where the hardware multiplies it."""
    return any((p[0] if p.ndim == 3 else p).numel() >= LARGE_LAYER for p in net.parameters() if p.ndim > 1)


class Fp32Linear(nn.Linear):
    """A layer in float32 even under autocast, for values: near 500 bfloat16 has only every second or fourth number."""

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x.device.type):
            return super().forward(x.float())


def without_autocast(device: str) -> AbstractContextManager[object]:
    """A context in which products of float32 tensors are float32."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def differentiate(loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
    """`loss.backward`, each layer in the dtype of its forward pass, where a CPU's autocast would cast again."""
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward(inputs=inputs)
