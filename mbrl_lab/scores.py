"""Scores: statistics of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl_lab.env import Episode

RESAMPLES = 2_000
"""Bootstrap samples; rliable's default for intervals of point estimates."""


class Reference(NamedTuple):
    """The returns that a normalised score maps to 0 (random) and 1 (human)."""

    random: float
    human: float


def statistics(episodes: Sequence[Episode], reference: Reference | None = None) -> dict[str, float]:
    """Mean, std, interquartile mean and extremes; `hns`, the human-normalised score of the mean, with a reference."""
    returns = np.array([e.ret for e in episodes])
    mean = float(returns.mean())
    numbers = {
        "return": mean,
        "return_std": float(returns.std()),
        "return_iqm": float(interquartile_mean(returns)),
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


def interquartile_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S, ...] -> [...]: the mean over S without the floor(S / 4) lowest and highest values (Agarwal et al. 2021)."""
    cut = len(values) // 4
    return np.sort(values, 0)[cut : len(values) - cut].mean(0)


def interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % bootstrap interval of the interquartile mean over S seeds of [S, N]; about the range for two or three."""
    # A fixed seed, so that the same runs give the same figure.
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    samples = interquartile_mean(values[drawn].swapaxes(0, 1))
    low, high = np.quantile(samples, (0.025, 0.975), axis=0)
    return low, high
