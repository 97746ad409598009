"""Which digits networks compute in, where that is not for autocast alone to say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FEW = 128
"""Rows from which fewer digits pay, for layers of some hundred units on a CPU."""


def autocast_dtype(device: str) -> torch.dtype:
    """What matrix products compute in on a kind of device: float32, or what a surrounding autocast says."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def affordable(net: nn.Module, x: Tensor) -> Tensor:
    """`net` of [N, D], in float32 if there are so few rows that to cast its weights would take longer than it saves."""
    device = x.device.type
    if len(x) >= FEW:
        return net(x)
    with torch.autocast(device, enabled=False):
        return net(x.float())


def differentiate(loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
    """`loss.backward`, each layer in the digits it computed in: on a CPU a surrounding autocast casts anew."""
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward(inputs=inputs)
