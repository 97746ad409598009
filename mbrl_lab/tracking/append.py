"""A file that only grows, until a resumed run truncates it to its size at the checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO


class AppendFile:
    """Opened at the first append; each append is passed to the system immediately, so a killed process loses none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def append(self, data: bytes) -> int:
        """Write `data`; returns the byte at which it begins."""
        if self._file is None:
            self._file = self.path.open("ab")
        offset = self._file.tell()
        self._file.write(data)
        # Without fsync, which takes milliseconds per row; checkpoints call it.
        self._file.flush()
        return offset

    def position(self) -> int:
        """The size in bytes, after everything is on disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return self._size()

    def truncate(self, position: int) -> None:
        """Truncate to `position` bytes; ValueError if the file is shorter, since rows are missing then."""
        self.close()
        size = self._size()
        if size < position:
            raise ValueError(f"{self.path} holds {size} bytes, but the checkpoint was made when it held {position}")
        if size > position:
            os.truncate(self.path, position)

    def close(self) -> None:
        """Close the file; a later append opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0
