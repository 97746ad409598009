"""The training loop, and evaluation."""

from __future__ import annotations

import logging
import math
import random
import shlex
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
from mbrl_lab.env.gym import SET_LIMIT
from mbrl_lab.monitor import Monitor
from mbrl_lab.ops import Means, crossed
from mbrl_lab.protocols import Algo
from mbrl_lab.replay import Replay
from mbrl_lab.scores import Reference, summary
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.progress import EvaluationNote, LongRunNotice, Stopwatch
from mbrl_lab.tracking.provenance import shell_command
from mbrl_lab.tracking.signals import UNDRAWN, Signals
from mbrl_lab.tracking.state import (
    load_module_state,
    module_state,
    random_state,
    random_state_kept,
    set_random_state,
)
from mbrl_lab.tracking.tracker import Tracker
from mbrl_lab.types import Step, Tree

log = logging.getLogger("mbrl_lab")

TRAIN, EVAL, FINAL, DIAGNOSIS = 0, 1, 2, 3
"""Streams of episode seeds: training, evaluation during training, the final evaluation, and the final diagnosis."""


@dataclass(frozen=True)
class Schedule:
    """The length of a run, and the intervals of its events in environment steps (0: never). Names follow the config."""

    steps: int  # total environment steps
    log_every: int  # steps between rows of metrics.jsonl
    eval_every: int  # steps between evaluations
    eval_episodes: int  # episodes of each evaluation
    eval_num: int  # environments side by side in an evaluation
    final_episodes: int  # episodes of the final policy's evaluation
    checkpoint_every: int  # steps between saves
    video_final: int  # number of final episodes that are filmed
    keep_last: int = 2  # number of newest checkpoints that are kept
    best: str = "eval/return"  # the metric by which a policy is the best so far


@dataclass(frozen=True)
class Compute:
    """Where, and in which precision, networks compute."""

    device: torch.device
    precision: torch.dtype  # float32 or bfloat16
    why: str = ""  # the reason for the precision, printed at the start


class EvaluationStopped(Exception):
    """A signal arrived during an evaluation. The evaluation has changed nothing and is still due."""


@contextmanager
def advice_when_stopped(note: EvaluationNote, time_limit: int | None) -> Iterator[None]:
    """Name the time limit where an evaluation is stopped that had none: its episodes may never finish."""
    try:
        yield
    except (EvaluationStopped, KeyboardInterrupt):
        if time_limit is None:
            log.warning("stopped while %s. The environment declares no time limit: %s", note, SET_LIMIT)
        raise


class Runner:
    """Trains `algo` in `envs`, and evaluates it in other environments with separate random numbers.

    All its state is in `state_dict`, so a resumed run is equal to an uninterrupted one.

    Args:
        algo: acts and learns.
        make_envs: (number of environments, stream of episode seeds) -> environments to evaluate in.
        envs: environments to train in.
        replay: holds the steps of training.
        tracker: writes metrics, episodes and videos into the run's folder.
        monitor: warns of odd metrics, and stops the run early.
        schedule: the length of the run and the intervals of its events.
        seed: the run's seed.
        compute: the device and precision of the networks.
        reference: returns by which scores are normalised.
    """

    def __init__(
        self,
        algo: Algo,
        make_envs: Callable[[int, int], Envs],
        envs: Envs,
        replay: Replay,
        tracker: Tracker,
        monitor: Monitor,
        schedule: Schedule,
        seed: int,
        compute: Compute,
        reference: Reference | None = None,
    ) -> None:
        self.algo = algo
        self.make_envs = make_envs
        self.envs = envs
        self.replay = replay
        self.folder = tracker.folder
        self.tracker = tracker
        self.monitor = monitor
        self.schedule = schedule
        self.seed = seed
        self.device = compute.device
        self.precision = compute.precision
        self.precision_why = compute.why
        self.reference = reference

        self.steps = 0  # environment steps of training
        self.newest: Step | None = None  # the vector step that the policy acts on next
        self.carry: Tree | None = None  # the algorithm's state of acting, in training
        self.metrics = Means()  # since the last row of the log
        self.best = -math.inf
        self.evaluation_due = False  # at the current step, which has not been evaluated or whose evaluation was stopped
        self.signals = Signals()

        # Of training and evaluation. The processor's do not depend on what else the machine does.
        self.clock = Stopwatch(time.monotonic)
        self.processor = Stopwatch(time.process_time)
        self.evaluating = 0.0  # seconds of evaluation in all
        self.learning = 0.0  # seconds of learning since the start or the last resume
        self.long_run_notice = LongRunNotice(schedule.steps)

    def run(self) -> dict[str, float]:
        """Train to the end of the schedule and return the final policy's `final/*`; on a signal, save and leave."""
        checkpoint = Checkpoint(self.folder.last, self.schedule.keep_last)
        loaded = checkpoint.load()
        with Signals() as self.signals, self.tracker:
            if loaded is None:
                self.reset()
            else:
                self.load_state_dict(loaded.state, loaded.steps)

            self.tracker.start(self.steps, self.schedule.steps)
            self.clock.go_on()
            self.processor.go_on()
            while self.evaluation_due or (self.steps < self.schedule.steps and not self.monitor.done):
                with suppress(EvaluationStopped):  # saved as due, it starts again after the resume
                    self.advance()
                if self.signals.received or self.crossed(self.schedule.checkpoint_every):
                    self.save(checkpoint)
                if self.signals.received:
                    self.preempt()
            self.monitor.close()
            self.save(checkpoint)

            # Training is saved by now, so the rest can be repeated after a resume.
            episodes = self.evaluate_final()
            with self.signals.immediately(self.preempt):
                final = self.log_final(episodes)
            self.folder.mark("done", self.steps)
            self.signals.words = UNDRAWN.format(shell_command("evaluate"), shlex.quote(str(self.folder.path)))

            # Videos last: drawing may hang or crash, and no result depends on it.
            with self.signals.immediately(self.hand_over):
                self.tracker.film_final(episodes[: self.schedule.video_final], self.steps)
        return final

    def reset(self) -> None:
        """Reset the environments of a run that begins here."""
        self.tracker.restart()
        self._store(self.envs.reset())

    def advance(self) -> None:
        """One step in every environment, then the evaluation and logging that are due.

        After a stopped evaluation no step is taken: the evaluation is repeated first.
        """
        if not self.evaluation_due:
            self.step()
        due = self.crossed(self.schedule.log_every)
        if self.evaluation_due:
            self.metrics.add(dict(self.evaluate_policy()))
            self.evaluation_due, due = False, 1
        self.tracker.progress(self.steps)
        if due:
            self.log()

    def step(self) -> None:
        """Act in every environment, store the result, and learn."""
        assert self.newest is not None
        with self.autocast():
            action, self.carry = self.algo.act(self.newest, self.carry, explore=True)
        arrived = self.envs.step(action)
        self.monitor.actions.add(arrived)
        self._store(arrived)

        before, self.steps = self.steps, self.steps + self.envs.num
        began = time.monotonic()
        with self.autocast():
            self.metrics.add(self.algo.learn(self.replay, before, self.steps))
        self.learning += time.monotonic() - began
        if self.algo.warmed_up and (
            words := self.long_run_notice.add(self.steps, self._training_seconds(), self.learning)
        ):
            log.warning("step %d: %s", self.steps, words)

        self.tracker.trained(self.envs.finished(), self.steps)
        self.evaluation_due = bool(self.crossed(self.schedule.eval_every))

    def crossed(self, every: int) -> int:
        """How many multiples of `every` the last vector step has passed."""
        return crossed(self.steps - self.envs.num, self.steps, every)

    def _store(self, arrived: Step) -> None:
        """Put a vector step into replay. With replay on the CPU the step does not go to the device and back."""
        self.newest = arrived.to(self.device)
        self.replay.add(arrived if self.replay.storage.type == "cpu" else self.newest)

    # ---- evaluation

    def evaluate_policy(self) -> dict[str, float]:
        """Evaluate the policy as it is now; save its weights if it is the best so far."""
        episodes = self.evaluate(self.schedule.eval_episodes, EVAL)
        self.tracker.evaluated(episodes, self.steps)
        metrics = summary("eval", episodes, self.reference)
        if metrics[self.schedule.best] > self.best:
            self.best = metrics[self.schedule.best]
            Checkpoint(self.folder.best).save({"step": self.steps, "algo": module_state(self.algo)})
        return metrics

    def evaluate(self, episodes: int, stream: int = FINAL, played: list[Episode] | None = None) -> list[Episode]:
        """Play whole episodes without exploration; the same ones for the same stream and weights.

        Episode k is the (k // num)-th of environment k % num, so long and short ones count equally. Training is not
        disturbed: environments and random numbers are separate. Raises EvaluationStopped within a step of a signal.
        Episodes are appended to `played` as they finish, for a caller that reports on a stopped evaluation.
        """
        began = time.monotonic()
        played = [] if played is None else played
        with (
            self.separate_randomness(stream),
            closing(self.make_envs(min(episodes, self.schedule.eval_num), stream)) as envs,
            self.autocast(),
        ):
            note = EvaluationNote(episodes, envs.num, envs.time_limit, self.tracker.lengths)
            step, carry = envs.reset().to(self.device), None
            with advice_when_stopped(note, envs.time_limit):
                while len(played) < episodes:
                    if self.signals.received:
                        raise EvaluationStopped
                    action, carry = self.algo.act(step, carry, explore=False)
                    step = envs.step(action).to(self.device)

                    # Quick environments play further episodes, which must not count: short ones would be preferred.
                    finished = [e for e in envs.finished() if e.index * envs.num + e.env < episodes]
                    played += finished
                    note.advance(finished)
                    self.tracker.progress(self.steps, note=note)
        self.evaluating += time.monotonic() - began
        return sorted(played, key=lambda e: (e.index, e.env))

    def evaluate_final(self) -> list[Episode]:
        """The episodes of the final policy, repeated from the start if a signal's handler lets the run continue."""
        while True:
            try:
                return self.evaluate(self.schedule.final_episodes, FINAL)
            except EvaluationStopped:
                self.preempt()

    def log_final(self, episodes: list[Episode]) -> dict[str, float]:
        """Log the final evaluation, the last row of a run."""
        self.tracker.evaluated(episodes, self.steps)
        final = summary("final", episodes, self.reference)
        self.metrics.add(dict(final))
        self.log()
        return final

    # ---- the log

    def log(self) -> None:
        """Write one row: the mean of everything measured since the last one.

        Raises FloatingPointError naming the metric when it is not finite.
        """
        seconds = self.clock.seconds()
        measured = {k: float(v) for k, v in (self.metrics.means() | self.monitor.metrics()).items()}
        counts = {
            "step": self.steps,
            "frames": self.steps * self.envs.frame_skip,
            "replay/size": len(self.replay) * self.replay.num_envs,
            "runtime/bits": torch.finfo(self.precision).bits,
        }
        times = {
            "time/seconds": seconds,
            "time/evaluation": self.evaluating,
            "time/processor": self.processor.seconds(),
            "time/sps": self.steps / max(seconds, 1e-9),
        }
        written = self.tracker.log(counts | measured | times)

        # Checked only after the row is written, so that a user can look at it.
        wrong = [k for k, v in measured.items() if not math.isfinite(v)]
        if wrong:
            raise FloatingPointError(f"{wrong[0]} is {measured[wrong[0]]} at step {self.steps}")
        self.monitor.logged(written)
        self.metrics = Means()

    def _training_seconds(self) -> float:
        return self.clock.seconds() - self.evaluating

    # ---- saving

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint of the whole run."""
        checkpoint.save(self.state_dict(), self.replay)
        self.folder.mark("running", self.steps)

    def preempt(self) -> None:
        """Leave on a signal, by the previous handler. Where that returns, the run continues."""
        self.folder.mark("preempted", self.steps)
        self.hand_over()
        self.folder.mark("running", self.steps)

    def hand_over(self) -> None:
        """Give a signal to the previous handler, whose line comes after the line of progress."""
        self.tracker.stop()
        self.signals.hand_over()
        self.tracker.start(self.steps, self.schedule.steps)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the steps in replay, as plain values and tensors."""
        assert self.newest is not None
        return {
            "step": self.steps,
            "best": self.best,
            "best_of": self.schedule.best,
            "seconds": self.clock.seconds(),
            "processor": self.processor.seconds(),
            "evaluating": self.evaluating,
            "evaluation_due": self.evaluation_due,
            "row": tuple(self.newest),
            "carry": self.carry,
            "metrics": self.metrics.state_dict(),
            "algo": module_state(self.algo),
            "extra": self.algo.get_extra_state(),
            "envs": self.envs.state_dict(),
            "replay": self.replay.state_dict(),
            "tracker": self.tracker.state_dict(),
            "monitor": self.monitor.state_dict(),
            "random": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any], steps: Iterator[tuple[int, Step]]) -> None:
        """Restore the state of `state_dict`. Defaults are for checkpoints that are older than a key."""
        self.steps = state["step"]
        self.clock.before = state["seconds"]
        self.processor.before = state.get("processor", 0.0)
        self.evaluating = state["evaluating"]
        self.evaluation_due = state.get("evaluation_due", False)
        if "sums" in state["metrics"]:  # older checkpoints hold only the newest values, which are not means
            self.metrics.load_state_dict(state["metrics"])
        same_metric = state.get("best_of", "eval/return") == self.schedule.best
        self.best = state["best"] if same_metric else -math.inf

        self.newest = Step(*state["row"]).to(self.device)
        self.carry = tree_map_only(Tensor, lambda x: x.to(self.device), state["carry"])
        load_module_state(self.algo, state["algo"])
        self.algo.set_extra_state(state.get("extra", state.get("memory", {})))
        self.load_replay(state["replay"], steps)
        self.tracker.load_state_dict(state["tracker"])
        self.monitor.load_state_dict(state["monitor"])
        self.envs.load_state_dict(state["envs"])

        # Last, since replaying episodes may draw random numbers.
        set_random_state(state["random"])

    def load_replay(self, state: dict[str, Any], steps: Iterator[tuple[int, Step]]) -> None:
        """Restore the contents of replay."""
        self.replay.load_state_dict(state)
        for start, chunk in steps:
            self.replay.restore(start, chunk)

    @contextmanager
    def separate_randomness(self, stream: int) -> Iterator[None]:
        """Random numbers that depend only on the run's seed, the stream and the step, for torch, Python and NumPy."""
        with random_state_kept():
            seed = episode_seed(self.seed, stream, 0, self.steps)
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield

    def autocast(self) -> torch.autocast:
        """The precision that networks compute in; autocast's cache would hold the weights from before an update."""
        enabled = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled, cache_enabled=False)
