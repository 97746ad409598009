"""One line that says how far a run is: rewritten in place on a terminal, now and then elsewhere."""

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


class Progress:
    """Steps done of `total`, the latest returns, speed, time gone and left. `start` is where a resumed run begins.

    What goes on under a `note` (evaluations, films) is not training: it counts for neither the speed nor what is left.
    With a total of 0 there is no training, the line is the note alone, and what is soon over is not spoken of.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.step = total, start
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self.clock = clock
        self.returns: dict[str, float] = {}
        self.note: object = ""
        self.began = clock()
        self.due = self.began if total else self._next(self.began)
        self.shown = -1
        self.last, self.away = self.began, 0.0
        self.seen = deque([(self.began, start)], maxlen=SPEED_SAMPLES)

    def update(
        self, step: int, train_return: float | None = None, eval_return: float | None = None, note: object = ""
    ) -> None:
        """Note where the run is; the line is only made when it is due. Returns not given stay as they were.

        `note` is anything with a text, which is asked for only then.
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
        """Say at once what begins, for nothing will be said while it lasts."""
        self.due = self.clock()
        self.update(self.step, note=note)

    def close(self) -> None:
        """Show the last line and leave it there."""
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
        pace = f"{speed:,.0f}" if speed > 0 else "?"
        parts = [f"{self.step:,}/{self.total:,}", f"{percent}%", *returns, f"{pace} steps/s"]
        return "  ".join([*parts, f"{_duration(now - self.began)}, {self.note or left}"])

    def _next(self, now: float) -> float:
        return now + (TERMINAL_SECONDS if self.terminal else PLAIN_SECONDS)

    def _leave(self, now: float, note: object) -> None:
        """Count the time since the last update as spent away from training, if a note says so."""
        self.away += now - self.last if note else 0.0
        self.last = now

    def _speed(self, now: float) -> float:
        before, step = self.seen[0]
        seconds = now - self.away - before
        return (self.step - step) / seconds if seconds > 0 else 0.0

    def _show(self, now: float) -> None:
        line = self.line(now)
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            if self.note and self.total and len(line) > width:  # what goes on now matters most
                line = f"{self.step:,}/{self.total:,}  {self.note}"
            line = f"\r{line[:width]}\x1b[K"
        try:
            self.stream.write(line if self.terminal else f"{line}\n")
            self.stream.flush()
        except BrokenPipeError:
            hush(self.stream.fileno())
        self.seen.append((now - self.away, self.step))
        self.shown = self.step


class EvaluationNote:
    """`evaluating: 3 of 20 episodes, 1,250 steps, 0:00:12 left`: how far an evaluation is, in words when asked.

    Args:
        episodes: how many are played, k by environment k % num.
        num: environments side by side.
        limit: steps after which an episode is truncated, if that is known.
        lengths: of training episodes of late, which tell how long these may be until some have ended.
    """

    def __init__(
        self,
        episodes: int,
        num: int,
        limit: int | None,
        lengths: Iterable[int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.episodes, self.num, self.limit, self.trained = episodes, num, limit, lengths
        self.ended: list[list[int]] = [[] for _ in range(num)]  # lengths of each environment's episodes
        self.rounds = 0  # steps of all environments together, those that reset counted in
        self.clock = clock
        self.began = clock()

    def advance(self, ended: Sequence[Episode]) -> None:
        """A step in every environment, with which these episodes ended."""
        self.rounds += 1
        for e in ended:
            self.ended[e.env].append(e.length)

    def __str__(self) -> str:
        over = sum(map(len, self.ended))
        steps = sum(sum(self.ended[i]) + (max(self._age(i), 0) if self._missing(i) else 0) for i in range(self.num))
        left = self.rounds_left()
        words = f"evaluating: {over:,} of {self.episodes:,} episodes, {steps:,} steps"
        if left is None or not self.rounds:
            return words
        return f"{words}, {_duration((self.clock() - self.began) / self.rounds * left)} left"

    def rounds_left(self) -> float | None:
        """Until the slowest environment is through with its episodes; None where nothing is known of their length."""
        most = 0.0
        for i in range(self.num):
            if missing := self._missing(i):
                age = self._age(i)
                this, others = self._length(age), self._length(0)
                if this is None or others is None:
                    return None
                most = max(most, this - age + (missing - 1) * (others + 1))
        return most

    def _missing(self, env: int) -> int:
        """Episodes that are still to end there."""
        return len(range(env, self.episodes, self.num)) - len(self.ended[env])

    def _age(self, env: int) -> int:
        """Steps of the episode there; -1 where it has yet to be reset, which takes a step each time."""
        return self.rounds - sum(self.ended[env]) - len(self.ended[env])

    def _length(self, age: int) -> float | None:
        """What is to be expected of an episode that has lasted `age` steps: the mean of those that lasted longer."""
        for known in ([n for lengths in self.ended for n in lengths], self.trained):
            if longer := [n for n in known if n > age]:
                return fmean(longer)
        return self.limit


def hush(descriptor: int) -> None:
    """Send to nowhere what would go to a pipe that nobody reads any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(max(seconds, 0.0))))
