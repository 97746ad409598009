"""Metrics of predicted images: changed pixels, tiles, recall of objects, rewards and terminations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.dynamics.visual import Visual
from mbrl_lab.env.objects import FindObjects, ScreenObject
from mbrl_lab.types import Metrics, Step

TILES = 7
"""Tiles along each side of an image of more than 10 pixels; in smaller ones each pixel is a tile."""

RIGHT = 0.5
"""Least F1 of the changed pixels of a tile that counts as right."""

TRUSTED = 0.9
"""Fraction of the tiles that must be right at every step of the trusted horizon."""


class FramePredictions(NamedTuple):
    """H steps predicted open loop from N starts with the true actions."""

    start: Tensor  # [N, C, H, W]: the newest frame of the start
    before: Tensor  # [N, C, H, W]: the frame before it
    predicted: Tensor  # [H, N, C, H, W]
    true: Tensor  # [H, N, C, H, W]
    valid: Tensor  # [H, N] bool: neither the true episode nor a life has ended
    reward: Tensor  # [H, N]: predicted mean
    true_reward: Tensor  # [H, N]
    termination: Tensor  # [H, N]: predicted probability
    true_termination: Tensor  # [H, N] bool
    first: Tensor  # [H, N] bool: as valid, but including the step that ends a life


@torch.no_grad()
def open_loop(model: Visual, steps: Step, oracle: bool = False) -> FramePredictions:
    """Predict along steps [lead + 1 + H, N], of which the first lead + 1 give the start state.

    `oracle`: continue from the model's outcome that fits the true frame best, not from the likeliest one.
    """
    lead, channels = model.lead, model.shape[0]
    state = model.initial_state(steps.at(slice(0, lead + 1)))
    start, before = state[:, -channels:], state[:, -2 * channels : -channels]
    if before.shape != start.shape:  # a history of one frame
        before = start

    alive = torch.ones_like(steps.first[0])
    predictions: list[tuple[Tensor, ...]] = []
    for t in range(lead + 1, len(steps.first)):
        step = steps.at(t)
        true = step.obs[:, -channels:]
        following, outcome = model.expect(state, step.action)
        state = model.closest_outcome(state, step.action, true) if oracle else following

        # `first`: the step belongs to the episode; `alive`: and the episode continues after it.
        first = alive & ~step.first
        alive = first & ~step.terminal
        frames = (state[:, -channels:], true, alive)
        predictions.append((*frames, outcome.reward, step.reward, 1 - outcome.cont, step.terminal, first))
    return FramePredictions(start, before, *(torch.stack(x) for x in zip(*predictions, strict=True)))


def changed(predictions: FramePredictions, threshold: int) -> tuple[Tensor, Tensor]:
    """[H, N, C, H, W] bool, predicted and true: pixels that differ from the start frame by more than `threshold`."""
    # Bytes would wrap around below zero.
    start = predictions.start.short()
    return (predictions.predicted.short() - start).abs() > threshold, (
        predictions.true.short() - start
    ).abs() > threshold


def f1(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """[H]: F1 of the predicted changed pixels [H, N, ...], over valid steps [H, N]."""
    keep = valid.view(*valid.shape, *[1] * (true.ndim - 2))
    # Pixels of all starts are counted together: a start in which little changes has little weight.
    hit = (predicted & true & keep).flatten(1).sum(1)
    return 2 * hit / ((predicted & keep).flatten(1).sum(1) + (true & keep).flatten(1).sum(1)).clamp(min=1)


def tiles_right(predicted: Tensor, true: Tensor, valid: Tensor) -> Tensor:
    """[H]: of the tiles with a changed pixel the fraction that was predicted right.

    Tiles have equal weights, so that a ball of five pixels counts as much as a paddle.
    """
    side = math.ceil(true.shape[-1] / TILES) if true.shape[-1] > 10 else 1
    hit, positive, actual = (_tiled(x, side) for x in (predicted & true, predicted, true))
    right = 2 * hit / (positive + actual).clamp(min=1) >= RIGHT
    counts = (actual > 0) & valid.view(*valid.shape, *[1] * (actual.ndim - 2))
    return (right & counts).flatten(1).sum(1) / counts.flatten(1).sum(1).clamp(min=1)


def _tiled(x: Tensor, side: int) -> Tensor:
    """[H, N, C, h, w] bool -> sums over tiles."""
    if side == 1:
        return x.float()
    # A divisor of 1 makes the average a sum, and the last tiles may be smaller than the others.
    pooled = torch.nn.functional.avg_pool2d(
        x.flatten(0, 2).float().unsqueeze(1), side, ceil_mode=True, divisor_override=1
    )
    return pooled.view(*x.shape[:3], *pooled.shape[-2:])


def trusted_horizon(right: Tensor) -> int:
    """Number of steps before the fraction of right tiles [H] first falls below `TRUSTED`."""
    # A product stays 0 after the first failure: a later step that is right by luck does not count.
    return int((right >= TRUSTED).int().cumprod(0).sum())


def recall_of(objects: FindObjects, predictions: FramePredictions) -> dict[str, Tensor]:
    """Recall [H] of each object: the fraction of starts from which it is predicted right; NaN if it is never visible.

    A step counts if the object is visible in the last two real frames and in the true one, and no life was lost.
    """
    horizon = predictions.predicted.shape[0]
    # Two frames show the motion; from a single one nobody could predict where a ball goes.
    past = [objects(x[:, 0]) for x in (predictions.before, predictions.start)]
    found: dict[str, list[Tensor]] = {}
    for h in range(horizon):
        predicted, true = objects(predictions.predicted[h, :, 0]), objects(predictions.true[h, :, 0])
        for name, actual in true.items():
            counts = predictions.valid[h] & actual.visible & past[0][name].visible & past[1][name].visible
            right = matches(predicted[name], actual) & counts
            found.setdefault(name, []).append(right.sum() / counts.sum())
    return {name: torch.stack(x) for name, x in found.items()}


def matches(predicted: ScreenObject, true: ScreenObject) -> Tensor:
    """[N] bool: a mass of 0.4 to 2.5 times the true one, with the centre within 2 pixels."""
    ratio = predicted.mass / true.mass.clamp(min=1)
    distance = (predicted.centre - true.centre).norm(dim=-1)
    return (ratio >= 0.4) & (ratio <= 2.5) & (distance <= 2)


def average_precision(score: Tensor, label: Tensor) -> float:
    """Mean precision at each positive, the highest scores [N] first; NaN where no label [N] is positive.

    Equal scores form one threshold: all of them get the precision at the last one, whatever their order.
    """
    if not label.any():
        return math.nan

    # The place of the last of equal scores: precision there does not depend on the order among them.
    order = score.argsort(descending=True, stable=True)
    score, label = score[order], label[order].double()
    last = torch.searchsorted(-score, -score, right=True) - 1
    precision = label.cumsum(0)[last] / (last + 1)
    return float((precision * label).sum() / label.sum())


def rare(name: str, score: Tensor, label: Tensor) -> Metrics:
    """Precision and recall at 0.5, average precision, and calibration: the sum of probabilities over the true count."""
    positive, count = score > 0.5, int(label.sum())
    if not count:
        return {}
    hit = int((positive & label).sum())
    return {
        f"model/openloop/{name}/precision": hit / max(int(positive.sum()), 1),
        f"model/openloop/{name}/recall": hit / count,
        f"model/openloop/{name}/average_precision": average_precision(score, label),
        f"model/openloop/{name}/calibration": float(score.sum()) / count,
    }


HORIZONS = (1, 2, 5, 10)
"""Steps at which open-loop predictions are measured."""


def image_metrics(
    predictions: FramePredictions, oracle: FramePredictions, threshold: int, objects: FindObjects | None
) -> tuple[Metrics, int]:
    """The metrics of `predictions`, by name, and the trusted horizon, which is that of the `oracle` ones."""
    # By step [H]: means over the starts.
    predicted, true = changed(predictions, threshold)
    valid = predictions.valid
    every = {"changed_f1": f1(predicted, true, valid), "tiles_right": tiles_right(predicted, true, valid)}
    possible = tiles_right(*changed(oracle, threshold), oracle.valid)
    every |= {f"{name}_recall": x for name, x in (recall_of(objects, predictions) if objects else {}).items()}
    horizons = [h for h in HORIZONS if h <= len(predictions.true)]
    found: Metrics = {
        f"model/openloop/obs/{name}_{h}": float(x[h - 1])
        for name, x in every.items()
        for h in horizons
        if x[h - 1].isfinite()
    }

    # Of the first step only: rewards and terminations of later ones depend on the predicted states.
    first = predictions.first[0]
    found |= rare("reward", predictions.reward[0, first].abs(), predictions.true_reward[0, first] != 0)
    found |= rare("termination", predictions.termination[0, first], predictions.true_termination[0, first])

    trusted = trusted_horizon(possible)
    return found | {"model/openloop/trusted_horizon": float(trusted)}, trusted
