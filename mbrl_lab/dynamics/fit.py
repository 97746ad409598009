"""Fitting a world model on everything in replay: hold-out, early stopping, bootstraps that never change."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mbrl_lab.dynamics.judge import Judgement
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.ops import hash_uniform
from mbrl_lab.replay import Replay
from mbrl_lab.types import Metrics, Step, Tree


class Fittable(Protocol):
    """What `Fit` asks of a model, beside the verbs of a WorldModel."""

    members: int
    net: EnsembleMLP

    def normalise(self, steps: Step) -> None: ...
    def bound(self, steps: Step) -> None: ...
    def update(self, steps: Step, ends: Step | None = None) -> tuple[Tree, Metrics]: ...
    def validate(self, steps: Step) -> Tensor: ...
    def judge(self, steps: Step) -> Judgement: ...
    def choose(self, error: Tensor) -> None: ...
    def thaw(self) -> None: ...


class Fit:
    """Trains until no member's hold-out error has fallen by the share `gain` for `patience` epochs.

    Each member keeps its best weights; the model's elites are those of least error. An index's part (hold-out or not,
    and how often it stands in each member's `bootstrap`) follows from its number, so it is the same at every fit.
    `max_updates` (0: no bound) and `max_holdout` bound the work. Half the rows for the end network are ends.
    Models of sequences have no members and nothing is held out for them: they take `max_updates` steps (0: as many as
    see every row once on average), on windows that hold about `batch` rows together.
    """

    def __init__(
        self,
        batch: int,
        holdout: float,
        max_holdout: int,
        patience: int,
        gain: float,
        max_updates: int,
        bootstrap: bool,
    ) -> None:
        self.batch, self.holdout, self.max_holdout = batch, holdout, max_holdout
        self.patience, self.gain, self.max_updates, self.bootstrap = patience, gain, max_updates, bootstrap

    def __call__(self, model: Fittable | SequenceModel, replay: Replay) -> Metrics:
        return self.practise(model, replay) if isinstance(model, SequenceModel) else self.converge(model, replay)

    def practise(self, model: SequenceModel, replay: Replay) -> Metrics:
        """Some gradient steps on windows of replay; the means of what they measured."""
        windows = max(self.batch // model.length, 1)
        updates = self.max_updates or -(-len(replay) * replay.num_envs // (windows * model.length))
        tally = Tally()
        for _ in range(updates):
            tally.add(model.update(replay.sample(windows, model.length))[1])
        return tally.means()

    def converge(self, model: Fittable, replay: Replay) -> Metrics:
        """Gradient steps until nothing is gained, and the elites."""
        indices = replay.transitions()
        train, test = self.split(indices)
        test = test if len(test) else train
        model.normalise(replay.read(train, 2))
        rows = replay.read(indices, 2)
        model.bound(rows)
        ends = indices[rows.terminal[1]]
        best = Best(model, replay.read(test, 2))
        stale, tally = 0, Tally()
        while stale <= self.patience and not self.spent(tally):
            for batch in self._epoch(model.members, train):
                about_ends = replay.read(balanced(ends, indices, batch.shape), 2) if len(ends) else None
                tally.add(model.update(replay.read(batch, 2), about_ends)[1])
                if self.spent(tally):
                    break
            stale = 0 if best.keep(self.gain) else stale + 1
        best.restore()
        return tally.means() | {"model/holdout_error": best.error.mean()} | model.judge(best.rows).metrics()

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Those to train on, and the newest of those that never are."""
        held = hash_uniform(indices, salt=0) < self.holdout
        return indices[~held], indices[held][-self.max_holdout :]

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


POISSON = (0.3679, 0.7358, 0.9197, 0.9810, 0.9963, 0.9994)
"""P(X <= k) of Poisson(1), k = 0..5: the limit of drawing n of n rows with replacement (Oza & Russell 2001)."""


class Best:
    """Each member's weights at its least hold-out error."""

    def __init__(self, model: Fittable, rows: Step) -> None:
        self.model, self.rows = model, rows
        self.error = model.validate(rows)
        self.weights = [p.detach().clone() for p in model.net.parameters()]

    def keep(self, gain: float) -> bool:
        """Validate and remember the members that improved; whether any did by more than the share `gain`."""
        error = self.model.validate(self.rows)
        enough = bool((error < self.error * (1 - gain)).any())
        better = error < self.error
        for best, now in zip(self.weights, self.model.net.parameters(), strict=True):
            best.copy_(torch.where(better.view(-1, *[1] * (now.ndim - 1)), now.detach(), best))
        self.error = torch.where(better, error, self.error)
        return enough

    def restore(self) -> None:
        """Put the best weights back and choose elites by their errors."""
        with torch.no_grad():
            for best, now in zip(self.weights, self.model.net.parameters(), strict=True):
                now.copy_(best)
        self.model.choose(self.error)


def balanced(ends: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
    """[K, N] indices drawn with replacement, half of them from `ends`."""
    drawn = indices[torch.randint(len(indices), shape, device=indices.device)]
    half = shape[1] // 2
    drawn[:, :half] = ends[torch.randint(len(ends), (shape[0], half), device=indices.device)]
    return drawn


class Tally:
    """What the updates of a fit measured, and how many there were."""

    def __init__(self) -> None:
        self.updates = 0
        self.sums: Metrics = {}

    def add(self, metrics: Metrics) -> None:
        self.sums = {k: self.sums.get(k, 0.0) + v for k, v in metrics.items()}
        self.updates += 1

    def means(self) -> Metrics:
        """The mean of each. FloatingPointError where one is not finite."""
        means: Metrics = {k: v / self.updates for k, v in self.sums.items()}
        for name, value in means.items():
            if not torch.as_tensor(value).isfinite():
                how = "lower dynamics.lr or set dynamics.clip"
                raise FloatingPointError(f"the model diverged: {name} is {float(value)} in a fit; {how}")
        return means | {"model/updates": float(self.updates)}
