"""gymnasium's vector environments, for runs that are stopped by signals and always close."""

from __future__ import annotations

import functools
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.async_vector_env import AsyncState

log = logging.getLogger("mbrl_lab")

DIFFERENT = "the environments that env.make builds differ in their spaces, which must not be random"

STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR2")
"""Signals that stop a run. Only the training process handles them; its environments' workers ignore them."""

GRACE = 5.0
"""Seconds that a worker has to close its environment after the training process is gone."""


class SafeClose(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose `close()` warns instead of raising, so that the others are closed too."""

    def close(self) -> None:
        close_safely(self.env)


class Workers(AsyncVectorEnv):
    """A process for each environment. Workers ignore the signals that stop a run, and exit with their parent.

    If they were left open, multiprocessing would send them SIGTERM when Python exits, and wait forever, since they
    ignore it. So they are killed before that.
    """

    def __init__(self, makes: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        super().__init__(makes, autoreset_mode=AutoresetMode.NEXT_STEP)
        self._kill = Finalize(self, _kill, (self.processes,), exitpriority=10)

    def close_extras(self, timeout: float | None = None, terminate: bool = False) -> None:
        """Tell the workers to close. Kill them if a step is still pending, whose result nobody waits for."""
        try:
            if not terminate and self._state is AsyncState.DEFAULT:
                super().close_extras(timeout)
                self._kill.cancel()
                return
        except (EOFError, OSError):
            log.debug("a worker exited before it was closed")

        # Here a worker is busy, or gone.
        self._kill()
        for pipe in self.parent_pipes:
            if pipe is not None:
                pipe.close()


def vectorised(make: Callable[[], gymnasium.Env[Any, Any]], num: int, asynchronous: bool) -> VectorEnv[Any, Any, Any]:
    """`num` environments, stepped in turn or each in its own process. ValueError if their spaces differ."""
    makes = [functools.partial(_make_one, make, os.getpid())] * num
    try:
        return Workers(makes) if asynchronous else SyncVectorEnv(makes, autoreset_mode=AutoresetMode.NEXT_STEP)
    except RuntimeError as error:
        # gymnasium compares the spaces, but raises a RuntimeError for anything.
        if "observation space" not in str(error) and "action space" not in str(error):
            raise
        raise ValueError(DIFFERENT) from error


def close_safely(thing: Any) -> None:
    """Close an environment. An error is only a warning, once for each message: nothing can be lost any more."""
    try:
        thing.close()
    except Exception as error:
        warn_once(f"close() of the environment failed: {type(error).__name__}: {error}".splitlines()[0])


@functools.cache
def warn_once(text: str) -> None:
    """A warning that a process prints only once."""
    log.warning("%s", text)


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


def _make_one(make: Callable[[], gymnasium.Env[Any, Any]], parent: int) -> gymnasium.Env[Any, Any]:
    """An environment in this process, which is a worker unless its id is `parent`."""
    if os.getpid() != parent:
        _become_worker()
    return SafeClose(make())


def _become_worker() -> None:
    """Ignore the signals that stop a run, and exit when the training process does."""
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            # A function instead of SIG_IGN, which programs started by a simulator would inherit.
            signal.signal(signal.Signals[name], _ignore)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _ignore(number: int, frame: object) -> None:
    """The training process gets the signal too, and closes its workers after it has saved."""


def _end_with_parent() -> None:
    """A killed parent closes nothing. An idle worker notices that its pipe is closed; one in a long step is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a worker"
    parent.join()
    time.sleep(GRACE)
    os._exit(1)
