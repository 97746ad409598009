"""Shifted images against padding and cropping."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mbrl_lab.nets.augment import random_shift


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
