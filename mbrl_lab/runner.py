"""The one loop, and evaluation."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.env import Envs, Episode, episode_seed
from mbrl_lab.monitor import Monitor
from mbrl_lab.ops import crossed
from mbrl_lab.protocols import Algo
from mbrl_lab.replay import Replay
from mbrl_lab.scores import Reference, summary
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.progress import EvaluationNote
from mbrl_lab.tracking.signals import Signals
from mbrl_lab.tracking.state import (
    load_module_state,
    module_state,
    random_state,
    random_state_kept,
    set_random_state,
)
from mbrl_lab.tracking.tracker import Tracker
from mbrl_lab.types import Metrics, Step, Tree

TRAIN, EVAL, FINAL, DIAGNOSIS = 0, 1, 2, 3
"""Streams of episode seeds: training, evaluation while training, of the final policy, and of what is drawn."""


@dataclass(frozen=True)
class Schedule:
    """How long, and what happens every so many environment steps (0: never)."""

    steps: int
    log_every: int
    eval_every: int
    eval_episodes: int
    eval_num: int
    final_episodes: int
    checkpoint_every: int
    video_final: int
    keep_last: int = 2
    best: str = "eval/return"  # the metric by which a policy is the best so far


class EvaluationStopped(Exception):
    """A signal came during an evaluation, which has left no trace and is still due."""


class Runner:
    """Trains `algo` in `make_envs(num, TRAIN)` and evaluates it in environments and random numbers of their own.

    Everything it remembers is in `state_dict`, so a run that was stopped goes on as if it had not been.
    """

    def __init__(
        self,
        algo: Algo,
        make_envs: Callable[[int, int], Envs],
        envs: Envs,
        replay: Replay,
        folder: RunFolder,
        tracker: Tracker,
        monitor: Monitor,
        schedule: Schedule,
        seed: int,
        device: torch.device,
        precision: torch.dtype,
        reference: Reference | None = None,
        precision_why: str = "",
    ) -> None:
        self.algo, self.make_envs, self.envs, self.replay = algo, make_envs, envs, replay
        self.folder, self.tracker, self.monitor, self.schedule = folder, tracker, monitor, schedule
        self.seed, self.device, self.reference = seed, device, reference
        self.precision, self.precision_why = precision, precision_why
        self.steps, self.best, self.seconds, self.evaluating = 0, -math.inf, 0.0, 0.0
        self.evaluation_due = False  # at these steps: it has not begun yet, or was stopped
        self.signals = Signals()
        self.row: Step | None = None
        self.carry: Tree | None = None
        self.metrics: Metrics = {}
        self.clock = time.monotonic()

    def run(self) -> dict[str, float]:
        """Train as far as is asked and return the final policy's `final/*`; or save and give way to a signal."""
        checkpoint = Checkpoint(self.folder.last, self.schedule.keep_last)
        loaded = checkpoint.load()
        with Signals() as self.signals, self.tracker:

            def give_way() -> None:
                self.folder.mark("preempted", self.steps)
                self.signals.hand_over()
                self.folder.mark("running", self.steps)

            if loaded is None:
                self.begin()
            else:
                self.load_state_dict(loaded.state, loaded.steps)
            self.tracker.start(self.steps, self.schedule.steps)
            self.clock = time.monotonic()
            while self.evaluation_due or (self.steps < self.schedule.steps and not self.monitor.done):
                with suppress(EvaluationStopped):  # saved as due, it is done from its beginning by whoever goes on
                    self.advance()
                if self.signals.received or self.crossed(self.schedule.checkpoint_every):
                    self.save(checkpoint)
                if self.signals.received:
                    give_way()
            self.monitor.close()
            self.save(checkpoint)

            # All is saved: what is left can be done again.
            episodes = self.evaluate_final(give_way)
            with self.signals.at_once(give_way):
                final = self.finish(episodes)
            self.folder.mark("done", self.steps)

            # Last, as to draw may hang or crash, and no result depends on it.
            with self.signals.at_once(self.signals.hand_over):
                self.tracker.film_final(episodes[: self.schedule.video_final], self.steps)
        return final

    def begin(self) -> None:
        """The first row of a run that begins here."""
        self.tracker.restart()
        self._take(self.envs.reset())

    def advance(self) -> None:
        """One step in every environment, and whatever is due by then; first of all an evaluation that was stopped."""
        if not self.evaluation_due:
            self.step()
        due = self.crossed(self.schedule.log_every)
        if self.evaluation_due:
            self.metrics |= self.judge()
            self.evaluation_due, due = False, 1
        self.tracker.progress(self.steps)
        if due:
            self.log()

    def step(self) -> None:
        """Act in every environment, keep what comes back, and learn."""
        assert self.row is not None
        with self.arithmetic():
            action, self.carry = self.algo.act(self.row, self.carry, explore=True)
        row = self.envs.step(action)
        self.monitor.actions.add(row)
        self._take(row)
        before, self.steps = self.steps, self.steps + self.envs.num
        with self.arithmetic():
            self.metrics |= self.algo.learn(self.replay, before, self.steps)
        self.tracker.trained(self.envs.finished(), self.steps)
        self.evaluation_due = bool(self.crossed(self.schedule.eval_every))

    def crossed(self, every: int) -> int:
        """How many multiples of `every` lie in the last step of all environments."""
        return crossed(self.steps - self.envs.num, self.steps, every)

    def _take(self, row: Step) -> None:
        """Stand at a row that came from the environments, and keep it: what stays on the CPU does not leave it."""
        self.row = row.to(self.device)
        self.replay.add(row if self.replay.storage.type == "cpu" else self.row)

    def judge(self) -> dict[str, float]:
        """Evaluate the policy as it is now; the best so far is kept."""
        episodes = self.evaluate(self.schedule.eval_episodes, EVAL)
        self.tracker.evaluated(episodes, self.steps)
        metrics = summary("eval", episodes, self.reference)
        if metrics[self.schedule.best] > self.best:
            self.best = metrics[self.schedule.best]
            Checkpoint(self.folder.best).save({"step": self.steps, "algo": module_state(self.algo)})
        return metrics

    def evaluate(self, episodes: int, stream: int = FINAL) -> list[Episode]:
        """Play whole episodes without exploring; the same ones for the same stream and weights.

        Episode k is the (k // num)-th of environment k % num, so long and short ones count alike. Training is not
        disturbed: environments and random numbers are apart. Raises EvaluationStopped within a step of a signal.
        """
        began = time.monotonic()
        played: list[Episode] = []
        with (
            self.random_numbers_apart(stream),
            closing(self.make_envs(min(episodes, self.schedule.eval_num), stream)) as envs,
            self.arithmetic(),
        ):
            note = EvaluationNote(episodes, envs.num, envs.time_limit, self.tracker.lengths)
            row, carry = envs.reset().to(self.device), None
            while len(played) < episodes:
                if self.signals.received:
                    raise EvaluationStopped
                action, carry = self.algo.act(row, carry, explore=False)
                row = envs.step(action).to(self.device)
                ended = [e for e in envs.finished() if e.index * envs.num + e.env < episodes]
                played += ended
                note.advance(ended)
                self.tracker.progress(self.steps, note=note)
        self.evaluating += time.monotonic() - began
        return sorted(played, key=lambda e: (e.index, e.env))

    def evaluate_final(self, give_way: Callable[[], None]) -> list[Episode]:
        """The episodes of the final policy; `give_way` is called at a signal, and may return to begin again."""
        while True:
            try:
                return self.evaluate(self.schedule.final_episodes, FINAL)
            except EvaluationStopped:
                give_way()

    def finish(self, episodes: list[Episode]) -> dict[str, float]:
        """What a run ends with: the final evaluation, logged."""
        self.tracker.evaluated(episodes, self.steps)
        final = summary("final", episodes, self.reference)
        self.metrics |= final
        self.log()
        return final

    def log(self) -> None:
        """Write one row of everything measured since the last one.

        Raises FloatingPointError naming the metric when it is not finite.
        """
        seconds = self.elapsed()
        row = {k: float(v) for k, v in (self.metrics | self.monitor.metrics()).items()}
        written = self.tracker.log(
            {"step": self.steps, "frames": self.steps * self.envs.frame_skip, "replay/size": self.size()}
            | {"runtime/bits": torch.finfo(self.precision).bits}
            | row
            | {"time/seconds": seconds, "time/evaluation": self.evaluating, "time/sps": self.steps / max(seconds, 1e-9)}
        )
        wrong = [k for k, v in row.items() if not math.isfinite(v)]
        if wrong:
            raise FloatingPointError(f"{wrong[0]} is {row[wrong[0]]} at step {self.steps}")
        self.monitor.logged(written)
        self.metrics = {}

    def size(self) -> int:
        """Environment steps in replay."""
        return len(self.replay) * self.replay.num_envs

    def elapsed(self) -> float:
        """Seconds of training and evaluation, those before a resume counted in."""
        return self.seconds + time.monotonic() - self.clock

    def save(self, checkpoint: Checkpoint) -> None:
        """Write everything there is."""
        checkpoint.save(self.state_dict(), self.replay)
        self.folder.mark("running", self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the replay's rows, as plain values and tensors."""
        assert self.row is not None
        return {
            "step": self.steps,
            "best": self.best,
            "best_of": self.schedule.best,
            "seconds": self.elapsed(),
            "evaluating": self.evaluating,
            "evaluation_due": self.evaluation_due,
            "row": tuple(self.row),
            "carry": self.carry,
            "metrics": {k: float(v) for k, v in self.metrics.items()},
            "algo": module_state(self.algo),
            "extra": self.algo.get_extra_state(),
            "envs": self.envs.state_dict(),
            "replay": self.replay.state_dict(),
            "tracker": self.tracker.state_dict(),
            "monitor": self.monitor.state_dict(),
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any], rows: Iterator[tuple[int, Step]]) -> None:
        """Stand where `state_dict` was taken."""
        self.steps, self.seconds = state["step"], state["seconds"]
        same = state.get("best_of", "eval/return") == self.schedule.best
        self.best = state["best"] if same else -math.inf
        self.evaluating, self.metrics = state["evaluating"], dict(state["metrics"])
        self.evaluation_due = state.get("evaluation_due", False)  # a checkpoint older than it has none
        self.row = Step(*state["row"]).to(self.device)
        self.carry = tree_map_only(Tensor, lambda x: x.to(self.device), state["carry"])
        load_module_state(self.algo, state["algo"])
        self.algo.set_extra_state(state.get("extra", state.get("memory", {})))  # under an older name, or none
        self.load_replay(state["replay"], rows)
        self.tracker.load_state_dict(state["tracker"])
        self.monitor.load_state_dict(state["monitor"])
        self.envs.load_state_dict(state["envs"])
        set_random_state(state["random"])

    def load_replay(self, state: dict[str, Any], rows: Iterator[tuple[int, Step]]) -> None:
        """Fill the replay as it was."""
        self.replay.load_state_dict(state)
        for start, chunk in rows:
            self.replay.restore(start, chunk)

    @contextmanager
    def random_numbers_apart(self, stream: int) -> Iterator[None]:
        """Random numbers that depend on the run's seed, the stream and the step alone; Python's and NumPy's too."""
        with random_state_kept():
            seed = episode_seed(self.seed, stream, 0, self.steps)
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield

    def arithmetic(self) -> torch.autocast:
        """The precision that networks compute in; autocast's cache would give weights as they were before an update."""
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled, cache_enabled=False)
