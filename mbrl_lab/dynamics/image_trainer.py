"""ImageTrainer: fits a world model of images, with rare rewards and terminations oversampled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.dynamics.quality import HORIZONS, FramePredictions, image_metrics, open_loop
from mbrl_lab.dynamics.trainer import HoldoutTrainer, Tally
from mbrl_lab.dynamics.visual import Visual
from mbrl_lab.env.objects import FindObjects
from mbrl_lab.nets.adam import anneal
from mbrl_lab.replay import Replay, free_memory
from mbrl_lab.types import FitResult, Metrics, Step

BLOCK = 256
"""Indices that are held out together, so that models are validated on several unseen steps in a row."""

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole part, fall evenly into [0, 1)."""

VALIDATED = 256
"""Held-out starts that a fit is measured on."""

STATISTICS_FRAMES = 1_000
"""Real frames that a model takes its statistics from before a fit."""


@dataclass(eq=False)
class ImageTrainer(HoldoutTrainer[Visual]):
    """Continues from the weights of the last fit.

    In the second half of the updates the learning rate falls to a hundredth: the gradient noise of the last updates
    would add up over the steps of a rollout. The index of a transition decides whether it is held out, and how often
    each member's `bootstrap` repeats it.
    """

    events: float
    """Fraction of a batch that begins just before a reward or a termination, half before each if both occur."""
    objects: FindObjects | None
    """What to look for in images when the model is validated."""

    def fit(self, model: Visual, replay: Replay, updates: int | None) -> FitResult:
        # Also the last step of an unrolled window must not be held out.
        train, test = self.split(self.windows(model, replay, model.unroll))
        train = train[~self.in_test(train + (model.unroll - 1) * replay.num_envs, test)]
        train = train if len(train) else test
        if not len(train):
            most, num = model.lead + 1 + model.unroll, replay.num_envs
            needed = (
                f"dynamics.history={model.history} and dynamics.unroll={model.unroll} need {most} consecutive steps"
            )
            raise ValueError(f"{needed}, there are {len(replay)}: algo.warmup must be at least {most * num}")
        kinds = self.prepare(model, replay, train)

        limit = self.max_updates if updates is None else updates
        best, stale, tally = torch.full((model.members,), torch.inf), 0, Tally()
        while (stale <= self.patience or updates is not None) and not 0 < limit <= tally.updates:
            for batch in self._epoch(model.members, train):
                steps = model_steps(model, replay, self.oversample_events(batch, kinds), model.unroll)
                anneal(model.opt, model.lr, tally.updates, limit)
                tally.add(model.update(steps)[1])
                if 0 < limit <= tally.updates:
                    break

            # Validation only stops the fit: weights of an earlier epoch are not restored.
            if not 0 < limit <= tally.updates and updates is None:
                error = self.validate(model, replay, test if len(test) else train)
                stale = 0 if (error < best * (1 - self.gain)).any() else stale + 1
                best = torch.minimum(best, error)

        # Open-loop metrics take longer than a gradient step, so fits of a few updates leave them out.
        held = self.unseen(model, replay, max(HORIZONS), VALIDATED)
        if updates is not None or held is None:
            return FitResult(tally.checked())
        found = assess(model, held, self.objects)
        return FitResult(tally.checked() | found.metrics, found.trusted_horizon)

    def check_memory(self, model: Visual) -> None:
        """ValueError where the ensemble and an update of a batch do not fit the memory."""
        need, device = model.bytes_needed(self.batch), model.sampling_weights.device
        if need > (free := free_memory(device)):
            settings = (
                f"dynamics.members={model.members}, dynamics.width={model.width}, dynamics.trainer.batch={self.batch}"
            )
            memory = f"{need / 1e9:.1f} GB on {device}, where {free / 1e9:.1f} GB are free"
            raise ValueError(f"{settings} need about {memory}: make one of them smaller")

    def windows(self, model: Visual, replay: Replay, steps: int) -> Tensor:
        """Indices [M] of valid transitions with all of a state before them and `steps` steps after them."""
        indices = replay.transitions(model.lead)
        return indices[indices < (replay.added - steps) * replay.num_envs]

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices to train on, and the newest of those that are held out: whole blocks, evenly spread."""
        test = indices[self.held(indices)][-self.max_holdout :]
        return indices[~self.in_test(indices, test)], test

    def in_test(self, indices: Tensor, test: Tensor) -> Tensor:
        """[N] bool: whether indices [N] lie in held-out blocks from that of the first of `test` on."""
        return self.held(indices) & (indices >= test[0] // BLOCK * BLOCK) if len(test) else self.held(indices)

    def held(self, indices: Tensor) -> Tensor:
        """[N] bool: whether indices [N] are in blocks that are held out; the second block is, if any are."""
        # 1e-9 guards against rounding: block 1 gives exactly 0, which might come out as almost 1.
        return ((indices // BLOCK).double() * GOLDEN + (1 - GOLDEN) + 1e-9).frac() < self.holdout

    def prepare(self, model: Visual, replay: Replay, train: Tensor) -> list[Tensor]:
        """Set the model's sampling weights, and return the indices of each kind of event that occurs."""
        reward, terminal = replay.rewards_and_terminals(train)
        events = [x for x in (reward != 0, terminal) if x.any()]
        kinds = [train[x] for x in events]

        # w in the loss: how much more often a batch has a transition with an event than replay has.
        fraction = self.event_fraction(kinds)
        more = [fraction / len(kinds) / x.double().mean() if x.any() else 0.0 for x in (reward != 0, terminal)]
        model.set_sampling_weights(torch.tensor([1 - fraction, *more]))

        # Statistics of a sample of frames, newest of each stack, as replay may hold a million.
        some = train[torch.randint(len(train), (STATISTICS_FRAMES,), device=train.device)]
        model.update_statistics(replay.read(some, 1).obs[0][:, -model.shape[0] :])
        return kinds

    def event_fraction(self, kinds: list[Tensor]) -> float:
        """The fraction of events in a batch: whole transitions, equally many of each kind."""
        return len(kinds) * self._each(kinds) / self.batch if kinds else 0.0

    def _each(self, kinds: list[Tensor]) -> int:
        return int(self.events * self.batch) // len(kinds)

    def oversample_events(self, indices: Tensor, kinds: list[Tensor]) -> Tensor:
        """[K, batch] indices, the first of them replaced by draws from each kind of event."""
        indices = indices.clone()
        for k, kind in enumerate(kinds):
            each = self._each(kinds) * indices.shape[1] // self.batch
            drawn = kind[torch.randint(len(kind), (len(indices), each), device=indices.device)]
            indices[:, k * each : (k + 1) * each] = drawn
        return indices

    @torch.no_grad()
    def validate(self, model: Visual, replay: Replay, indices: Tensor) -> Tensor:
        """[K]: each member's loss on held-out transitions, evenly spread over `indices`."""
        indices = indices[torch.linspace(0, len(indices) - 1, min(len(indices), VALIDATED)).long()]
        windows = model_steps(model, replay, indices, model.unroll)
        return torch.stack([model.loss(k, windows)[0] for k in range(model.members)]).cpu()

    def unseen(self, model: Visual, replay: Replay, steps: int, most: int) -> Step | None:
        """[lead + 1 + steps, N] held-out steps, N at most `most`, evenly spread; None where there are none."""
        # Windows whose first and last step lie in held-out blocks.
        held = self.split(self.windows(model, replay, steps))[1]
        after = held + steps * replay.num_envs
        held = held[torch.isin(after // BLOCK, held // BLOCK)]

        # Longer windows leave out other indices at the newest end, so the split of the fit decides again.
        test = self.split(self.windows(model, replay, model.unroll))[1]
        held = held[self.in_test(held, test)]
        if not len(held):
            return None
        spread = held[torch.linspace(0, len(held) - 1, min(len(held), most)).long().to(held.device)]
        return model_steps(model, replay, spread, steps)


def model_steps(model: Visual, replay: Replay, indices: Tensor, steps: int) -> Step:
    """[lead + 1 + steps, *indices.shape]: the steps of the state before each index's transition, and so many more."""
    return replay.read(indices - model.lead * replay.num_envs, model.lead + 1 + steps)


class Assessment(NamedTuple):
    """Open-loop predictions of a model along real steps, and their metrics."""

    loop: FramePredictions
    metrics: Metrics
    trusted_horizon: int


def assess(model: Visual, steps: Step, objects: FindObjects | None) -> Assessment:
    """Open-loop predictions along steps [lead + 1 + H, N]."""
    predictions = open_loop(model, steps)
    possible = open_loop(model, steps, oracle=True) if model.stochastic else predictions
    return Assessment(predictions, *image_metrics(predictions, possible, model.change_threshold, objects))
