"""Decoders: from vectors back to observations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.special import entr as entropy

from mbrl_lab.nets.encoder import Convolutional, Encoder
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.normalise import Standardise
from mbrl_lab.types import EnvSpec

EMPTY_LOGIT = -2.0
"""The initial logit of every pixel of a grid, most of which is empty."""

MIN_PROBABILITY = 0.003
"""The initial brightness of a pixel of an image is at least this far from black and from white."""


class Decoder(nn.Module):
    """Vectors [..., D] -> outputs that `loss` and `reconstruct` read; `scale`: what standardises observations."""

    def loss(self, out: Tensor, obs: Tensor, scale: Standardise | None) -> Tensor:
        """[...]: the loss of observations [..., *obs_shape]."""
        raise NotImplementedError

    def reconstruct(self, out: Tensor, scale: Standardise | None) -> Tensor:
        """[..., *obs_shape]: the observation in units of the environment."""
        raise NotImplementedError


class VectorDecoder(Decoder):
    """Observations that are vectors; the loss is the squared error of standardised ones, summed over dimensions."""

    def __init__(self, spec: EnvSpec, dim: int, hidden: Sequence[int], norm: bool) -> None:
        super().__init__()
        self.net = mlp([dim, *hidden, spec.obs_shape[0]], norm, activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, out: Tensor, obs: Tensor, scale: Standardise | None) -> Tensor:
        return (out.float() - (obs if scale is None else scale(obs))).square().sum(-1)

    def reconstruct(self, out: Tensor, scale: Standardise | None) -> Tensor:
        return out.float() if scale is None else scale.undo(out.float())


class ImageDecoder(Decoder):
    """Images, by the layers of a convolutional encoder in reverse order, in logits around those of the mean image.

    A pixel's brightness is predicted as a probability; the loss is the KL divergence, summed over pixels. A squared
    error has too small a gradient for small things that are rarely in one place, such as a ball.
    ValueError for an encoder that is more than convolutions.
    """

    entropy: Tensor

    def __init__(self, spec: EnvSpec, encoder: Convolutional, dim: int) -> None:
        super().__init__()
        if not all(isinstance(layer, nn.Conv2d | nn.ReLU) for layer in encoder.net):
            name = type(encoder).__name__.lower()
            raise ValueError(f"encoder={name} cannot be reversed: models that decode need encoder=nature or grid")
        convolutions = [layer for layer in encoder.net if isinstance(layer, nn.Conv2d)]
        # Sizes are found by running the encoder, as strides may leave out pixels at the edges.
        sizes = [torch.Size(spec.obs_shape)]
        for layer in convolutions:
            sizes.append(layer(torch.zeros(1, *sizes[-1])).shape[1:])

        layers: list[nn.Module] = []
        for layer, size in zip(reversed(convolutions), sizes[-2::-1], strict=True):
            layers += [nn.ReLU(), reverse(layer, size, sizes[sizes.index(size) + 1])]

        self.largest = encoder.largest
        self.size = sizes[-1]
        self.start = nn.Linear(dim, math.prod(self.size))
        self.net = nn.Sequential(*layers[1:])
        # The first prediction is the mean image, around which the logits are.
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

        # The entropy of each of the 256 brightnesses, which makes a KL divergence of a cross-entropy.
        brightness = (torch.arange(256) / self.largest).clamp(max=1)
        self.register_buffer("entropy", entropy(brightness) + entropy(1 - brightness), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out = F.silu(self.start(x.flatten(0, -2))).unflatten(-1, self.size)
        # In this order plain convolutions are quicker on a CPU.
        out = out.contiguous(memory_format=torch.channels_last)
        for layer in self.net:
            out = deconvolve(out, layer) if isinstance(layer, nn.ConvTranspose2d) else layer(out)
        return out.unflatten(0, x.shape[:-1])

    def loss(self, out: Tensor, obs: Tensor, scale: Standardise | None) -> Tensor:
        brightness = obs / self.largest
        cross_entropy = F.binary_cross_entropy_with_logits(self._logits(out, scale), brightness, reduction="none")
        return (cross_entropy - self.entropy[obs.int()]).sum((-3, -2, -1))

    def reconstruct(self, out: Tensor, scale: Standardise | None) -> Tensor:
        return self._logits(out, scale).sigmoid() * self.largest

    def _logits(self, out: Tensor, scale: Standardise | None) -> Tensor:
        # The network learns the difference from the mean image, or from an empty grid.
        if scale is None:
            return out.float() + EMPTY_LOGIT
        mean = (scale.moments.mean / self.largest).clamp(MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        return out.float() + mean.logit().float()


def reverse(layer: nn.Conv2d, inputs: torch.Size, outputs: torch.Size) -> nn.ConvTranspose2d:
    """From [C', H', W'] `outputs` of a convolution back to its `inputs` [C, H, W]."""
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])

    # Rows and columns that the convolution left out at the far edges, as its stride did not reach them.
    sizes = zip(inputs[1:], outputs[1:], strict=True)
    rows, columns = (i - ((o - 1) * stride - 2 * padding + kernel) for i, o in sizes)
    return nn.ConvTranspose2d(outputs[0], inputs[0], kernel, stride, padding, output_padding=(rows, columns))


def deconvolve(x: Tensor, layer: nn.ConvTranspose2d) -> Tensor:
    """The transposed convolution `layer` of images [N, C, H, W].

    Where its kernel is a multiple of its stride, each patch of stride x stride pixels is computed as channels of one
    place and then shuffled (depth to space): the same products, in a plain convolution with enough outputs to fill a
    processor's vectors.
    """
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    if stride == 1 or kernel % stride or layer.padding[0] or any(layer.output_padding):
        return layer(x)
    patches = kernel // stride
    # Flipped, because a transposed convolution spreads what a convolution gathers.
    weight = layer.weight.unflatten(2, (patches, stride)).unflatten(4, (patches, stride)).flip(2, 4)
    weight = weight.permute(1, 3, 5, 0, 2, 4).flatten(0, 2).contiguous(memory_format=torch.channels_last)
    assert layer.bias is not None
    bias = layer.bias.repeat_interleave(stride * stride)
    return F.pixel_shuffle(F.conv2d(x, weight, bias, padding=patches - 1), stride)


def make_decoder(spec: EnvSpec, encoder: Encoder, dim: int, hidden: Sequence[int], norm: bool = False) -> Decoder:
    """The decoder of vectors [..., dim] that suits an encoder."""
    if isinstance(encoder, Convolutional):
        return ImageDecoder(spec, encoder, dim)
    return VectorDecoder(spec, dim, hidden, norm)


def make_standardiser(spec: EnvSpec, encoder: Encoder) -> Standardise | None:
    """What standardises observations before they are encoded; None: grids are encoded as they are."""
    grid = isinstance(encoder, Convolutional) and encoder.largest == 1
    return None if grid else Standardise(spec.obs_shape)
