"""Signals that stop a run: recorded when they arrive, acted on at the next safe point."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mbrl_lab.env.vector import STOP_SIGNALS

STOPPED = "stopped: the same command with the same hydra.run.dir, or sweep_name, resumes from the last save"


UNDRAWN = (
    "stopped: the run is done, but not all is filmed and drawn; {} {} draws its pictures, and films with --video 1"
)


class Signals:
    """While entered, SIGTERM, SIGINT and SIGUSR2 set `received`; a second SIGINT raises KeyboardInterrupt immediately.

    Outside the main thread, where handlers cannot be set, it does nothing. A signal that was ignored stays ignored.

    Args:
        words: printed by `hand_over` where it stops the process, or the argument of its KeyboardInterrupt.
    """

    def __init__(self, words: str = STOPPED) -> None:
        self.words = words
        self.pending: list[signal.Signals] = []
        self.previous: dict[signal.Signals, Any] = {}
        self.pid = os.getpid()
        self.stop: Callable[[], None] | None = None

    @contextmanager
    def immediately(self, stop: Callable[[], None]) -> Iterator[None]:
        """While entered, a signal calls `stop` as soon as it arrives, and so does one that was recorded before."""
        self.stop = stop
        try:
            if self.pending:
                stop()
            yield
        finally:
            self.stop = None

    @property
    def received(self) -> str | None:
        """The name of the first signal that arrived, or None."""
        return self.pending[0].name if self.pending else None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            wanted = [signal.Signals[name] for name in STOP_SIGNALS if hasattr(signal, name)]
            for number in wanted:
                # An ignored signal stays ignored, as under nohup, which expects the process to survive.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self.previous[number] = signal.signal(number, self._note) or signal.SIG_DFL
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def hand_over(self) -> None:
        """Give every noted signal to the previous handler; where there was none, exit with 128 + its number.

        Python's own handler of Ctrl-C counts as one: it raises KeyboardInterrupt.

        Returns, with nothing noted, only if those handlers do (submitit's for SIGTERM does): then the run continues.
        """
        pending, self.pending = self.pending, []
        # Python handlers first: one of them may requeue the job, which must happen before this process exits.
        for number in pending:
            if self.previous[number] is signal.default_int_handler:
                raise KeyboardInterrupt(self.words)
            if callable(self.previous[number]):
                self.previous[number](number, None)
        for number in pending:
            if not callable(self.previous[number]):
                print(self.words, file=sys.stderr)
                sys.exit(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # A forked worker inherits these handlers, but has no run to save.
        if os.getpid() != self.pid:
            _in_forked_worker(number)
        elif number == signal.SIGINT and signal.SIGINT in self.pending:
            raise KeyboardInterrupt
        elif number not in self.pending:
            self.pending.append(signal.Signals(number))
            if self.stop is not None:
                self.stop()


def _in_forked_worker(number: int) -> None:
    """A worker runs until its parent stops it, so that the parent can reach its safe point first."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
