"""K MLPs applied as one batched network."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_lab.nets.precision import autocast_dtype, without_autocast

Layers = list[tuple[Tensor, ...]]
"""(weight [K, i, o], bias [K, 1, o]) per layer, and with layer norm its gain and shift [K, 1, o] for a hidden one."""

Activation = Callable[..., Tensor]
"""A function of a tensor as in torch.nn.functional, with `inplace`."""


def apply(
    layers: Layers,
    x: Tensor,
    activation: Activation = nn.functional.silu,
    dropout: float = 0.0,
    fp32_output: bool = False,
) -> Tensor:
    """[K, N, i] -> [K, N, o]; between layers dropout, layer norm and the activation (DroQ, Hiraoka et al. 2022).

    `fp32_output`: the last layer is float32 even under autocast.
    """
    if _member_by_member(x):
        # A loop costs calls, so it pays for many rows only.
        members = ([tuple(p[k] for p in layer) for layer in layers] for k in range(len(x)))
        return torch.stack([_chain(one, x[k], activation, dropout, fp32_output) for k, one in enumerate(members)])
    return _chain(layers, x, activation, dropout, fp32_output)


def affine(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """[K, N, i] -> [K, N, o], or without K."""
    if torch.compiler.is_compiling():
        # Apart from the product, the compiler fuses the bias with the activation.
        product = x @ weight
        return product + bias.to(product.dtype)
    return torch.addmm(bias, x, weight) if x.dim() == 2 else torch.baddbmm(bias, x, weight)


def in_autocast_dtype(layers: Layers) -> Layers:
    """The layers cast once to autocast's dtype, which casts them at every use."""
    dtype = autocast_dtype(layers[0][0].device.type)
    return [tuple(p.to(dtype) for p in layer) for layer in layers]


def _member_by_member(x: Tensor) -> bool:
    """Whether each member's rows go through all layers before the next member's: on a CPU they stay in its cache."""
    device = x.device.type
    return (
        device == "cpu"
        and x.shape[1] >= 512
        and autocast_dtype(device) == torch.float32
        and not torch.is_grad_enabled()
    )


def _chain(layers: Layers, x: Tensor, activation: Activation, dropout: float, fp32_output: bool) -> Tensor:
    *hidden, (weight, bias) = layers
    # Without gradients nothing is read again, so activations may take the place of their inputs.
    inplace = not torch.is_grad_enabled()
    overwrite = inplace or activation is nn.functional.relu  # ReLU's gradient follows from its output
    for w, b, *norm in hidden:
        x = affine(b, x, w)
        if dropout:
            x = nn.functional.dropout(x, dropout, inplace=inplace)
        if norm:
            gain, shift = norm
            x = torch.addcmul(shift, nn.functional.layer_norm(x, x.shape[-1:]), gain)
        x = activation(x, inplace=overwrite)

    if not fp32_output:
        return affine(bias, x, weight)
    with without_autocast(x.device.type):
        return affine(bias, x.float(), weight)


def truncated_normal(members: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Standard deviation 1 / (2 sqrt(inputs)), truncated at two of them; biases 0 (PETS, Chua et al. 2018)."""
    # Twice this is cut off, so no initial weight is large.
    std = 0.5 / inputs**0.5
    weight = nn.init.trunc_normal_(torch.empty(members, inputs, outputs), std=std, a=-2 * std, b=2 * std)
    return weight, torch.zeros(members, 1, outputs)


def uniform(members: int, inputs: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Weights and biases within 1 / sqrt(inputs), as torch.nn.Linear is initialised."""
    bound = inputs**-0.5
    shapes = (members, inputs, outputs), (members, 1, outputs)
    weight, bias = (torch.empty(shape).uniform_(-bound, bound) for shape in shapes)
    return weight, bias


class EnsembleMLP(nn.Module):
    """K MLPs, every parameter with the member as its first dimension."""

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        width: int,
        depth: int,
        activation: Activation = nn.functional.silu,
        norm: bool = False,
        dropout: float = 0.0,
        initial: Callable[[int, int, int], tuple[Tensor, Tensor]] = truncated_normal,
        fp32_output: bool = False,
    ) -> None:
        """
        Args:
            members: K.
            inputs: of each member.
            outputs: of each member.
            width: units of a hidden layer.
            depth: hidden layers.
            activation: after each hidden layer.
            norm: layer norm before each activation.
            dropout: probability, before the layer norm, while the module is training.
            initial: (members, inputs, outputs) -> weight and bias of a layer; by default a dynamics' (PETS).
            fp32_output: the last layer is float32 even under autocast, as critics need.
        """
        super().__init__()
        self.activation = activation
        self.dropout = dropout
        self.fp32_output = fp32_output
        sizes = [inputs, *[width] * depth, outputs]
        weights, biases = zip(*(initial(members, i, o) for i, o in itertools.pairwise(sizes)), strict=True)
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)
        normed = sizes[1:-1] if norm else []
        self.gains = nn.ParameterList(torch.ones(members, 1, o) for o in normed)
        self.shifts = nn.ParameterList(torch.zeros(members, 1, o) for o in normed)

    def layers(self) -> Layers:
        affine = list(zip(self.weights, self.biases, strict=True))
        norms: list[Any] = list(zip(self.gains, self.shifts, strict=True))
        norms += [()] * (len(affine) - len(norms))
        return [(*layer, *norm) for layer, norm in zip(affine, norms, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """[K, N, i] -> [K, N, o]."""
        return apply(self.layers(), x, self.activation, self.dropout if self.training else 0.0, self.fp32_output)
