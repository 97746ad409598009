"""What turns observations into vectors: one choice for every policy, by the observation's shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbrl_lab.types import EnvSpec


class Vector(nn.Module):
    """Observations that are vectors already, as they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, obs: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return obs


def encoder(spec: EnvSpec) -> Vector:
    """A module from observations [..., *obs_shape] to vectors [..., dim]; ValueError where none is known."""
    if spec.obs_dtype == torch.float32 and len(spec.obs_shape) == 1:
        return Vector(spec.obs_shape[0])
    raise ValueError(f"there is no encoder for observations of shape {spec.obs_shape} and type {spec.obs_dtype} yet")
