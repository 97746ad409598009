"""Scores: statistics of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl_lab.env import Episode


class Reference(NamedTuple):
    """The returns that stand for 0 and 1 of a normalised score."""

    random: float
    human: float


def statistics(episodes: Sequence[Episode], reference: Reference | None = None) -> dict[str, float]:
    """Mean, std, interquartile mean and extremes; `hns`, the human-normalised score of the mean, with a reference."""
    returns = np.array([e.ret for e in episodes])
    mean = float(returns.mean())
    numbers = {
        "return": mean,
        "return_std": float(returns.std()),
        "return_iqm": interquartile_mean(returns),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "length": float(np.mean([e.length for e in episodes])),
    }

    if reference is not None:
        numbers["hns"] = (mean - reference.random) / (reference.human - reference.random)
    return numbers


def summary(phase: str, episodes: Sequence[Episode], reference: Reference | None = None) -> dict[str, float]:
    """`statistics` as metrics of a phase."""
    return {f"{phase}/{name}": value for name, value in statistics(episodes, reference).items()}


def interquartile_mean(values: NDArray[np.float64]) -> float:
    """The mean of what is left of [N] values without the lowest and the highest floor(N / 4) (Agarwal et al. 2021)."""
    cut = len(values) // 4
    return float(np.sort(values)[cut : len(values) - cut].mean())
