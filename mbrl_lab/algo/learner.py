"""Learner: the base of algorithms that act at random during a warm-up and learn after it."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.ops import crossed
from mbrl_lab.protocols import Algo
from mbrl_lab.types import EnvSpec, Step


class Learner(Algo):
    """An algorithm whose first `warmup` environment steps are random actions; then it is `ready`.

    Subclasses set `ready` when they begin to act by their policy or planner. It is saved with the weights.
    """

    ready: Tensor

    def __init__(self, spec: EnvSpec, warmup: int) -> None:
        super().__init__()
        self.spec = spec
        self.warmup = warmup
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @property
    def warmed_up(self) -> bool:
        return bool(self.ready)

    def random_action(self, step: Step) -> Tensor:
        """[B] actions drawn uniformly, for the newest step."""
        return self.spec.random(len(step.first), step.first.device)

    def warmup_ends(self, before: int, after: int) -> bool:
        """Whether the warm-up's last step lies in (before, after], two counts of environment steps."""
        return before < self.warmup <= after

    def due(self, before: int, after: int, every: int) -> int:
        """How many multiples of `every` lie in (before, after] and after the warm-up."""
        return due_after(self.warmup, before, after, every)

    def fit_due(self, before: int, after: int, every: int) -> bool:
        """Whether a fit is due in (before, after]: when the warm-up finishes, and every `every` steps after that."""
        return after >= self.warmup and crossed(before - self.warmup, after - self.warmup, every) > 0


def due_after(warmup: int, before: int, after: int, every: int) -> int:
    """How many multiples of `every` lie in (before, after] and above `warmup`; earlier ones are skipped."""
    return crossed(max(before, warmup), max(after, warmup), every)
