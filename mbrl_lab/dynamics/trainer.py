"""Trainer: fits a world model to replay; HoldoutTrainer: one that stops by a held-out part of it.

A model's own YAML names its trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from mbrl_lab.ops import Means, hash_uniform
from mbrl_lab.protocols import WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import FitResult, Metrics, Step, Tree

Model = TypeVar("Model", bound=WorldModel)

POISSON = (0.3679, 0.7358, 0.9197, 0.9810, 0.9963, 0.9994)
"""P(X <= k) of Poisson(1), k = 0..5: the limit of drawing n of n rows with replacement (Oza & Russell 2001)."""


class Trainer(Generic[Model]):
    """Subclasses define `fit`; the other methods, which a WorldModel passes on to its trainer, have defaults."""

    def fit(self, model: Model, replay: Replay, updates: int | None) -> FitResult:
        """Train the model by the trainer's schedule, or for `updates` gradient steps."""
        raise NotImplementedError

    def check_model(self, model: Model) -> None:
        """Raise a ValueError that names the settings for a model that it cannot train."""

    def check_memory(self, model: Model) -> None:
        """Raise a ValueError that names the settings if a fit would run out of memory."""

    def held_out(self, replay: Replay) -> Step | None:
        """[2, N] steps that the model was never trained on; None where there are none."""
        return None

    def store(self, model: Model, replay: Replay, state: Tree) -> None:
        """Store the states [num_envs] that were inferred while acting, for the step of replay before the newest."""

    def state(self) -> dict[str, Any]:
        """State that a resumed run needs besides the weights: plain values and tensors."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `state`."""


@dataclass(eq=False)
class HoldoutTrainer(Trainer[Model]):
    """Epochs over the indices that are not held out, until the hold-out error of no member falls any more."""

    batch: int
    """Transitions in a gradient step, of each member."""
    holdout: float
    """Fraction of the transitions that are marked as held out, by a hash of their indices."""
    max_holdout: int
    """The newest so many of them are the test set; older ones are trained on."""
    patience: int
    """Epochs without a gain before a fit stops."""
    gain: float
    """Fraction by which some member's hold-out error must fall."""
    max_updates: int
    """Gradient steps in a fit. 0: no bound."""
    bootstrap: bool
    """Whether each member has its own resampling of the data."""

    def spent(self, tally: Tally) -> bool:
        """Whether no more updates are allowed."""
        return 0 < self.max_updates <= tally.updates

    def _epoch(self, members: int, indices: Tensor) -> list[Tensor]:
        """[K, batch] indices at a time: every member goes once through its own bootstrap, in an order of its own."""
        device = indices.device
        sets = [indices[self._times(indices, k)] for k in range(members)]

        # Members are one batched network, so their epochs have the length of the shortest.
        size = min(len(s) for s in sets)
        shuffled = torch.stack([s[torch.randperm(len(s), device=device)[:size]] for s in sets])
        return list(shuffled.split(self.batch, 1))

    def _times(self, indices: Tensor, member: int) -> Tensor:
        """Positions in `indices`, each repeated by a Poisson(1) number that is drawn for it and this member."""
        index = torch.arange(len(indices), device=indices.device)
        if not self.bootstrap:
            return index

        # Hashed from the permanent index, so a transition is repeated equally often at every fit, resumed or not.
        u = hash_uniform(indices, salt=1 + member)
        # Inverse transform sampling: the number of thresholds of the distribution function below a uniform number.
        count = sum((u > p).long() for p in POISSON)
        return index.repeat_interleave(count)


class Tally(Means):
    """Means of a fit's metrics over its gradient steps, and the number of these."""

    def __init__(self) -> None:
        super().__init__()
        self.updates = 0

    def add(self, metrics: Metrics) -> None:
        """Count one update."""
        super().add(metrics)
        self.updates += 1

    def checked(self) -> Metrics:
        """The means and the number of updates; FloatingPointError if a mean is not finite."""
        means = self.means()
        for name, value in means.items():
            if not torch.as_tensor(value).isfinite():
                how = "lower dynamics.optim.lr or set dynamics.optim.clip"
                raise FloatingPointError(f"the model diverged: {name} is {float(value)} in a fit; {how}")
        return means | {"model/train/updates": float(self.updates)}
