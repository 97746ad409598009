"""Decoders mirror encoders, and their losses are least at the truth."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

from mbrl_lab.nets.decoder import (
    EMPTY_LOGIT,
    MIN_PROBABILITY,
    ImageDecoder,
    deconvolve,
    make_decoder,
    make_standardiser,
)
from mbrl_lab.nets.encoder import Grid, Impala, Nature, Vector
from mbrl_lab.types import EnvSpec

PIXELS = EnvSpec((2, 84, 84), torch.uint8, 3, discrete=True, stack=2)
GRID = EnvSpec((4, 10, 10), torch.uint8, 3, discrete=True)
VECTOR = EnvSpec((5,), torch.float32, 3, discrete=True)


@pytest.mark.parametrize(
    ("spec", "encoder"), [(PIXELS, Nature(PIXELS, 0)), (GRID, Grid(GRID, 0)), (VECTOR, Vector(VECTOR))]
)
def test_reconstruction_has_the_shape_of_observations(spec: EnvSpec, encoder: torch.nn.Module) -> None:
    net, scale = make_decoder(spec, encoder, 7, [8]), make_standardiser(spec, encoder)  # type: ignore[arg-type]
    out = net(torch.randn(3, 2, 7))
    assert out.shape == (3, 2, *spec.obs_shape) == net.reconstruct(out, scale).shape
    obs = net.reconstruct(out, scale).round().to(spec.obs_dtype)
    assert net.loss(out, obs, scale).shape == (3, 2)


def test_decoder_restores_sizes_that_strides_do_not_divide() -> None:
    spec = EnvSpec((1, 87, 90), torch.uint8, 3, discrete=True)
    assert make_decoder(spec, Nature(spec, 0), 4, [])(torch.randn(2, 4)).shape == (2, 1, 87, 90)


def test_grid_loss_is_the_cross_entropy_and_starts_empty() -> None:
    grid = ImageDecoder(GRID, Grid(GRID, 0), 4)
    bits = torch.randint(2, (1, *GRID.obs_shape), dtype=torch.uint8)
    dark = torch.zeros(1, *GRID.obs_shape)
    assert grid.loss(dark - EMPTY_LOGIT, bits, None).item() == pytest.approx(400 * math.log(2), rel=1e-4)
    torch.testing.assert_close(grid.reconstruct(dark, None), torch.full_like(dark, EMPTY_LOGIT).sigmoid())


def test_image_loss_is_the_kl_divergence_about_the_mean_image() -> None:
    encoder = Nature(PIXELS, 0)
    pixels, scale = ImageDecoder(PIXELS, encoder, 4), make_standardiser(PIXELS, encoder)
    assert scale is not None
    seen = torch.zeros(2, *PIXELS.obs_shape, dtype=torch.uint8)
    seen[1, 0, :40] = 102
    scale.moments.add(seen, torch.ones(2))
    nothing_else = torch.zeros(1, *PIXELS.obs_shape)
    mean = pixels.reconstruct(nothing_else, scale)
    torch.testing.assert_close(mean[0, 0, :40], torch.full((40, 84), 51.0))
    torch.testing.assert_close(mean[0, 1], torch.full((84, 84), 255 * MIN_PROBABILITY))
    predicted = (mean / 255).expand_as(seen)
    true = kl_divergence(Bernoulli(probs=seen / 255), Bernoulli(probs=predicted)).sum((1, 2, 3))
    torch.testing.assert_close(pixels.loss(nothing_else.expand_as(seen), seen, scale), true, rtol=1e-4, atol=1e-2)


def test_standardised_images_and_bytes_use_the_same_convolutions() -> None:
    encoder, images = Nature(PIXELS, 0), torch.randint(255, (3, *PIXELS.obs_shape), dtype=torch.uint8)
    torch.testing.assert_close(encoder(images / 255), encoder(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "added"), [(8, 4, 0), (4, 2, 0), (6, 3, 0), (3, 1, 0), (8, 4, 2)])
def test_deconvolution_by_depth_to_space_equals_torch(kernel: int, stride: int, added: int) -> None:
    layer, x = nn.ConvTranspose2d(5, 3, kernel, stride, output_padding=added), torch.randn(2, 5, 4, 7)
    torch.testing.assert_close(deconvolve(x, layer), layer(x), rtol=1e-4, atol=1e-5)


def test_only_plain_convolutions_can_be_reversed() -> None:
    with pytest.raises(ValueError, match=r"^encoder=impala cannot be reversed"):
        make_decoder(PIXELS, Impala(PIXELS, 1, 0), 4, [])
