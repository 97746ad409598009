"""What can be followed in images of 84 x 84: Breakout's ball; Space Invaders' cannon, shots and aliens."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.dynamics.quality import Part

SEEN = 32
"""Grey values below it count as black."""


def breakout(images: Tensor) -> dict[str, Part]:
    """The ball [N, 84, 84], where the field is black but for it: above the bricks, and between them and the paddle."""
    return {"ball": part(images, [(13, 22), (38, 75)], (5, 79), 150, 400)}


def spaceinvaders(images: Tensor) -> dict[str, Part]:
    """The cannon, shots and bombs above and below the shields, and the aliens, all [N, 84, 84].

    Aliens that have come so far down are no shots: so much grey is not counted as one.
    """
    return {
        "cannon": part(images, [(74, 78)], (0, 84), 300, 2_500),
        "shots": part(images, [(56, 62), (70, 74)], (0, 84), 30, 500),
        "aliens": part(images, [(10, 54)], (0, 84), 500, 100_000),
    }


def part(images: Tensor, rows: list[tuple[int, int]], columns: tuple[int, int], least: float, most: float) -> Part:
    """All grey of some rows and columns [N, H, W], visible where there is from `least` to `most` of it."""
    keep = torch.zeros(images.shape[1], dtype=torch.bool, device=images.device)
    for first, last in rows:
        keep[first:last] = True
    grey = images.float() * (images >= SEEN) * keep[:, None]
    grey[..., : columns[0]] = 0
    grey[..., columns[1] :] = 0
    mass = grey.sum((1, 2))
    row, column = (torch.arange(n, device=images.device).float() for n in images.shape[1:])
    centre = torch.stack([(grey.sum(2) * row).sum(1), (grey.sum(1) * column).sum(1)], -1) / mass.clamp(min=1)[:, None]
    return Part(mass, centre, (mass >= least) & (mass <= most))
