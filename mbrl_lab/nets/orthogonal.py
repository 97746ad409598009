"""Orthogonal initial weights."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def orthogonal(net: nn.Module, last: float = math.sqrt(2)) -> None:
    """Orthogonal weights of gain sqrt(2), of gain `last` in the last layer, and no biases (Engstrom et al. 2020)."""
    layers = [x for x in net.modules() if isinstance(x, nn.Linear | nn.Conv2d)]
    for layer in layers:
        weight = torch.empty(layer.weight.shape)  # the layer's own may lie channels last, which orthogonal_ cannot fill
        layer.weight.copy_(nn.init.orthogonal_(weight, last if layer is layers[-1] else math.sqrt(2)))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
