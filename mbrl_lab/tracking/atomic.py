"""Files that are either the old ones or the new ones, whole, whenever the machine stops."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".tmp"


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when the block ends well, and leaves it as it was when not.

    What stood at `path` goes to `previous`, if given. A disk that fails raises OSError, which names `path`.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            # The data must be on disk before the name is, or a power cut leaves an empty file.
            os.fsync(file.fileno())

        if previous is not None and path.exists():
            keep(path, previous)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        # torch.save raises a RuntimeError of its own over the disk's OSError.
        fault = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(fault, OSError) and fault.filename is None:
            raise OSError(fault.errno, fault.strerror, str(path)) from None
        raise
    sync_directory(path.parent)


def keep(path: Path, previous: Path) -> None:
    """Give the file at `path` the name `previous` too, so that it can be replaced and is never missing."""
    previous.unlink(missing_ok=True)
    try:
        # A link, so that there is no instant without a file at `path`.
        os.link(path, previous)
    except OSError:  # a file system without hard links
        os.replace(path, previous)


def write_text(path: Path, text: str) -> None:
    """Replace the text of `path` at once."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_directory(path: Path) -> None:
    """Make renames and deletions in `path` last; on Windows they do by themselves, and no folder can be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
