"""Other processes that start in an instant: one that holds a lock, and any call in a copy of this process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from mbrl_lab.tracking import lock

HOLD = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("lock", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
lock = module.Lock(Path(sys.argv[1]))
print("held" if lock.take() else "refused", flush=True)
time.sleep(60)
"""


def forked(call: Callable[[], object], folder: Path) -> BaseProcess:
    """A call in a copy of this process, which need not import anything; it prints to a folder's files out and err."""

    def work() -> None:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        call()

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    with warnings.catch_warnings():  # Python 3.12 warns of other threads; pytest-xdist has one, which only waits
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    return process


def taker(path: Path) -> subprocess.Popen[str]:
    """A process that takes the lock, says `held` or `refused`, and stays."""
    command = [sys.executable, "-c", HOLD, str(path), str(lock.__file__)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """While another process holds it."""
    with taker(path) as process:
        assert said(process) == "held"
        yield process
        process.kill()
