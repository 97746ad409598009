"""Scores: statistics of episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl_lab.env import Episode

Array = NDArray[np.float64]

RESAMPLES = 2_000
"""Bootstrap samples; rliable's default for intervals of point estimates."""


class Reference(NamedTuple):
    """The returns that a normalised score maps to 0 (random) and 1 (human)."""

    random: float
    human: float

    def normalise(self, returns: Any) -> Any:
        """Human-normalised scores of returns, one or an array."""
        return (returns - self.random) / (self.human - self.random)


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
        numbers["hns"] = reference.normalise(mean)
    return numbers


def summary(phase: str, episodes: Sequence[Episode], reference: Reference | None = None) -> dict[str, float]:
    """`statistics` as metrics of a phase."""
    return {f"{phase}/{name}": value for name, value in statistics(episodes, reference).items()}


def interquartile_mean(values: Array) -> Array:
    """[S, ...] -> [...]: the mean over S without the floor(S / 4) lowest and highest values (Agarwal et al. 2021)."""
    cut = len(values) // 4
    return np.sort(values, 0)[cut : len(values) - cut].mean(0)


def interval(*strata: Array) -> tuple[Array, Array]:
    """95 % stratified bootstrap interval of the interquartile mean of all runs of S seeds in [S, N] values.

    A stratum is an environment: its runs are resampled among themselves. With one of two or three seeds the interval
    spans about the range; one run in each stratum has no interval: NaN.
    """
    samples = interquartile_mean(np.concatenate(resample(strata), 1).swapaxes(0, 1))
    return central(samples, strata)


def performance_profile(scores: Array, *strata: Array) -> tuple[Array, Array, Array]:
    """Fraction of runs, of [S] in each environment, above each of T scores, with 95 % intervals: three times [T]."""
    above = [(stratum[:, None] > scores).astype(np.float64) for stratum in strata]
    low, high = central(np.concatenate(resample(above), 1).mean(1), strata)
    return np.concatenate(above).mean(0), low, high


def probability_of_improvement(pairs: Sequence[tuple[Array, Array]]) -> tuple[float, float, float]:
    """P(X > Y) of two algorithms' runs, and its 95 % interval (Agarwal et al. 2021, equation 2).

    Args:
        pairs: the scores [S] of X and [R] of Y in each environment. Ties count half, environments count equally.
    """
    better = [_better(x, y) for x, y in pairs]
    strata = [scores for pair in pairs for scores in pair]
    drawn = resample(strata)
    samples = np.mean([_better(x, y) for x, y in zip(drawn[::2], drawn[1::2], strict=True)], 0)
    low, high = central(samples, strata)
    return float(np.mean(better)), float(low), float(high)


def _better(x: Array, y: Array) -> Array:
    """[..., S] and [..., R] -> [...]: the fraction of pairs in which x is higher; ties count half."""
    difference = x[..., :, None] - y[..., None, :]
    return (0.5 + 0.5 * np.sign(difference)).mean((-2, -1))


def resample(strata: Sequence[Array]) -> list[Array]:
    """[S, ...] of each stratum -> [RESAMPLES, S, ...], drawn with replacement from that stratum alone."""
    # A fixed seed, so that the same runs give the same figure.
    generator = np.random.default_rng(0)
    return [values[generator.integers(len(values), size=(RESAMPLES, len(values)))] for values in strata]


def central(samples: Array, strata: Sequence[Array]) -> tuple[Array, Array]:
    """The central 95 % of bootstrap samples along the first axis; NaN if no stratum has two runs to resample."""
    low, high = np.quantile(samples, (0.025, 0.975), axis=0)
    if all(len(values) < 2 for values in strata):
        low, high = np.full_like(low, np.nan), np.full_like(high, np.nan)
    return low, high
