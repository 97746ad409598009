"""One line that says how far a run is: rewritten in place on a terminal, now and then elsewhere."""

from __future__ import annotations

import datetime
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

TERMINAL_SECONDS = 0.2
PLAIN_SECONDS = 10.0
SPEED_SAMPLES = 150
SPEED_SECONDS = 1.0
"""Of training, before which nothing is said of its speed."""


class Progress:
    """Steps done of `total`, the latest returns, speed, time gone and left. `start` is where a resumed run begins.

    What goes on under a `note` (evaluations, films) is not training: it counts for neither the speed nor what is left.
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
        self.note = ""
        self.began = clock()
        self.due = self.began
        self.shown = -1
        self.last, self.away = self.began, 0.0
        self.seen = deque([(self.began, start)], maxlen=SPEED_SAMPLES)

    def update(
        self, step: int, train_return: float | None = None, eval_return: float | None = None, note: str = ""
    ) -> None:
        """Note where the run is; the line is only made when it is due. Returns not given stay as they were."""
        now = self.clock()
        self._leave(now, note or self.note)
        self.step, self.note = step, note
        if train_return is not None:
            self.returns["train"] = train_return
        if eval_return is not None:
            self.returns["eval"] = eval_return
        if now >= self.due:
            self.due = now + (TERMINAL_SECONDS if self.terminal else PLAIN_SECONDS)
            self._show(now)

    def announce(self, note: str) -> None:
        """Say at once what begins, for nothing will be said while it lasts."""
        self.due = self.clock()
        self.update(self.step, note=note)

    def close(self) -> None:
        """Show the last line and leave it there."""
        now = self.clock()
        self._leave(now, self.note)
        if self.terminal or self.shown != self.step:
            self._show(now)
        if self.terminal:
            self.stream.write("\n")
            self.stream.flush()

    def line(self, now: float) -> str:
        """12,000/100,000  12%  train 23.1  eval 45.0  1,234 steps/s  0:00:10, 0:01:11 left"""
        percent = min(100 * self.step // max(self.total, 1), 100)
        returns = [f"{phase} {value:.4g}" for phase, value in self.returns.items()]
        speed = self._speed(now)
        left = f"{_duration((self.total - self.step) / speed)} left" if speed > 0 else "? left"
        pace = f"{speed:,.0f}" if speed > 0 else "?"
        parts = [f"{self.step:,}/{self.total:,}", f"{percent}%", *returns, f"{pace} steps/s"]
        return "  ".join([*parts, f"{_duration(now - self.began)}, {self.note or left}"])

    def _leave(self, now: float, note: str) -> None:
        """Count the time since the last update as spent away from training, if a note says so."""
        self.away += now - self.last if note else 0.0
        self.last = now

    def _speed(self, now: float) -> float:
        before, step = self.seen[0]
        seconds = now - self.away - before
        return (self.step - step) / seconds if seconds >= SPEED_SECONDS else 0.0

    def _show(self, now: float) -> None:
        line = self.line(now)
        if self.terminal:
            line = f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K"
        self.stream.write(line if self.terminal else f"{line}\n")
        self.stream.flush()
        self.seen.append((now - self.away, self.step))
        self.shown = self.step


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(max(seconds, 0.0))))
