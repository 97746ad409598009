"""One line of progress: rewritten in place on a terminal, printed now and then elsewhere."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import TextIO

from mbrl_lab.env import Episode

TERMINAL_SECONDS = 0.2
PLAIN_SECONDS = 10.0
SPEED_SAMPLES = 150

NOTICE_SECONDS = 20.0
"""Training from which the length of a run is estimated."""

LONG_HOURS = 1.0
"""Expected hours from which there is a warning."""


class Progress:
    """Steps done of `total`, the latest returns, speed, elapsed and remaining time.

    Time under a `note` (evaluations, videos) is not training: the speed and the remaining time exclude it.

    Args:
        total: steps of the run. 0: there is no training, and the line is only the note, unless the work is short.
        start: the step at which a resumed run begins.
        stream: the output; None: stderr.
        clock: a function that returns seconds.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.step = start
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.clock = clock

        self.returns: dict[str, float] = {}
        self.note: object = ""

        self.began = clock()
        self.due = self.began if total else self._next(self.began)
        self.shown = -1  # the step in the line last shown
        self.last = self.began  # time of the last update
        self.away = 0.0  # seconds not spent training
        self.samples = deque([(self.began, start)], maxlen=SPEED_SAMPLES)

    def update(
        self, step: int, train_return: float | None = None, eval_return: float | None = None, note: object = ""
    ) -> None:
        """Record the state of the run; the line is only formatted when it is due. Returns that are not given are kept.

        `note` is any object; its text is only made when it is shown, since this is called at every step.
        """
        now = self.clock()
        self._leave(now, note or self.note)
        self.step, self.note = step, note
        if train_return is not None:
            self.returns["train"] = train_return
        if eval_return is not None:
            self.returns["eval"] = eval_return
        if now >= self.due:
            self.due = self._next(now)
            self._show(now)

    def announce(self, note: str) -> None:
        """Show a note immediately, since there is no update while the work lasts."""
        self.due = self.clock()
        self.update(self.step, note=note)

    def close(self) -> None:
        """Show the last line and leave it on the screen."""
        now = self.clock()
        self._leave(now, self.note)
        if self.terminal or (self.total and self.shown != self.step):
            self._show(now)
        if self.terminal:
            self.stream.write("\n")
            self.stream.flush()

    def line(self, now: float) -> str:
        """12,000/100,000  12%  train 23.1  eval 45.0  1,234 steps/s  0:00:10, 0:01:11 left"""
        if not self.total:
            return str(self.note)

        percent = min(100 * self.step // max(self.total, 1), 100)
        returns = [f"{phase} {value:.4g}" for phase, value in self.returns.items()]
        speed = self._speed(now)
        left = f"{_duration((self.total - self.step) / speed)} left" if speed > 0 else "? left"
        rate = f"{speed:,.0f}" if speed > 0 else "?"
        parts = [f"{self.step:,}/{self.total:,}", f"{percent}%", *returns, f"{rate} steps/s"]
        return "  ".join([*parts, f"{_duration(now - self.began)}, {self.note or left}"])

    def _next(self, now: float) -> float:
        return now + (TERMINAL_SECONDS if self.terminal else PLAIN_SECONDS)

    def _leave(self, now: float, note: object) -> None:
        """Count the time since the last update as not spent training, if there is a note."""
        self.away += now - self.last if note else 0.0
        self.last = now

    def _speed(self, now: float) -> float:
        before, step = self.samples[0]
        # Over the latest samples only, since the speed changes when learning begins.
        seconds = now - self.away - before
        return (self.step - step) / seconds if seconds > 0 else 0.0

    def _show(self, now: float) -> None:
        line = self.line(now)
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            if self.note and self.total and len(line) > width:  # the note matters most
                line = f"{self.step:,}/{self.total:,}  {self.note}"
            line = f"\r{line[:width]}\x1b[K"

        try:
            self.stream.write(line if self.terminal else f"{line}\n")
            self.stream.flush()
        except BrokenPipeError:
            hush(self.stream.fileno())

        self.samples.append((now - self.away, self.step))
        self.shown = self.step


class Stopwatch:
    """Seconds by a clock, including those before a resume."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.before = 0.0
        self.began = clock()

    def go_on(self) -> None:
        """Count from now on, in addition to `before`."""
        self.began = self.clock()

    def seconds(self) -> float:
        return self.before + self.clock() - self.began


class LongRunNotice:
    """Reports once, soon after learning has begun, how many hours a long run has left.

    Args:
        total: steps of the run.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.began: tuple[int, float, float] | None = None  # step, seconds and seconds of learning, as learning began
        self.reported = False

    def add(self, step: int, seconds: float, learning: float) -> str | None:
        """A message, at most once.

        Args:
            step: environment steps so far.
            seconds: of training so far, without evaluations.
            learning: those of them in which the algorithm learned.
        """
        if self.reported:
            return None
        # The first step that learns is left out: it may fit a model, or compile.
        if self.began is None:
            self.began = (step, seconds, learning)
            return None
        since, took = step - self.began[0], seconds - self.began[1]
        if took < NOTICE_SECONDS:
            return None

        self.reported = True
        hours = took / since * (self.total - step) / 3600
        if hours < LONG_HOURS:
            return None
        updates = (learning - self.began[2]) / since
        return (
            f"about {hours:.1f} hours left: each of {self.total - step:,} steps takes {took / since:.2g} s, "
            f"{updates:.2g} s of it for learning (algo.update)"
        )


class EvaluationNote:
    """`evaluating: 3 of 20 episodes, 1,250 steps, 0:00:12 left`; the text is only made when it is shown.

    Args:
        episodes: number of episodes; environment k % num plays episode k.
        num: number of environments.
        limit: steps after which an episode is truncated, if known.
        lengths: lengths of recent training episodes, used as estimates until some episodes have finished.
        clock: a function that returns seconds.
    """

    def __init__(
        self,
        episodes: int,
        num: int,
        limit: int | None,
        lengths: Iterable[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.episodes = episodes
        self.num = num
        self.limit = limit
        self.trained = lengths
        self.finished: list[list[int]] = [[] for _ in range(num)]  # lengths of each environment's episodes
        self.rounds = 0  # vector steps, including those that reset an environment
        self.clock = clock
        self.began = clock()

    def advance(self, finished: Sequence[Episode]) -> None:
        """A step in every environment, with which these episodes finished."""
        self.rounds += 1
        for e in finished:
            self.finished[e.env].append(e.length)

    def __str__(self) -> str:
        done = sum(map(len, self.finished))
        steps = sum(sum(self.finished[i]) + (max(self._age(i), 0) if self._missing(i) else 0) for i in range(self.num))
        left = self.rounds_left()
        words = f"evaluating: {done:,} of {self.episodes:,} episodes, {steps:,} steps"
        if left is None or not self.rounds:
            return words
        return f"{words}, {_duration((self.clock() - self.began) / self.rounds * left)} left"

    def rounds_left(self) -> float | None:
        """Vector steps until the slowest environment has played its episodes; None if they cannot be estimated."""
        # Environments step together, so the slowest one decides.
        most = 0.0
        for i in range(self.num):
            if missing := self._missing(i):
                age = self._age(i)
                this, others = self._length(age), self._length(0)
                if this is None or others is None:
                    return None
                # Each later episode also takes a step for its reset.
                most = max(most, this - age + (missing - 1) * (others + 1))
        return most

    def _missing(self, env: int) -> int:
        """Episodes that environment still has to finish."""
        return len(range(env, self.episodes, self.num)) - len(self.finished[env])

    def _age(self, env: int) -> int:
        """Steps of the environment's current episode; -1 before its reset, which takes a step each time."""
        return self.rounds - sum(self.finished[env]) - len(self.finished[env])

    def _length(self, age: int) -> float | None:
        """The expected length of an episode after `age` steps: the mean of known longer ones, or the time limit."""
        # Episodes of this evaluation are the best estimate, then those of training.
        for known in ([n for lengths in self.finished for n in lengths], self.trained):
            if longer := [n for n in known if n > age]:
                return fmean(longer)
        return self.limit


def hush(descriptor: int) -> None:
    """Discard further output to a pipe that nobody reads any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(max(seconds, 0.0))))
