"""Encoders: vectors pass as they are, images become vectors, and what an encoder cannot read is rejected."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mbrl_lab.nets.encoder import Der, Encoder, Grid, Impala, MakeEncoder, Nature, Vector, convolve
from mbrl_lab.types import EnvSpec

SCREEN = EnvSpec((4, 84, 84), torch.uint8, 4, True, stack=4)
BOARD = EnvSpec((6, 10, 10), torch.uint8, 6, True)


def nature(spec: EnvSpec) -> Encoder:
    return Nature(spec, hidden=0)


def der(spec: EnvSpec) -> Encoder:
    return Der(spec, hidden=0)


def impala(spec: EnvSpec) -> Encoder:
    return Impala(spec, width=1, hidden=0)


def grid(spec: EnvSpec) -> Encoder:
    return Grid(spec, hidden=0)


def test_vector_encoder_is_the_identity() -> None:
    net = Vector(EnvSpec((5,), torch.float32, 2, True))
    obs = torch.randn(3, 4, 5)
    assert net.dim == 5 and torch.equal(net(obs), obs)


@pytest.mark.parametrize(
    ("make", "spec", "dim", "parameters"),
    [
        (nature, SCREEN, 3136, 4 * 32 * 64 + 32 + 32 * 64 * 16 + 64 + 64 * 64 * 9 + 64),
        (der, SCREEN, 576, 4 * 32 * 25 + 32 + 32 * 64 * 25 + 64),
        (
            impala,
            SCREEN,
            32 * 11 * 11,
            97_744,
        ),  # 36 (16 16 + 2 32 32) in the blocks
        (grid, BOARD, 16 * 8 * 8, 6 * 16 * 9 + 16),
    ],
)
def test_encoder_sizes_are_those_of_the_papers(make: MakeEncoder, spec: EnvSpec, dim: int, parameters: int) -> None:
    net = make(spec)
    assert net.dim == dim
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize(("make", "spec"), [(nature, SCREEN), (der, SCREEN), (impala, SCREEN), (grid, BOARD)])
def test_encoder_keeps_leading_dimensions(make: MakeEncoder, spec: EnvSpec) -> None:
    net = make(spec)
    obs = torch.randint(0, 2, (2, 3, *spec.obs_shape), dtype=torch.uint8)
    out = net(obs)
    assert out.shape == (2, 3, net.dim)
    assert torch.allclose(out[1, 2], net(obs[1, 2:3])[0], atol=1e-5)


def test_bytes_are_scaled_by_the_largest() -> None:
    """The first layer by hand: what the scaled image gives."""
    torch.manual_seed(0)
    net = Nature(SCREEN, hidden=0)
    obs = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    assert torch.allclose(net(obs), net.net(obs.float() / 255).flatten(1), atol=1e-5)


def test_hidden_layer_is_the_encoder_output() -> None:
    net = Nature(SCREEN, hidden=7)
    out = net(torch.zeros(2, 4, 84, 84, dtype=torch.uint8))
    assert net.dim == 7 and out.shape == (2, 7) and (out >= 0).all()


@pytest.mark.parametrize(("make", "spec"), [(Vector, SCREEN), (Vector, EnvSpec((4,), torch.uint8, 2, True))])
def test_vector_encoder_rejects_images(make: MakeEncoder, spec: EnvSpec) -> None:
    with pytest.raises(ValueError, match=r"encoder=vector reads vectors, not \(4,.*uint8: try encoder="):
        make(spec)


@pytest.mark.parametrize("make", [nature, der, impala, grid])
def test_image_encoders_reject_vectors(make: MakeEncoder) -> None:
    with pytest.raises(ValueError, match=f"encoder={make.__name__} reads uint8 images, not .4,. torch.float32"):  # type: ignore[attr-defined]
        make(EnvSpec((4,), torch.float32, 2, True))


def test_small_images_are_rejected_by_large_networks() -> None:
    with pytest.raises(ValueError, match="encoder=nature needs images of at least 36 x 36, these are 10 x 10: try"):
        nature(BOARD)
    assert nature(EnvSpec((1, 36, 36), torch.uint8, 2, True)).dim == 64
    with pytest.raises(ValueError, match="encoder=der needs images of at least 25 x 25, these are 10 x 10: try"):
        der(BOARD)
    assert der(EnvSpec((1, 25, 25), torch.uint8, 2, True)).dim == 64


@pytest.mark.parametrize(
    ("kernel", "stride", "high", "wide"),
    [(8, 4, 84, 84), (8, 4, 85, 90), (5, 5, 84, 84), (4, 2, 11, 10), (3, 2, 9, 9), (3, 1, 9, 9)],
)
def test_space_to_depth_gives_the_same_convolution(kernel: int, stride: int, high: int, wide: int) -> None:
    layer = nn.Conv2d(4, 6, kernel, stride)
    obs = torch.randint(0, 256, (3, 4, high, wide), dtype=torch.uint8)
    torch.testing.assert_close(convolve(obs, layer, 1 / 255), layer(obs / 255), atol=1e-5, rtol=0)
