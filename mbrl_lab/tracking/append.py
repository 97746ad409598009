"""A file that only grows, until a resumed run truncates it to its size at the checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class AppendFile:
    """Opened at the first append; every append is handed to the system at once, so that a killed process loses none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, data: bytes) -> int:
        """Write `data`; returns the byte at which it begins."""
        if self._file is None:
            self._file = self.path.open("ab")
        offset = self._file.tell()
        self._file.write(data)
        # Without fsync: that is for checkpoints, and would cost milliseconds for every row.
        self._file.flush()
        return offset

    def position(self) -> int:
        """The size in bytes, after everything is on disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self._size()

    def truncate(self, position: int) -> None:
        """Cut back to `position` bytes; ValueError if the file is shorter, since what it held is lost."""
        self.close()
        size = self._size()
        if size < position:
            raise ValueError(f"{self.path} holds {size} bytes, but the checkpoint was made when it held {position}")
        if size > position:
            os.truncate(self.path, position)

    def close(self) -> None:
        """Let go of the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
