"""EnsembleTrainer: fits an ensemble to all of replay, with hold-out, early stopping, bootstraps that never change."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.dynamics.ensemble import Ensemble
from mbrl_lab.dynamics.trainer import HoldoutTrainer, Tally
from mbrl_lab.ops import hash_uniform
from mbrl_lab.replay import Replay
from mbrl_lab.types import FitResult, Metrics, Step, Windows


class EnsembleTrainer(HoldoutTrainer[Ensemble]):
    """Trains until no member's hold-out error has fallen by the fraction `gain` for `patience` epochs.

    Each member keeps its best weights; the model's elites are those of least error. An index' part (hold-out or not,
    and how often it stands in each member's `bootstrap`) follows from its number, so it is the same at every fit.
    `max_updates` (0: no bound) and `max_holdout` bound the work. Half the steps for the termination network are ends.
    """

    def fit(self, model: Ensemble, replay: Replay, updates: int | None) -> FitResult:
        """Gradient steps until nothing is gained, or just so many `updates`; and the elites."""
        indices = replay.transitions()
        train, test = self.split(indices)
        test = test if len(test) else train
        model.normalise(replay.read(train, 2))
        steps = replay.read(indices, 2)
        model.bound(steps)
        batches = Batches(model, replay, train, indices, ends=indices[steps.terminal[1]])
        if updates is not None:
            return self.fit_updates(batches, replay.read(test, 2), updates)

        best = Best(model, replay.read(test, 2))
        stale, tally = 0, Tally()
        while stale <= self.patience and not self.spent(tally):
            for batch in self._epoch(model.members, train):
                tally.add(batches.learn(batch))
                if self.spent(tally):
                    break
            stale = 0 if best.keep(self.gain) else stale + 1
        best.restore()

        metrics = tally.checked() | {"model/holdout/loss": best.error.mean()} | model.validation(best.rows).metrics()
        return FitResult(metrics)

    def fit_updates(self, batches: Batches, test: Step, updates: int) -> FitResult:
        """A share of an epoch for callers that learn in turn with the model: the latest weights stay."""
        tally = Tally()
        while tally.updates < updates:
            for batch in self._epoch(batches.model.members, batches.train)[: updates - tally.updates]:
                tally.add(batches.learn(batch))
        batches.model.choose(batches.model.validate(test))
        seen = batches.seen.at((slice(None), 0))
        return FitResult(tally.means(), windows=Windows(seen, seen.obs.flatten(0, 1)))

    def held_out(self, replay: Replay) -> Step | None:
        """[2, N] steps that the model was never trained on; None where there are none."""
        if len(replay) < 2:
            return None
        held = self.split(replay.transitions())[1]
        return replay.read(held, 2) if len(held) else None

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices to train on, and the newest of those that are held out. Older ones would be of no use to anybody."""
        held = hash_uniform(indices, salt=0) < self.holdout
        tested = held & (held.flip(0).cumsum(0).flip(0) <= self.max_holdout)
        return indices[~tested], indices[tested]


class Batches:
    """One fit's gradient steps: each member's own transitions, and for the termination network balanced ones."""

    def __init__(self, model: Ensemble, replay: Replay, train: Tensor, indices: Tensor, ends: Tensor) -> None:
        self.model, self.replay, self.train, self.indices, self.ends = model, replay, train, indices, ends
        self.seen: Step

    def learn(self, batch: Tensor) -> Metrics:
        """One gradient step on the transitions at indices [K, batch]."""
        about_ends = None
        if len(self.ends):
            about_ends = self.replay.read(balanced(self.ends, self.indices, batch.shape), 2)
        self.seen = self.replay.read(batch, 2)
        return self.model.update(self.seen, about_ends)[1]


class Best:
    """Each member's weights at its least hold-out error.

    The bounds of log-variances are shared by all members: kept are those of the latest epoch in which one improved, so
    that epochs without a gain do not move what the restored weights were trained with.
    """

    def __init__(self, model: Ensemble, rows: Step) -> None:
        self.model, self.rows = model, rows
        self.error = model.validate(rows)
        self.weights = [p.detach().clone() for p in model.net.parameters()]
        self.bounds = [p.detach().clone() for p in model.logvar_bounds()]

    def keep(self, gain: float) -> bool:
        """Validate and keep the members that improved; whether any did by more than the fraction `gain`."""
        error = self.model.validate(self.rows)
        enough = bool((error < self.error * (1 - gain)).any())
        better = error < self.error
        for best, now in zip(self.weights, self.model.net.parameters(), strict=True):
            best.copy_(torch.where(better.view(-1, *[1] * (now.ndim - 1)), now.detach(), best))
        if better.any():
            self.bounds = [p.detach().clone() for p in self.model.logvar_bounds()]
        self.error = torch.where(better, error, self.error)
        return enough

    def restore(self) -> None:
        """Put the best weights back and choose elites by their errors."""
        with torch.no_grad():
            for best, now in zip(self.weights, self.model.net.parameters(), strict=True):
                now.copy_(best)
            for best_bound, bound in zip(self.bounds, self.model.logvar_bounds(), strict=True):
                bound.copy_(best_bound)
        self.model.choose(self.error)


def balanced(ends: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
    """[K, N] indices drawn with replacement, half of them from `ends`."""
    drawn = indices[torch.randint(len(indices), shape, device=indices.device)]
    half = shape[1] // 2
    drawn[:, :half] = ends[torch.randint(len(ends), (shape[0], half), device=indices.device)]
    return drawn
