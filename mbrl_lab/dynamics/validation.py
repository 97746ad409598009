"""Validation of an ensemble's one-step predictions on held-out transitions: errors, disagreement and calibration.

A model is calibrated if its intervals of probability p hold a fraction p of the true outcomes. By the probability
integral transform that is so where the quantile of the truth in the predicted distribution is uniform on [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.types import Metrics

LEVELS = (0.5, 0.8, 0.95)
"""Probabilities of the central intervals whose coverage is logged."""

CONSTANT = 1e-6
"""A target whose standard deviation is below it does not vary: it has no quantiles."""


class Validation(NamedTuple):
    """N one-step predictions of O outputs, the change of the observation and the reward, in std of the targets."""

    true: Tensor  # [N, O]
    error: Tensor  # [N, O] mean of the elites minus that
    spread: Tensor  # [N, O] standard deviation over elites of their means
    quantile: Tensor  # [N, O] of the truth in the predicted distribution; NaN: the model predicts none
    termination: Tensor  # [N] predicted probability
    terminal: Tensor  # [N] bool

    def metrics(self) -> Metrics:
        """The numbers that are logged at each fit; those that are not known are left out."""
        found: Metrics = {
            "model/holdout/obs/rmse": rms(self.error[:, :-1]),
            "model/holdout/reward/rmse": rms(self.error[:, -1]),
            "model/holdout/std": rms(self.spread),
        }
        if self.quantile.isfinite().any():
            found |= {
                f"model/holdout/coverage_{100 * level:.0f}": coverage(self.quantile, level).nanmean()
                for level in LEVELS
            }

        # The mean of two error rates: terminations are so rare that an overall rate would not show them.
        if self.terminal.any() and not self.terminal.all():
            missed, false = 1 - self.termination[self.terminal].mean(), self.termination[~self.terminal].mean()
            found["model/holdout/termination/error"] = (missed + false) / 2
        return found


def validate_predictions(
    mean: Tensor,
    std: Tensor | None,
    target: Tensor,
    termination: Tensor,
    terminal: Tensor,
    reward: Tensor | None = None,
) -> Validation:
    """Compare predictions with the truth.

    Args:
        mean: [K, N, O] of the members.
        std: [K, N, O] of Gaussian members, whose predicted distribution is their mixture. None: it is a Gaussian of
            the members' mean and standard deviation.
        target: [N, O].
        termination: [N] predicted probability.
        terminal: [N] bool.
        reward: [N] a computed one, in the place of the learned last output; it has no distribution.
    """
    middle, spread = mean.mean(0), mean.std(0, correction=0)

    # One member that predicts no variance has no distribution.
    if std is not None:
        quantile = mixture_quantile(mean, std, target)
    elif len(mean) > 1:
        quantile = mixture_quantile(middle[None], mean.std(0)[None], target)
    else:
        quantile = torch.full_like(target, torch.nan)
    quantile[:, target.std(0, correction=0) < CONSTANT] = torch.nan

    if reward is not None:
        middle = torch.cat([middle[:, :-1], reward[:, None]], -1)
        spread[:, -1], quantile[:, -1] = 0.0, torch.nan
    return Validation(target, middle - target, spread, quantile, termination, terminal)


def mixture_quantile(mean: Tensor, std: Tensor, true: Tensor) -> Tensor:
    """[N, O]: the distribution function at `true` [N, O] of an equal mixture of K Gaussians [K, N, O]."""
    return torch.special.ndtr((true - mean) / std).mean(0)


def coverage(quantile: Tensor, level: float) -> Tensor:
    """[N, O] -> [O]: fraction of the true outcomes in the central interval of probability `level`; NaN: unknown."""
    inside = ((2 * quantile - 1).abs() <= level).float()
    return inside.where(quantile.isfinite(), torch.nan).nanmean(0)


def rms(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Root mean square over some dimensions, or all."""
    return x.square().mean(dim).sqrt()
