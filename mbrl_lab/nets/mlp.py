"""MLPs, and initial weights of networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn

from mbrl_lab.nets.precision import Fp32Linear


def mlp(
    sizes: Sequence[int],
    norm: bool = False,
    dropout: float = 0.0,
    activation: Callable[[], nn.Module] = nn.ReLU,
    fp32_output: bool = False,
) -> nn.Sequential:
    """An MLP, with an activation after all layers but the last.

    Args:
        sizes: inputs, units of each hidden layer, outputs.
        norm: layer norm before each activation.
        dropout: probability, before the layer norm, as in DroQ (Hiraoka et al. 2022).
        activation: makes the activation.
        fp32_output: the last layer is float32 even under autocast, as values and rewards need.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes[:-1]):
        layers.append(nn.Linear(inputs, outputs))
        layers += [nn.Dropout(dropout)] if dropout else []
        layers += [nn.LayerNorm(outputs)] if norm else []
        layers.append(activation())
    # Values near 500 would be rounded to even numbers in bfloat16.
    last = Fp32Linear if fp32_output else nn.Linear
    return nn.Sequential(*layers, last(sizes[-2], sizes[-1]))


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
