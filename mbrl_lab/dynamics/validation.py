"""What a model's elites say of transitions that they were not trained on, beside what happened."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.types import Metrics

LEVELS = (0.5, 0.8, 0.95)
"""Of central intervals: a model that knows how sure it is has so large a share of what happens in them."""


class Validation(NamedTuple):
    """N one-step predictions of O outputs, changes of the observation and the reward, in std of the targets."""

    true: Tensor  # [N, O] what happened
    error: Tensor  # [N, O] mean of the elites minus that
    spread: Tensor  # [N, O] standard deviation over elites of their means
    below: Tensor  # [N, O] probability given to less than what happened, uniform if calibrated; NaN: says nothing
    end: Tensor  # [N] predicted probability of an end
    ended: Tensor  # [N] bool

    def metrics(self) -> Metrics:
        """The few numbers that are logged at each fit; what is not known is left out."""
        found: Metrics = {
            "model/holdout/obs/rmse": rms(self.error[:, :-1]),
            "model/holdout/reward/rmse": rms(self.error[:, -1]),
            "model/holdout/std": rms(self.spread),
        }
        if self.below.isfinite().any():
            found |= {
                f"model/holdout/coverage_{100 * level:.0f}": coverage(self.below, level).nanmean() for level in LEVELS
            }
        if self.ended.any() and not self.ended.all():
            found["model/holdout/termination/error"] = (
                1 - self.end[self.ended].mean() + self.end[~self.ended].mean()
            ) / 2
        return found


def validate_predictions(
    mean: Tensor, std: Tensor | None, target: Tensor, end: Tensor, ended: Tensor, reward: Tensor | None = None
) -> Validation:
    """Means and, of Gaussian members, standard deviations [K, N, O] beside targets [N, O].

    The belief of Gaussian members is their mixture. Others say how sure they are by their spread alone: it is taken for
    the deviation of a Gaussian. `reward` [N] takes the place of a learned one; nothing is said of how sure it is.
    """
    middle, spread = mean.mean(0), mean.std(0, correction=0)
    if std is not None:
        below = probability_below(mean, std, target)
    elif len(mean) > 1:
        below = probability_below(middle[None], mean.std(0)[None], target)
    else:
        below = torch.full_like(target, torch.nan)
    below[:, target.std(0, correction=0) < 1e-6] = torch.nan
    if reward is not None:
        middle = torch.cat([middle[:, :-1], reward[:, None]], -1)
        spread[:, -1], below[:, -1] = 0.0, torch.nan
    return Validation(target, middle - target, spread, below, end, ended)


def probability_below(mean: Tensor, std: Tensor, true: Tensor) -> Tensor:
    """[N, O]: what an equal mixture of K Gaussians [K, N, O] gives to all that is less than `true` [N, O]."""
    return torch.special.ndtr((true - mean) / std).mean(0)


def coverage(below: Tensor, level: float) -> Tensor:
    """[N, O] -> [O]: share of what happened that lies in the central interval of so much probability; NaN: unknown."""
    inside = ((2 * below - 1).abs() <= level).float()
    return inside.where(below.isfinite(), torch.nan).nanmean(0)


def rms(x: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Root mean square over some dimensions, or all."""
    return x.square().mean(dim).sqrt()
