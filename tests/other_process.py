"""A lock in another process's hands, in an instant: it loads nothing but the module of locks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
