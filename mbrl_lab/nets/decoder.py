"""From vectors back to observations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mbrl_lab.nets.encoder import Encoder
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.types import EnvSpec


class Decoder(nn.Module):
    """Vectors [..., D] -> what `error` and `picture` know how to read."""

    def error(self, out: Tensor, obs: Tensor) -> Tensor:
        """[...]: the loss of observations [..., *obs_shape], as the encoder sees them."""
        raise NotImplementedError


class Vector(Decoder):
    """Observations that are vectors; the loss is the squared error, summed over them."""

    def __init__(self, spec: EnvSpec, dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.net = mlp([dim, *hidden, spec.obs_shape[0]], activation=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def error(self, out: Tensor, obs: Tensor) -> Tensor:
        return (out.float() - obs).square().sum(-1)


def decoder(spec: EnvSpec, encoder: Encoder, dim: int, hidden: Sequence[int]) -> Decoder:
    """The decoder that suits an encoder."""
    return Vector(spec, dim, hidden)
