"""Atomic writes: whenever the machine stops, a file is either the complete old one or the complete new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".tmp"


@contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that replaces `path` when the block succeeds; after an exception `path` is unchanged.

    The old file is kept as `previous`, if given. An error of the disk raises OSError with `path`.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            # The data must be on disk before the rename is, or a power cut leaves an empty file.
            os.fsync(file.fileno())

        if previous is not None and path.exists():
            keep(path, previous)
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        # torch.save hides the disk's OSError behind a RuntimeError of its own.
        fault = error.__context__ if isinstance(error, RuntimeError) else error
        if isinstance(fault, OSError) and fault.filename is None:
            raise OSError(fault.errno, fault.strerror, str(path)) from None
        raise
    sync_directory(path.parent)


def keep(path: Path, previous: Path) -> None:
    """Also name the file at `path` `previous`, so that it can be replaced and is never missing."""
    previous.unlink(missing_ok=True)
    try:
        # A link instead of a rename, so that there is no instant without a file at `path`.
        os.link(path, previous)
    except OSError:  # a file system without hard links
        os.replace(path, previous)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block succeeds; else nothing stays.

    ValueError, one line, if `path` exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder: choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, where it can be renamed.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        yield whole
        if path.exists():
            path.rmdir()
        whole.rename(path)


def write_text(path: Path, text: str) -> None:
    """Replace the text of `path` atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_directory(path: Path) -> None:
    """Flush renames and deletions in `path` to disk. Windows does this itself, and cannot open a folder."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
