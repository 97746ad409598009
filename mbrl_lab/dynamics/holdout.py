"""HoldoutTrainer: what trainers share that keep a part of replay to stop by, and give members data of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_lab.dynamics.tally import Tally
from mbrl_lab.dynamics.trainer import Model, Trainer
from mbrl_lab.ops import hash_uniform

POISSON = (0.3679, 0.7358, 0.9197, 0.9810, 0.9963, 0.9994)
"""P(X <= k) of Poisson(1), k = 0..5: the limit of drawing n of n rows with replacement (Oza & Russell 2001)."""


@dataclass(eq=False)
class HoldoutTrainer(Trainer[Model]):
    """Epochs over the indices that are not held out, until the hold-out error of no member falls any more."""

    batch: int
    """Transitions in a gradient step, of each member."""
    holdout: float
    """Fraction of the transitions that are never trained on."""
    max_holdout: int
    """The newest so many of them are validated on."""
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
        size = min(len(s) for s in sets)
        shuffled = torch.stack([s[torch.randperm(len(s), device=device)[:size]] for s in sets])
        return list(shuffled.split(self.batch, 1))

    def _times(self, indices: Tensor, member: int) -> Tensor:
        """Positions in `indices`, each as often as a Poisson(1) number drawn for it and this member says."""
        index = torch.arange(len(indices), device=indices.device)
        if not self.bootstrap:
            return index
        u = hash_uniform(indices, salt=1 + member)
        count = sum((u > p).long() for p in POISSON)
        return index.repeat_interleave(count)
