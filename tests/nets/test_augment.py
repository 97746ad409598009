"""Shifted images against padding and cropping, and the range of intensities."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mbrl_lab.nets.augment import random_intensity, random_shift


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_random_shift_is_a_random_crop_of_the_padded_image(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 255, (400, 3, 7, 5)).to(dtype)
    shifted = random_shift(images, 1)
    assert shifted.dtype == dtype and shifted.shape == images.shape
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(dtype)
    crops = torch.stack([padded[..., y : y + 7, x : x + 5] for y in range(3) for x in range(3)])
    same = (crops == shifted).flatten(2).all(-1)
    assert (same.sum(0) == 1).all(), "the same crop of all channels"
    assert same.sum(1).min() > 20, "400 / 9 of each"


def test_random_shift_of_atari_frames() -> None:
    images = torch.randint(0, 255, (2, 4, 84, 84), dtype=torch.uint8)
    shifted = random_shift(images, 4)
    assert shifted.shape == images.shape and shifted.dtype == torch.uint8
    crops = F.pad(images.float(), (4, 4, 4, 4), mode="replicate").byte().unfold(2, 84, 1).unfold(3, 84, 1)
    assert (crops == shifted[:, :, None, None]).flatten(4).all(-1).all(1).flatten(1).any(1).all()


def test_random_intensity_scales_whole_images() -> None:
    """By 1 + 0.05 z: the z of an image is one number, normal, but clipped at 2 (a twentieth of the draws)."""
    torch.manual_seed(0)
    images = torch.randint(50, 256, (4000, 2, 3, 3), dtype=torch.uint8)
    z = (random_intensity(images, 0.05, 255.0) / (images / 255) - 1).flatten(1) / 0.05
    torch.testing.assert_close(z, z[:, :1].expand_as(z), atol=1e-4, rtol=0)
    assert z.min().item() == pytest.approx(-2, abs=1e-4) and z.max().item() == pytest.approx(2, abs=1e-4)
    assert abs(z.mean().item()) < 0.05 and z[:, 0].std().item() == pytest.approx(0.96, abs=0.04)
    assert (z[:, 0].abs() > 1.999).float().mean().item() == pytest.approx(0.0455, abs=0.015)
