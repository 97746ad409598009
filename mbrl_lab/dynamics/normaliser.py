"""Mean and scale of data, kept with the weights of the network that was trained on it, and that network with them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl_lab.nets.ensemble import Layers, apply, as_computed
from mbrl_lab.nets.precision import autocast_dtype


class Normaliser(nn.Module):
    """Standardises vectors [..., D]; a dimension that does not vary keeps scale 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation from [N, D]."""
        std = x.std(0, correction=0)
        self.mean.copy_(x.mean(0))
        self.scale.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class Folded(NamedTuple):
    """Networks of unstandardised inputs and outputs.

    `inputs` (mean, scale) and `outputs` (scale, shift) stand apart in float32 where the layers are in bfloat16, which
    would round away what little a raw input varies about a large mean. Else both are in the layers.
    """

    layers: Layers
    inputs: tuple[Tensor, Tensor] | None
    outputs: tuple[Tensor, Tensor] | None

    def predict(self, x: Tensor) -> Tensor:
        """[K, N, i] -> [K, N, o]."""
        if self.inputs is None or self.outputs is None:
            return apply(self.layers, x)
        mean, scale = self.inputs
        out_scale, out_shift = self.outputs
        return apply(self.layers, (x - mean) / scale).float() * out_scale + out_shift


def fold(layers: Layers, inputs: Normaliser, scale: Tensor, shift: Tensor) -> Folded:
    """The layers as autocast would cast them, of unstandardised inputs; outputs times `scale` and moved by `shift`."""
    if autocast_dtype(inputs.mean.device.type) != torch.float32:
        return Folded(as_computed(layers), (inputs.mean.clone(), inputs.scale.clone()), (scale, shift))
    folded = list(layers)
    weight, bias = folded[0]
    weight = weight / inputs.scale.unsqueeze(-1)
    folded[0] = weight, bias - (inputs.mean @ weight).unsqueeze(1)
    weight, bias = folded[-1]
    folded[-1] = weight * scale, bias * scale + shift
    return Folded(folded, None, None)
