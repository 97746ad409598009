"""Augmentation of images."""

from __future__ import annotations

import torch
from torch import Tensor


def random_intensity(images: Tensor, scale: float, largest: float) -> Tensor:
    """[B, C, H, W], bytes of which `largest` counts as 1 -> floats, each image times 1 + scale z.

    z is one normal number for each image, clipped to [-2, 2] (SPR, Schwarzer et al. 2021).
    """
    z = torch.randn(len(images), 1, 1, 1, device=images.device).clamp(-2, 2)
    # One pass over the images casts and scales them.
    return images * ((1 + scale * z) / largest)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """[B, C, H, W]: each moved by up to so many pixels down and right, or up and left; edges are repeated.

    The same as padding by replication and cropping at random (DrQ, Kostrikov et al. 2021).
    """
    batch, channels, height, width = images.shape

    # Pad and crop as one gather: a pixel's source is its place plus the shift, held within the image.
    def source(size: int) -> Tensor:
        shift = torch.randint(-pixels, pixels + 1, (batch, 1), device=images.device)
        return (torch.arange(size, device=images.device) + shift).clamp(0, size - 1)

    index = source(height).unsqueeze(-1) * width + source(width).unsqueeze(1)
    index = index.view(batch, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view_as(images)
