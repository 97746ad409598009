"""The return a planner promised beside the one that followed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mbrl_lab.types import Step


def achieved(rows: Step, horizon: int, discount: float) -> Tensor:
    """[T, B]: discounted sum of the `horizon` rewards after each row of [T + 1, B]; rewards after an end are none.

    NaN where the rows do not tell: too near the last one, or cut by a time limit.
    """
    length = len(rows.first) - 1
    first, reward, terminal = (
        _longer(x, horizon, v) for x, v in ((rows.first, 1), (rows.reward, 0), (rows.terminal, 0))
    )
    total = torch.zeros_like(rows.reward[1:])
    alive, known = torch.ones_like(rows.first[1:]), torch.ones_like(rows.first[1:])
    for k in range(horizon):
        at = slice(k + 1, k + 1 + length)
        known &= ~(alive & first[at])
        total += alive * discount**k * reward[at]
        alive &= ~terminal[at]
    return total.where(known, torch.nan)


def pairs(promised: Tensor, got: Tensor) -> tuple[Tensor, Tensor]:
    """[N] each, of those rows where both are known."""
    both = promised.isfinite() & got.isfinite()
    return promised[both], got[both]


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson's; NaN where either does not vary."""
    if len(x) < 2 or min(float(x.std()), float(y.std())) < 1e-6:
        return float("nan")
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def longest_episode(first: Tensor) -> tuple[int, int, int]:
    """(environment, start, stop): where [T + 1, B] rows run longest without a new episode."""
    spans = []
    for b in range(first.shape[1]):
        edges = [0, *(first[1:, b].nonzero()[:, 0] + 1).tolist(), len(first)]
        spans += [(b, start, stop) for start, stop in pairwise(edges)]
    return max(spans, key=lambda span: span[2] - span[1])


def _longer(x: Tensor, rows: int, value: float) -> Tensor:
    """[T, B] with `rows` rows of `value` after it."""
    return torch.cat([x, torch.full_like(x[:1], value).expand(rows, -1)])
