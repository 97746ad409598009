"""FrozenEnsemble: an ensemble's elites with the standardisation folded into their layers.

Imagination calls them thousands of times between two fits, so they are folded once and kept. They are constants:
gradients of a rollout reach states and actions, not the model's weights.

    W ((x - mean) / scale) + b  =  (W / scale) x + (b - (mean / scale) W)      the first layer
    scale (W h + b) + shift     =  (scale W) h + (scale b + shift)              the last layer
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.nets.ensemble import Layers, apply, in_autocast_dtype
from mbrl_lab.nets.normalise import Normaliser
from mbrl_lab.nets.precision import autocast_dtype


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
    # bfloat16 has 8 bits of precision, too few for a raw input: it is standardised in float32 first, and rounded then.
    if autocast_dtype(inputs.mean.device.type) != torch.float32:
        return Folded(in_autocast_dtype(layers), (inputs.mean.clone(), inputs.scale.clone()), (scale, shift))

    folded = list(layers)
    weight, bias, *norm = folded[0]
    weight = weight / inputs.scale.unsqueeze(-1)
    folded[0] = weight, bias - (inputs.mean @ weight).unsqueeze(1), *norm

    # Read from the list: in a network of a single layer this is the layer that was folded above.
    weight, bias = folded[-1]
    folded[-1] = weight * scale, bias * scale + shift
    return Folded(folded, None, None)


def elite_layers(layers: Layers, elite: Tensor) -> Layers:
    """The layers of some members."""
    return [tuple(p[elite] for p in layer) for layer in layers]


class FrozenEnsemble(NamedTuple):
    """The elites' networks, of observations and changes in the environment's units."""

    net: Folded
    termination: Folded | None  # None while no termination was ever observed, or where it is computed
