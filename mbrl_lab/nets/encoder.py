"""Encoders: from observations to vectors. Each is a module of the observation's spec with an attribute `dim`."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mbrl_lab.nets.precision import autocast_dtype, fp32_if_small
from mbrl_lab.types import EnvSpec


class Encoder(nn.Module):
    """Observations [..., *obs_shape] -> vectors [..., dim]."""

    dim: int
    largest: float = 1.0
    """The byte of an image that counts as 1; floats count as they are."""


MakeEncoder = Callable[[EnvSpec], Encoder]


class Vector(Encoder):
    """Observations that are vectors already, unchanged. ValueError for others."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        if spec.obs_dtype != torch.float32 or len(spec.obs_shape) != 1:
            instead = "grid or impala" if min(spec.obs_shape[-2:]) < Nature.smallest else "nature or impala"
            raise ValueError(
                f"encoder=vector reads vectors, not {spec.obs_shape} {spec.obs_dtype}: try encoder={instead}"
            )
        self.dim = spec.obs_shape[0]

    def forward(self, obs: Tensor) -> Tensor:
        return obs


class Convolutional(Encoder):
    """Images [..., C, H, W] through a network that begins with a convolution.

    ValueError for observations that are no images, or narrower than `smallest` pixels.
    """

    smallest = 1

    def __init__(self, spec: EnvSpec, net: nn.Sequential, hidden: int, largest: float) -> None:
        """
        Args:
            spec: of the observations.
            net: images [N, C, H, W] -> [N, ...].
            hidden: units of a layer with ReLU after it; 0: none.
            largest: byte that counts as 1; floats count as they are.
        """
        super().__init__()
        name, shape = f"encoder={type(self).__name__.lower()}", spec.obs_shape
        if spec.obs_dtype != torch.uint8 or len(shape) != 3:
            raise ValueError(f"{name} reads uint8 images, not {shape} {spec.obs_dtype}: try encoder=vector")
        if min(shape[1:]) < self.smallest:
            least = f"at least {self.smallest} x {self.smallest}, these are {shape[1]} x {shape[2]}"
            raise ValueError(f"{name} needs images of {least}: try encoder=grid or impala")

        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.largest = largest
        with torch.no_grad():
            outputs = self._convolved(torch.zeros(1, *spec.obs_shape, dtype=torch.uint8)).shape[-1]
        self.hidden = nn.Sequential(nn.Linear(outputs, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.dim = hidden or outputs

    def forward(self, obs: Tensor) -> Tensor:
        features = self._convolved(obs.flatten(0, -4))
        return fp32_if_small(self.hidden, features).unflatten(0, obs.shape[:-3])

    def _convolved(self, obs: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D]."""
        first, rest = self.net[0], self.net[1:]
        # Bytes are scaled by the first layer's weights, which are fewer than pixels.
        return rest(convolve(obs, first, 1.0 if obs.is_floating_point() else 1 / self.largest)).flatten(1)


def convolve(obs: Tensor, layer: nn.Conv2d, scale: float) -> Tensor:
    """The convolution `layer` of `scale` times images [N, C, H, W], channels last.

    Where its kernel is a larger multiple of its stride, each patch of stride x stride pixels becomes channels of one
    place (space to depth), and the stride 1: the same products, but with enough channels to fill a processor's vectors.
    """
    dtype, stride = autocast_dtype(obs.device.type), layer.stride[0]
    weight = layer.weight * scale
    # An exported network has only operations that ONNX knows, which do not include bytes seen as wider numbers.
    kernel = layer.kernel_size[0]
    plain = stride in (1, kernel) or kernel % stride or layer.padding[0]
    if plain or torch.compiler.is_exporting():
        image = obs.to(dtype).contiguous(memory_format=torch.channels_last)
        return nn.functional.conv2d(image, weight, layer.bias, layer.stride, layer.padding)

    # The kernel [O, C, k, k] in the same order: C * stride * stride channels, k / stride places each way.
    patches = kernel // stride
    weight = weight.unflatten(2, (patches, stride)).unflatten(4, (patches, stride)).permute(0, 1, 3, 5, 2, 4)
    weight = weight.flatten(1, 3).contiguous(memory_format=torch.channels_last)

    # Bytes are moved before they are cast, as a float takes four times the memory.
    image = space_to_depth(obs.to(dtype) if obs.is_floating_point() else obs, stride).to(dtype).movedim(-1, 1)
    return nn.functional.conv2d(image, weight, layer.bias)


def space_to_depth(obs: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> [N, H / side, W / side, C * side * side], without what is left over at the edges."""
    rows, columns = (n // side for n in obs.shape[-2:])
    whole = obs[..., : rows * side, : columns * side].contiguous()

    # A patch's row moves as one number where there is one of its size, as copies of single bytes take longer.
    width = side * obs.element_size()
    unit = {8: torch.int64, 4: torch.int32, 2: torch.int16}.get(width, obs.dtype)
    cut = whole.view(unit).unflatten(-2, (rows, side)).unflatten(-1, (columns, -1))
    return cut.permute(0, 2, 4, 1, 3, 5).contiguous().flatten(3).view(obs.dtype)


class Nature(Convolutional):
    """Three convolutions (Mnih et al. 2015)."""

    smallest = 36

    def __init__(self, spec: EnvSpec, hidden: int) -> None:
        channels = spec.obs_shape[0]
        net = nn.Sequential(
            nn.Conv2d(channels, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.ReLU(),
        )
        super().__init__(spec, net, hidden, largest=255.0)


class Der(Convolutional):
    """Two convolutions with large strides: data-efficient Rainbow's (van Hasselt et al. 2019)."""

    smallest = 25

    def __init__(self, spec: EnvSpec, hidden: int) -> None:
        channels = spec.obs_shape[0]
        net = nn.Sequential(nn.Conv2d(channels, 32, 5, 5), nn.ReLU(), nn.Conv2d(32, 64, 5, 5), nn.ReLU())
        super().__init__(spec, net, hidden, largest=255.0)


class Impala(Convolutional):
    """Three stages of a convolution, a pooling and two residual blocks (Espeholt et al. 2018).

    `width` scales the paper's channels.
    """

    def __init__(self, spec: EnvSpec, width: int, hidden: int) -> None:
        sizes = [spec.obs_shape[0], 16 * width, 32 * width, 32 * width]
        stages: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(sizes):
            stages += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.MaxPool2d(3, 2, 1)]
            stages += [Residual(outputs), Residual(outputs)]
        super().__init__(spec, nn.Sequential(*stages, nn.ReLU()), hidden, largest=255.0)


class Residual(nn.Module):
    """x plus two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


GRID_CHANNELS = 16
"""Filters of the convolution on grids (MinAtar)."""


class Grid(Convolutional):
    """One convolution for small grids of 0 and 1 (MinAtar, Young and Tian 2019)."""

    smallest = 3

    def __init__(self, spec: EnvSpec, hidden: int) -> None:
        net = nn.Sequential(nn.Conv2d(spec.obs_shape[0], GRID_CHANNELS, 3), nn.ReLU())
        super().__init__(spec, net, hidden, largest=1.0)
