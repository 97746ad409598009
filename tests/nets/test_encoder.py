"""Vectors pass as they are, and what no encoder reads is refused."""

from __future__ import annotations

import pytest
import torch

from mbrl_lab.nets.encoder import encoder
from mbrl_lab.types import EnvSpec


def test_vectors_pass_as_they_are() -> None:
    net = encoder(EnvSpec((5,), torch.float32, 2, True))
    obs = torch.randn(3, 4, 5)
    assert net.dim == 5 and torch.equal(net(obs), obs)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((84, 84), torch.float32), ((4, 84, 84), torch.uint8), ((4,), torch.uint8)]
)
def test_pixels_are_refused(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"no encoder for observations of shape \(.*4.*\) and type torch"):
        encoder(EnvSpec(shape, dtype, 2, True))
