"""K multilayer perceptrons applied as one batched network."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

Layers = list[tuple[Tensor, Tensor]]
"""(weight [K, i, o], bias [K, 1, o]) per layer."""


def apply(layers: Layers, x: Tensor) -> Tensor:
    """[K, N, i] -> [K, N, o], SiLU between layers."""
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = nn.functional.silu(torch.baddbmm(b, x, w), inplace=not torch.is_grad_enabled())
    return torch.baddbmm(bias, x, weight)


class EnsembleMLP(nn.Module):
    """K perceptrons with SiLU, every parameter with the member as its first dimension."""

    def __init__(self, members: int, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        self.weights = nn.ParameterList(_truncated_normal(members, i, o) for i, o in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, 1, o) for o in sizes[1:])

    def layers(self) -> Layers:
        return list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """[K, N, i] -> [K, N, o]."""
        return apply(self.layers(), x)


def _truncated_normal(members: int, inputs: int, outputs: int) -> nn.Parameter:
    """Standard deviation 1 / (2 sqrt(inputs)), cut at two of them (PETS, Chua et al. 2018)."""
    std = 0.5 / inputs**0.5
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(members, inputs, outputs), std=std, a=-2 * std, b=2 * std))
