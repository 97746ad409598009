"""One process a folder: a lock that the system lets go when its process ends, however that comes about."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # not a POSIX system: the process number in status.json has to do
    fcntl = None  # type: ignore[assignment]

TRIES, PAUSE = 5, 0.05
"""Someone who only asks whether a lock is held has it for an instant."""


class Lock:
    """A POSIX lock on a file: other processes' alone, of other machines too where the file system knows locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: IO[bytes] | None = None

    def take(self) -> bool:
        """Hold it until `release` or this process's end; False where another process does."""
        for left in reversed(range(TRIES)):
            file = self.path.open("ab")
            if _lock(file):
                self.file = file
                return True
            file.close()
            if left:
                time.sleep(PAUSE)
        return False

    def release(self) -> None:
        """Let it go, if it is held here."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def held_elsewhere(self) -> bool:
        """Whether another process holds it."""
        if not self.path.exists() or self.file is not None:
            return False
        try:
            with self.path.open("ab") as file:
                return not _lock(file)
        except OSError:  # a folder that can only be read
            return False


def _lock(file: IO[bytes]) -> bool:
    """False where another process holds the lock; a file system without locks never says so."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
