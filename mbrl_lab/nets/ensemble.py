"""K multilayer perceptrons applied as one batched network."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

Layers = list[tuple[Tensor, Tensor]]
"""(weight [K, i, o], bias [K, 1, o]) per layer."""


def apply(layers: Layers, x: Tensor) -> Tensor:
    """[K, N, i] -> [K, N, o], SiLU between layers."""
    if _one_by_one(x):
        return torch.stack([_chain(torch.addmm, [(w[k], b[k]) for w, b in layers], x[k]) for k in range(len(x))])
    return _chain(torch.baddbmm, layers, x)


def autocast_dtype(device: str) -> torch.dtype:
    """What matrix products compute in on a kind of device: float32, or what a surrounding autocast says."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def as_computed(layers: Layers) -> Layers:
    """The layers cast once, where autocast would cast them at every use."""
    dtype = autocast_dtype(layers[0][0].device.type)
    return [(w.to(dtype), b.to(dtype)) for w, b in layers]


def _one_by_one(x: Tensor) -> bool:
    """Whether each member's rows go through all layers before the next's: on a CPU they then stay in its cache."""
    device = x.device.type
    return (
        device == "cpu"
        and x.shape[1] >= 512
        and autocast_dtype(device) == torch.float32
        and not torch.is_grad_enabled()
    )


def _chain(affine: Callable[[Tensor, Tensor, Tensor], Tensor], layers: Layers, x: Tensor) -> Tensor:
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = nn.functional.silu(affine(b, x, w), inplace=not torch.is_grad_enabled())
    return affine(bias, x, weight)


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
