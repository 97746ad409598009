"""Tally: the means of what the gradient steps of a fit measured."""

from __future__ import annotations

import torch

from mbrl_lab.ops import Means
from mbrl_lab.types import Metrics


class Tally(Means):
    """Means of metrics, and over how many updates."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = 0

    def add(self, metrics: Metrics) -> None:
        """Count one update."""
        super().add(metrics)
        self.updates += 1

    def checked(self) -> Metrics:
        """The mean of each, and the number of updates. FloatingPointError where a mean is not finite."""
        means = self.means()
        for name, value in means.items():
            if not torch.as_tensor(value).isfinite():
                how = "lower dynamics.lr or set dynamics.clip"
                raise FloatingPointError(f"the model diverged: {name} is {float(value)} in a fit; {how}")
        return means | {"model/train/updates": float(self.updates)}
