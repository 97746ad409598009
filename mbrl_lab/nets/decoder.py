"""From vectors back to observations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.nets.encoder import Convolutional, Encoder
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.types import EnvSpec

DARK = -2.0
"""The logit that every pixel begins with: most of a game's screen is empty."""


class Decoder(nn.Module):
    """Vectors [..., D] -> what `error` and `read` understand."""

    def error(self, out: Tensor, obs: Tensor) -> Tensor:
        """[...]: the loss of observations [..., *obs_shape], vectors scaled as the encoder sees them."""
        raise NotImplementedError

    def read(self, out: Tensor) -> Tensor:
        """[..., *obs_shape]: the observation in units of the environment, but for a vector's scale."""
        raise NotImplementedError


class Vector(Decoder):
    """Observations that are vectors; the loss is the squared error, summed over them."""

    def __init__(self, spec: EnvSpec, dim: int, hidden: Sequence[int], norm: bool) -> None:
        super().__init__()
        self.net = mlp([dim, *hidden, spec.obs_shape[0]], norm, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def error(self, out: Tensor, obs: Tensor) -> Tensor:
        return (out.float() - obs).square().sum(-1)

    def read(self, out: Tensor) -> Tensor:
        return out.float()


class Image(Decoder):
    """Images, by the layers of a convolutional encoder in reverse order.

    The loss of bytes up to 255 is the squared error of numbers up to 1, that of 0 and 1 the cross-entropy; both summed
    over pixels. ValueError for an encoder that is more than convolutions.
    """

    def __init__(self, spec: EnvSpec, encoder: Convolutional, dim: int) -> None:
        super().__init__()
        if not all(isinstance(layer, nn.Conv2d | nn.ReLU) for layer in encoder.net):
            name = type(encoder).__name__.lower()
            raise ValueError(f"encoder={name} cannot be reversed: models that decode need encoder=nature or grid")
        convolutions = [layer for layer in encoder.net if isinstance(layer, nn.Conv2d)]
        sizes = [torch.Size(spec.obs_shape)]
        for layer in convolutions:
            sizes.append(layer(torch.zeros(1, *sizes[-1])).shape[1:])
        layers: list[nn.Module] = []
        for layer, size in zip(reversed(convolutions), sizes[-2::-1], strict=True):
            layers += [nn.ReLU(), reverse(layer, size, sizes[sizes.index(size) + 1])]
        self.largest, self.size = encoder.largest, sizes[-1]
        self.start = nn.Linear(dim, math.prod(self.size))
        self.net = nn.Sequential(*layers[1:])
        nn.init.constant_(layers[-1].bias, DARK)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        start = F.silu(self.start(x.flatten(0, -2))).unflatten(-1, self.size)
        return self.net(start).unflatten(0, x.shape[:-1])

    def error(self, out: Tensor, obs: Tensor) -> Tensor:
        out, obs = out.float(), obs.float() / self.largest
        if self.largest == 1:
            return F.binary_cross_entropy_with_logits(out, obs, reduction="none").sum((-3, -2, -1))
        return (out.sigmoid() - obs).square().sum((-3, -2, -1))

    def read(self, out: Tensor) -> Tensor:
        return out.float().sigmoid() * self.largest


def reverse(layer: nn.Conv2d, inputs: torch.Size, outputs: torch.Size) -> nn.ConvTranspose2d:
    """From [C', H', W'] `outputs` of a convolution back to its `inputs` [C, H, W]."""
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    high, wide = (i - ((o - 1) * stride - 2 * padding + kernel) for i, o in zip(inputs[1:], outputs[1:], strict=True))
    return nn.ConvTranspose2d(outputs[0], inputs[0], kernel, stride, padding, output_padding=(high, wide))


def decoder(spec: EnvSpec, encoder: Encoder, dim: int, hidden: Sequence[int], norm: bool = False) -> Decoder:
    """The decoder that suits an encoder."""
    if isinstance(encoder, Convolutional):
        return Image(spec, encoder, dim)
    return Vector(spec, dim, hidden, norm)
