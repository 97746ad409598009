"""Orthogonal initial weights."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def orthogonal(net: nn.Module, last: float = math.sqrt(2)) -> None:
    """Orthogonal weights of gain sqrt(2), of gain `last` in the last layer, and biases 0 (Engstrom et al. 2020)."""
    layers = [x for x in net.modules() if isinstance(x, nn.Linear | nn.Conv2d)]
    for layer in layers:
        # A fresh tensor: the layer's own may be channels last, which orthogonal_ cannot fill.
        weight = torch.empty(layer.weight.shape)
        layer.weight.copy_(nn.init.orthogonal_(weight, last if layer is layers[-1] else math.sqrt(2)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
