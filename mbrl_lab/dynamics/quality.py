"""How good predicted images are: changed pixels, moved tiles, things that can be followed, rare outcomes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.dynamics.visual import Visual
from mbrl_lab.env.objects import FindObjects, ScreenObject
from mbrl_lab.types import Metrics, Step

TILES = 7
"""Along each side of an image of more than 10 pixels; smaller ones have a tile for each pixel."""

RIGHT = 0.5
"""Least F1 of the changed pixels of a tile that was predicted right."""

TRUSTED = 0.9
"""Share of the tiles that must be right for a model to have earned rollouts of a length."""


class FramePredictions(NamedTuple):
    """H steps imagined from N starts with the actions truly taken."""

    start: Tensor  # [N, C, H, W]: the newest frame where it began
    before: Tensor  # [N, C, H, W]: the frame before it
    predicted: Tensor  # [H, N, C, H, W]
    true: Tensor  # [H, N, C, H, W]
    valid: Tensor  # [H, N] bool: the true episode, and the life, go on until then
    reward: Tensor  # [H, N]: predicted, and so on
    true_reward: Tensor
    end: Tensor  # [H, N]: probability
    true_end: Tensor
    first: Tensor  # [H, N] bool: as valid, but the step that ends a life counts


@torch.no_grad()
def open_loop(model: Visual, steps: Step, oracle: bool = False) -> FramePredictions:
    """Imagine along rows [lead + 1 + H, N] whose first lead + 1 begin a state of the model.

    `oracle`: of the outcomes that the model deems possible the one nearest to the truth, not the likeliest.
    """
    lead, channels = model.lead, model.shape[0]
    state = model.initial_state(steps.at(slice(0, lead + 1)))
    start, before = state[:, -channels:], state[:, -2 * channels : -channels]
    if before.shape != start.shape:
        before = start
    goes_on = torch.ones_like(steps.first[0])
    seen: list[tuple[Tensor, ...]] = []
    for t in range(lead + 1, len(steps.first)):
        row = steps.at(t)
        true = row.obs[:, -channels:]
        after, outcome = model.expect(state, row.action)
        state = model.recognise(state, row.action, true) if oracle else after
        first = goes_on & ~row.first
        goes_on = first & ~row.terminal
        said, was = (outcome.reward, 1 - outcome.cont), (row.reward, row.terminal)
        seen.append((state[:, -channels:], true, goes_on, said[0], was[0], said[1], was[1], first))
    return FramePredictions(start, before, *(torch.stack(x) for x in zip(*seen, strict=True)))


def changed(seen: FramePredictions, far: int) -> tuple[Tensor, Tensor]:
    """[H, N, C, H, W] bool each: pixels that differ by more than `far` from the last real frame, predicted and true."""
    start = seen.start.short()
    return (seen.predicted.short() - start).abs() > far, (seen.true.short() - start).abs() > far


def f1(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """[H]: of pixels [H, N, ...] predicted to change and changed, over the rows that are valid [H, N]."""
    keep = valid.view(*valid.shape, *[1] * (true.ndim - 2))
    hit = (predicted & true & keep).flatten(1).sum(1)
    return 2 * hit / ((predicted & keep).flatten(1).sum(1) + (true & keep).flatten(1).sum(1)).clamp(min=1)


def tiles_right(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """[H]: the share of the tiles in which something changed that were predicted right.

    Every tile counts alike, so that a ball of five pixels counts as much as a paddle.
    """
    side = math.ceil(true.shape[-1] / TILES) if true.shape[-1] > 10 else 1
    hit, said, was = (_tiled(x, side) for x in (predicted & true, predicted, true))
    right = 2 * hit / (said + was).clamp(min=1) >= RIGHT
    counts = (was > 0) & valid.view(*valid.shape, *[1] * (was.ndim - 2))
    return (right & counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)


def _tiled(x: Tensor, side: int) -> Tensor:
    """[H, N, C, h, w] bool -> sums over tiles."""
    if side == 1:
        return x.float()
    pooled = torch.nn.functional.avg_pool2d(
        x.flatten(0, 2).float().unsqueeze(1), side, ceil_mode=True, divisor_override=1
    )
    return pooled.view(*x.shape[:3], *pooled.shape[-2:])


def trusted_horizon(right: Tensor) -> int:
    """How many steps in a row from the first the share of right tiles [H] is high enough."""
    return int((right >= TRUSTED).int().cumprod(0).sum())


def recall_of(objects: FindObjects, seen: FramePredictions) -> dict[str, Tensor]:
    """For each object [H] the share of starts from which it is where it should be; NaN where it is never to be seen.

    Counted are rows where it is visible in the last two real frames and the true one, and no life was lost meanwhile.
    Right is a mass of 0.4 to 2.5 times the true one, with its centre within 2 pixels.
    """
    height = seen.predicted.shape[0]
    past = [objects(x[:, 0]) for x in (seen.before, seen.start)]
    found: dict[str, list[Tensor]] = {}
    for h in range(height):
        predicted, true = objects(seen.predicted[h, :, 0]), objects(seen.true[h, :, 0])
        for name, part in true.items():
            counts = seen.valid[h] & part.visible & past[0][name].visible & past[1][name].visible
            right = matches(predicted[name], part) & counts
            found.setdefault(name, []).append(right.sum() / counts.sum())
    return {name: torch.stack(x) for name, x in found.items()}


def matches(predicted: ScreenObject, true: ScreenObject) -> Tensor:
    """[N] bool."""
    ratio = predicted.mass / true.mass.clamp(min=1)
    apart = (predicted.centre - true.centre).norm(dim=-1)
    return (ratio >= 0.4) & (ratio <= 2.5) & (apart <= 2)


def average_precision(score: Tensor, label: Tensor) -> float:
    """Mean precision at each positive, the highest scores [N] first; NaN where no label [N] is positive.

    Equal scores count together, as if drawn in random order on average: their precision is that of the last of them.
    """
    if not label.any():
        return math.nan
    order = score.argsort(descending=True, stable=True)
    score, label = score[order], label[order].double()
    last = torch.searchsorted(-score, -score, right=True) - 1
    precision = label.cumsum(0)[last] / (last + 1)
    return float((precision * label).sum() / label.sum())


def rare(name: str, score: Tensor, label: Tensor) -> Metrics:
    """Precision and recall at a half, average precision, and the sum of probabilities by the true count."""
    said, count = score > 0.5, int(label.sum())
    if not count:
        return {}
    hit = int((said & label).sum())
    return {
        f"model/openloop/{name}/precision": hit / max(int(said.sum()), 1),
        f"model/openloop/{name}/recall": hit / count,
        f"model/openloop/{name}/average_precision": average_precision(score, label),
        f"model/openloop/{name}/calibration": float(score.sum()) / count,
    }


HORIZONS = (1, 2, 5, 10)
"""Steps at which open-loop predictions are image_metrics."""


def image_metrics(
    seen: FramePredictions, told: FramePredictions, far: int, objects: FindObjects | None
) -> tuple[Metrics, int]:
    """Everything that is logged about predictions, by name, and the trusted horizon, by `oracle` ones."""
    said, was = changed(seen, far)
    every = {"changed_f1": f1(said, was, seen.valid), "tiles_right": tiles_right(said, was, seen.valid)}
    possible = tiles_right(*changed(told, far), told.valid)
    every |= {f"{name}_recall": x for name, x in (recall_of(objects, seen) if objects else {}).items()}
    reach = [h for h in HORIZONS if h <= len(seen.true)]
    found: Metrics = {
        f"model/openloop/obs/{name}_{h}": float(x[h - 1])
        for name, x in every.items()
        for h in reach
        if x[h - 1].isfinite()
    }
    first = seen.first[0]
    found |= rare("reward", seen.reward[0, first].abs(), seen.true_reward[0, first] != 0)
    found |= rare("termination", seen.end[0, first], seen.true_end[0, first])
    trusted = trusted_horizon(possible)
    return found | {"model/openloop/trusted_horizon": float(trusted)}, trusted
