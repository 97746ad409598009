"""Objects in images of 84 x 84, to measure whether a model predicts them, such as Breakout's ball."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ScreenObject(NamedTuple):
    """An object in N images."""

    mass: Tensor  # [N]: the sum of its grey values
    centre: Tensor  # [N, 2]: row and column
    visible: Tensor  # [N] bool


FindObjects = Callable[[Tensor], dict[str, ScreenObject]]
"""Images [N, H, W] uint8 of a game -> its objects by name."""

BLACK = 32
"""Grey values below it count as black."""


def breakout(images: Tensor) -> dict[str, ScreenObject]:
    """The ball, where the field [N, 84, 84] is black otherwise: above the bricks, and between them and the paddle."""
    return {"ball": grey_in(images, [(13, 22), (38, 75)], (5, 79), 150, 400)}


def spaceinvaders(images: Tensor) -> dict[str, ScreenObject]:
    """The cannon, shots and bombs above and below the shields, and the aliens, all [N, 84, 84].

    Aliens that have come down as far as the shots' rows have more grey than a shot, and are not counted as one.
    """
    return {
        "cannon": grey_in(images, [(74, 78)], (0, 84), 300, 2_500),
        "shots": grey_in(images, [(56, 62), (70, 74)], (0, 84), 30, 500),
        "aliens": grey_in(images, [(10, 54)], (0, 84), 500, 100_000),
    }


def grey_in(
    images: Tensor, rows: list[tuple[int, int]], columns: tuple[int, int], least: float, most: float
) -> ScreenObject:
    """All grey of some rows and columns [N, H, W] as one object, visible if its sum is from `least` to `most`."""
    keep = torch.zeros(images.shape[1], dtype=torch.bool, device=images.device)
    for first, last in rows:
        keep[first:last] = True
    grey = images.float() * (images >= BLACK) * keep[:, None]
    grey[..., : columns[0]] = 0
    grey[..., columns[1] :] = 0

    # The centre of mass; an empty image would divide by 0.
    mass = grey.sum((1, 2))
    row, column = (torch.arange(n, device=images.device).float() for n in images.shape[1:])
    centre = torch.stack([(grey.sum(2) * row).sum(1), (grey.sum(1) * column).sum(1)], -1) / mass.clamp(min=1)[:, None]
    return ScreenObject(mass, centre, (mass >= least) & (mass <= most))
