"""Decoders mirror encoders, and their losses are least at the truth."""

from __future__ import annotations

import math

import pytest
import torch

from mbrl_lab.nets.decoder import DARK, Image, decoder
from mbrl_lab.nets.encoder import Grid, Impala, Nature, Vector
from mbrl_lab.types import EnvSpec

PIXELS = EnvSpec((2, 84, 84), torch.uint8, 3, discrete=True, stack=2)
GRID = EnvSpec((4, 10, 10), torch.uint8, 3, discrete=True)
VECTOR = EnvSpec((5,), torch.float32, 3, discrete=True)


@pytest.mark.parametrize(
    ("spec", "encoder"), [(PIXELS, Nature(PIXELS, 0)), (GRID, Grid(GRID, 16, 0)), (VECTOR, Vector(VECTOR))]
)
def test_it_says_what_the_encoder_sees(spec: EnvSpec, encoder: torch.nn.Module) -> None:
    net = decoder(spec, encoder, 7, [8])  # type: ignore[arg-type]
    out = net(torch.randn(3, 2, 7))
    assert out.shape == (3, 2, *spec.obs_shape) == net.read(out).shape
    obs = net.read(out).round().to(spec.obs_dtype)
    assert net.error(out, obs).shape == (3, 2)


def test_sizes_that_strides_do_not_divide_come_back() -> None:
    spec = EnvSpec((1, 87, 90), torch.uint8, 3, discrete=True)
    assert decoder(spec, Nature(spec, 0), 4, [])(torch.randn(2, 4)).shape == (2, 1, 87, 90)


def test_bytes_are_told_by_squared_errors_and_bits_by_cross_entropy() -> None:
    pixels, grid = Image(PIXELS, Nature(PIXELS, 0), 4), Image(GRID, Grid(GRID, 4, 0), 4)
    assert pixels.net[-1].bias.unique().item() == DARK  # type: ignore[union-attr]
    grey = torch.full((1, *PIXELS.obs_shape), 51, dtype=torch.uint8)
    assert pixels.error(torch.zeros(1, 2, 84, 84), grey).item() == pytest.approx(2 * 84 * 84 * 0.3**2, rel=1e-4)
    assert pixels.read(torch.full((1, 2, 84, 84), math.log(0.2 / 0.8))).unique().item() == pytest.approx(51, rel=1e-4)
    bits = torch.randint(2, (1, *GRID.obs_shape), dtype=torch.uint8)
    assert grid.error(torch.zeros(1, 4, 10, 10), bits).item() == pytest.approx(400 * math.log(2), rel=1e-4)


def test_what_is_more_than_convolutions_cannot_be_reversed() -> None:
    with pytest.raises(ValueError, match=r"^encoder=impala cannot be reversed"):
        decoder(PIXELS, Impala(PIXELS, 1, 0), 4, [])
