"""Tally: the means of what the gradient steps of a fit measured."""

from __future__ import annotations

import torch

from mbrl_lab.types import Metrics


class Tally:
    """Sums of metrics, and over how many updates."""

    def __init__(self) -> None:
        self.updates = 0
        self.sums: Metrics = {}

    def add(self, metrics: Metrics) -> None:
        """Count one update."""
        self.sums = {k: self.sums.get(k, 0.0) + v for k, v in metrics.items()}
        self.updates += 1

    def plain_means(self) -> Metrics:
        """The mean of each metric."""
        return {k: v / self.updates for k, v in self.sums.items()}

    def means(self) -> Metrics:
        """The mean of each, and the number of updates. FloatingPointError where a mean is not finite."""
        means = self.plain_means()
        for name, value in means.items():
            if not torch.as_tensor(value).isfinite():
                how = "lower dynamics.lr or set dynamics.clip"
                raise FloatingPointError(f"the model diverged: {name} is {float(value)} in a fit; {how}")
        return means | {"model/updates": float(self.updates)}
