"""SequenceTrainer: gradient steps on windows of replay, for models that filter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_lab.dynamics.latents import Latents
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.dynamics.trainer import Tally, Trainer
from mbrl_lab.protocols import option_of
from mbrl_lab.replay import Replay, free_memory, nbytes
from mbrl_lab.types import FitResult, Metrics, Tree, Windows


class SequenceTrainer(Trainer[SequenceModel]):
    """Fits a `SequenceModel` on windows of `dynamics.length` steps. Nothing is held out.

    Args:
        batch: windows in a gradient step.
        max_updates: gradient steps in a fit; 0: as many as see every step of replay once on average.
        terminal_fraction: fraction of the windows that lead to a termination, as soon as replay holds one. Where
            terminations are rare the model may miss them, and imagined episodes then continue beyond.
        accumulate: parts of a batch whose gradients are added up, to need less memory at once.
        latents: what a window of a recurrent model begins with: nothing (`recomputed`), or the state that was inferred
            at its first step, kept beside replay and refreshed whenever the model sees it (`stored`, as in DreamerV3).
    """

    def __init__(
        self,
        batch: int,
        max_updates: int,
        terminal_fraction: float,
        accumulate: int,
        latents: str,
    ) -> None:
        self.batch = batch
        self.max_updates = max_updates
        self.terminal_fraction = terminal_fraction
        self.accumulate = accumulate
        self.stored = latents == "stored"
        self.latents: Latents | None = None
        self.saved: dict[str, Any] = {}  # what a checkpoint knew of them, until replay is there

    def fit(self, model: SequenceModel, replay: Replay, updates: int | None) -> FitResult:
        """So many gradient steps, or those of the schedule; metrics are means over them."""
        # The latest windows and their states are start states for the policy (Dreamer).
        tally, windows = Tally(), None
        for _ in range(self.scheduled(model, replay) if updates is None else updates):
            metrics, windows = self.step(model, replay)
            tally.add(metrics)
        return FitResult(tally.checked() if updates is None else tally.means(), windows=windows)

    def check_model(self, model: SequenceModel) -> None:
        if self.stored and not model.recurrent:
            name = option_of(type(model))
            raise ValueError(
                f"dynamics.trainer.latents is 'stored'; it must be recomputed with {name}, which is not recurrent; "
                f"dynamics=rssm_xs, rssm_s and rssm_m are"
            )

    def scheduled(self, model: SequenceModel, replay: Replay) -> int:
        """Gradient steps of a fit."""
        return self.max_updates or -(-len(replay) * replay.num_envs // (self.batch * model.length))

    def step(self, model: SequenceModel, replay: Replay) -> tuple[Metrics, Windows]:
        """One gradient step, and the windows that it was taken on."""
        indices = self.sample_windows(model, replay)
        steps = replay.read(indices, model.length)
        if not self.stored:
            states, metrics = model.update(steps, parts=self.accumulate)
            return metrics, Windows(steps, states)

        # Windows begin in stored states, and the newer model's states replace those of the later steps.
        latents = self.stored_latents(model, replay)
        states, metrics = model.update(steps, latents.read(indices), self.accumulate)
        latents.refresh(indices, states)
        return metrics, Windows(steps, states)

    def sample_windows(self, model: SequenceModel, replay: Replay) -> Tensor:
        """[batch] indices of the steps where windows begin; the first ones lead to a termination."""
        indices = replay.windows(self.batch, model.length)

        # A termination at a window's last step: an earlier one would be followed by steps of another episode.
        endings = replay.terminal_windows(model.length) if self.terminal_fraction else indices[:0]
        count = int(self.batch * self.terminal_fraction) if len(endings) else 0
        drawn = torch.randint(max(len(endings), 1), (count,), device=endings.device)
        return torch.cat([endings[drawn], indices[count:]])

    def store(self, model: SequenceModel, replay: Replay, state: Tree) -> None:
        """Keep the states [num_envs] that were inferred at the step before the newest."""
        # An algorithm infers the state of a step when it acts on it, by when replay already holds the next step.
        if self.stored:
            self.stored_latents(model, replay).put(replay.added - 2, state)

    def stored_latents(self, model: SequenceModel, replay: Replay) -> Latents:
        """The states kept beside this replay, with those that a checkpoint holds."""
        # Made on first use: the trainer is constructed before replay.
        if self.latents is None:
            self.latents = Latents(model, replay)
            if self.saved:
                self.latents.load(self.saved)
        return self.latents

    def state(self) -> dict[str, Any]:
        return {} if self.latents is None else self.latents.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.saved = state

    def check_memory(self, model: SequenceModel) -> None:
        """ValueError where a batch of windows does not fit the memory."""
        device = next(model.parameters()).device
        need, free = nbytes(model.spec, self.batch * model.length), free_memory(device)
        if need > free:
            given = f"dynamics.trainer.batch={self.batch} windows of dynamics.length={model.length} steps"
            raise ValueError(
                f"{given} need {need / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free: make one of them smaller"
            )
