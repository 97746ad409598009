"""EnsembleTrainer: fits an ensemble to all of replay, with hold-out, early stopping and permanent bootstraps."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.dynamics.ensemble import Ensemble
from mbrl_lab.dynamics.trainer import HoldoutTrainer, Tally
from mbrl_lab.ops import hash_uniform
from mbrl_lab.replay import Replay
from mbrl_lab.types import FitResult, Metrics, Step, Windows


class EnsembleTrainer(HoldoutTrainer[Ensemble]):
    """Trains until no member's hold-out error has fallen by the fraction `gain` for `patience` epochs (MBPO).

    Each member keeps its best weights, and the members of least error become the elites. Whether a transition is held
    out, and how often it stands in each member's `bootstrap`, follows from its index, so it is the same at every fit.
    Half of a batch for the model of terminations are terminations.
    """

    def fit(self, model: Ensemble, replay: Replay, updates: int | None) -> FitResult:
        """By the schedule, or for so many `updates`; in the end the elites are chosen."""
        indices = replay.transitions()
        train, test = self.split(indices)
        test = test if len(test) else train
        model.normalise(replay.read(train, 2))

        # Terminations are rare and their bounds need every one of them, so none of these is held out.
        steps = replay.read(indices, 2)
        model.fit_termination_bounds(steps)
        batches = Batches(model, replay, train, indices, terminations=indices[steps.terminal[1]])
        if updates is not None:
            return self.fit_updates(batches, replay.read(test, 2), updates)

        # The weights before the fit count as the first candidates: a fit never makes a member worse on held-out steps.
        best = Best(model, replay.read(test, 2))
        stale, tally = 0, Tally()
        while stale <= self.patience and not self.spent(tally):
            for batch in self._epoch(model.members, train):
                tally.add(batches.learn(batch))
                if self.spent(tally):
                    break
            stale = 0 if best.keep(self.gain) else stale + 1
        best.restore()

        metrics = tally.checked() | {"model/holdout/loss": best.error.mean()} | model.validation(best.steps).metrics()
        return FitResult(metrics)

    def fit_updates(self, batches: Batches, test: Step, updates: int) -> FitResult:
        """A part of an epoch, for algorithms that update model and policy in turn: the latest weights stay.

        Going back to earlier weights would undo updates that the policy has already followed.
        """
        tally = Tally()
        while tally.updates < updates:
            for batch in self._epoch(batches.model.members, batches.train)[: updates - tally.updates]:
                tally.add(batches.learn(batch))
        batches.model.choose_elites(batches.model.validate(test))

        # The last batch of the first member, as start states for the policy.
        latest = batches.latest.at((slice(None), 0))
        return FitResult(tally.means(), windows=Windows(latest, latest.obs.flatten(0, 1)))

    def held_out(self, replay: Replay) -> Step | None:
        """[2, N] steps that the model was never trained on; None where there are none."""
        if len(replay) < 2:
            return None
        held = self.split(replay.transitions())[1]
        return replay.read(held, 2) if len(held) else None

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices to train on, and the newest `max_holdout` of those that are held out."""
        held = hash_uniform(indices, salt=0) < self.holdout

        # Older held-out steps are trained on: else a tenth of a large replay would be used for nothing.
        tested = held & (held.flip(0).cumsum(0).flip(0) <= self.max_holdout)
        return indices[~tested], indices[tested]


class Batches:
    """One fit's gradient steps: each member's own transitions, and for the model of terminations balanced ones."""

    def __init__(self, model: Ensemble, replay: Replay, train: Tensor, indices: Tensor, terminations: Tensor) -> None:
        self.model = model
        self.replay = replay
        self.train = train
        self.indices = indices
        self.terminations = terminations
        self.latest: Step

    def learn(self, batch: Tensor) -> Metrics:
        """One gradient step on the transitions at indices [K, batch]."""
        half = None
        if len(self.terminations):
            half = self.replay.read(balanced(self.terminations, self.indices, batch.shape), 2)
        self.latest = self.replay.read(batch, 2)
        return self.model.update(self.latest, half)[1]


class Best:
    """Each member's weights at its least hold-out error.

    The bounds of log-variances are shared by all members: those of the latest epoch in which one improved are kept, so
    that epochs without a gain do not move the bounds that the restored weights were trained with.
    """

    def __init__(self, model: Ensemble, steps: Step) -> None:
        self.model = model
        self.steps = steps
        self.error = model.validate(steps)
        self.weights = [p.detach().clone() for p in model.net.parameters()]
        self.best_logvar_bounds = [p.detach().clone() for p in model.logvar_bounds()]

    def keep(self, gain: float) -> bool:
        """Validate and keep the members that improved; whether any did by more than the fraction `gain`."""
        error = self.model.validate(self.steps)
        enough = bool((error < self.error * (1 - gain)).any())

        # A member keeps every improvement, also one too small to go on for.
        better = error < self.error
        for best, now in zip(self.weights, self.model.net.parameters(), strict=True):
            best.copy_(torch.where(better.view(-1, *[1] * (now.ndim - 1)), now.detach(), best))
        if better.any():
            self.best_logvar_bounds = [p.detach().clone() for p in self.model.logvar_bounds()]
        self.error = torch.where(better, error, self.error)
        return enough

    def restore(self) -> None:
        """Put the best weights back and choose elites by their errors."""
        with torch.no_grad():
            for best, now in zip(self.weights, self.model.net.parameters(), strict=True):
                now.copy_(best)
            for best_bound, bound in zip(self.best_logvar_bounds, self.model.logvar_bounds(), strict=True):
                bound.copy_(best_bound)
        self.model.choose_elites(self.error)


def balanced(terminations: Tensor, indices: Tensor, shape: torch.Size) -> Tensor:
    """[K, N] indices drawn with replacement, half of them from `terminations`."""
    drawn = indices[torch.randint(len(indices), shape, device=indices.device)]
    half = shape[1] // 2
    drawn[:, :half] = terminations[torch.randint(len(terminations), (shape[0], half), device=indices.device)]
    return drawn
