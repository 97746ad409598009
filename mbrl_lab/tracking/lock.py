"""One process per folder: a lock that the system releases when its process exits, for whatever reason."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system: only the process number in status.json is checked
    fcntl = None  # type: ignore[assignment]

TRIES, PAUSE = 5, 0.05
"""Several tries, since a process that only checks whether a lock is held has it for an instant."""

HELD: dict[Path, tuple[int, int]] = {}
"""This process's locks: file descriptor, and number of holders. Closing any other descriptor would release the lock."""


class Lock:
    """A POSIX lock on a file against other processes, on other machines too if the file system supports locks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mine = False

    def take(self) -> bool:
        """Hold it until `release` or the exit of this process; False if another process holds it."""
        if self.mine:
            return True
        for left in reversed(range(TRIES)):
            if self._hold():
                self.mine = True
                return True
            if left:
                time.sleep(PAUSE)
        return False

    def release(self) -> None:
        """Release it, if it is held here."""
        if self.mine:
            self.mine = False
            # POSIX releases a process's lock when any descriptor of the file is closed, so all holders share one.
            descriptor, holders = HELD.pop(self.path)
            if holders > 1:
                HELD[self.path] = descriptor, holders - 1
            else:
                os.close(descriptor)

    def held_elsewhere(self) -> bool:
        """Whether another process holds it."""
        if self.path in HELD or not self.path.exists():
            return False
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except OSError:  # a read-only folder
            return False
        try:
            # Taking it is the only test that works across machines; closing the file releases it.
            return not _lock(descriptor)
        finally:
            os.close(descriptor)

    def _hold(self) -> bool:
        descriptor, holders = HELD.get(self.path, (-1, 0))
        if not holders:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if not _lock(descriptor):
                os.close(descriptor)
                return False
        HELD[self.path] = descriptor, holders + 1
        return True

    def __del__(self) -> None:
        self.release()


def _lock(descriptor: int) -> bool:
    """False if another process holds the lock; always True on a file system without locks."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True
