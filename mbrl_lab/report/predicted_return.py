"""Comparison of the return that a planner predicts with the one that followed."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from mbrl_lab.types import Step


def achieved_return(steps: Step, horizon: int, discount: float) -> Tensor:
    """[T, B]: discounted sum of the `horizon` rewards after each of [T + 1, B] steps, up to a termination.

    NaN if it is not known: too near the last step, or truncated by a time limit.
    """
    length = len(steps.first) - 1
    first = _padded(steps.first, horizon, 1)
    reward = _padded(steps.reward, horizon, 0)
    terminal = _padded(steps.terminal, horizon, 0)

    # `alive`: the episode has not terminated yet; `known`: it has not been truncated while it was alive.
    total = torch.zeros_like(steps.reward[1:])
    alive, known = torch.ones_like(steps.first[1:]), torch.ones_like(steps.first[1:])
    for k in range(horizon):
        at = slice(k + 1, k + 1 + length)
        known &= ~(alive & first[at])
        total += alive * discount**k * reward[at]
        alive &= ~terminal[at]
    return total.where(known, torch.nan)


def known_pairs(predicted_return: Tensor, got: Tensor) -> tuple[Tensor, Tensor]:
    """[N] each: the steps at which both are known."""
    both = predicted_return.isfinite() & got.isfinite()
    return predicted_return[both], got[both]


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson correlation; NaN if one of the two does not vary."""
    if len(x) < 2 or min(float(x.std()), float(y.std())) < 1e-6:
        return float("nan")
    return float(torch.corrcoef(torch.stack([x, y]))[0, 1])


def longest_episode(first: Tensor) -> tuple[int, int, int]:
    """(environment, start, stop) of the longest episode in [T + 1, B] steps."""
    spans = []
    for b in range(first.shape[1]):
        edges = [0, *(first[1:, b].nonzero()[:, 0] + 1).tolist(), len(first)]
        spans += [(b, start, stop) for start, stop in pairwise(edges)]
    return max(spans, key=lambda span: span[2] - span[1])


def _padded(x: Tensor, steps: int, value: float) -> Tensor:
    """[T, B], padded with `steps` steps of `value`."""
    return torch.cat([x, torch.full_like(x[:1], value).expand(steps, -1)])
