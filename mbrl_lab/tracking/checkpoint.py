"""Checkpoints: a state file that is replaced atomically, and replay in chunks, so that a save writes only new data.

    state.pt               {format, state, first, chunks}: the newest
    state.prev.pt          the previous one, whose chunks are kept too, in case the newest is damaged
    state.prev2.pt, ...    older ones, if more than two are kept
    rows-<start>-<stop>.pt vector steps of replay by number, never changed once a state names them

Chunks are on disk before the state that names them; chunks that no state names are deleted after it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mbrl_lab.tracking.atomic import UNFINISHED, replacing
from mbrl_lab.types import Step

log = logging.getLogger(__name__)

FORMAT = 1
CHUNK_BYTES = 32 * 2**20  # a smaller last chunk is written again, together with newer steps


class Ring(Protocol):
    """A replay: vector steps, each with the number of those added before it."""

    @property
    def added(self) -> int:
        """Vector steps added so far."""

    @property
    def slots(self) -> int:
        """How many of the newest are still stored."""

    def steps(self, start: int, stop: int) -> Step:
        """Vector steps start..stop-1 by number: [stop - start, B] on the CPU."""


class Loaded(NamedTuple):
    """The content of a checkpoint, on the CPU."""

    state: dict[str, Any]
    steps: Iterator[tuple[int, Step]]  # (number of the first, [T, B] vector steps), in order and without gaps


class Damaged(ValueError):
    """A file of a checkpoint is missing, cut short or altered."""


class Chunk(NamedTuple):
    """Vector steps start..stop-1, in one file."""

    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"rows-{self.start}-{self.stop}.pt"


class Checkpoint:
    """A directory with one checkpoint and the `keep` - 1 before it. Load an existing one before saving."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.newest = directory / "state.pt"
        self.older = [directory / f"state.prev{k if k > 1 else ''}.pt" for k in range(1, keep)]
        self.chunks: list[Chunk] | None = None  # of the state last saved or loaded
        self.older_chunks: list[list[Chunk]] = []  # of those before it
        self.newest_damaged = False

    def save(self, state: dict[str, Any], replay: Ring | None = None) -> None:
        """Replace the checkpoint. `state`: dicts, lists and tuples of tensors and plain values, else TypeError."""
        check_plain(state)
        # Not the run's folder: if that was removed, no part of it must come back.
        self.directory.parent.mkdir(exist_ok=True)
        self.directory.mkdir(exist_ok=True)

        # Chunks first: whenever the process is killed, the state on disk names only complete chunks.
        first, chunks = (0, []) if replay is None else self._write_steps(replay)
        content = {"format": FORMAT, "state": state, "first": first, "chunks": [tuple(chunk) for chunk in chunks]}

        # Older states are shifted by one; a damaged newest one must not push out a complete one.
        if not self.newest_damaged:
            for path, before in reversed(list(zip(self.older[1:], self.older, strict=False))):
                if before.exists():
                    os.replace(before, path)
            self.older_chunks = [self.chunks or [], *self.older_chunks][: len(self.older)]

        with replacing(self.newest, None if self.newest_damaged or not self.older else self.older[0]) as file:
            torch.save(content, file)

        # Last, when no state on disk names them any more.
        self._delete_all_but({chunk.name for of_one in [chunks, *self.older_chunks] for chunk in of_one})
        self.chunks, self.newest_damaged = chunks, False

    def exists(self) -> bool:
        """Whether a checkpoint was ever saved here."""
        return any(path.exists() for path in [self.newest, *self.older])

    def step(self) -> int | None:
        """The run's step in the newest readable state, without reading its tensors; None if there is none."""
        for path in [self.newest, *self.older]:
            with contextlib.suppress(OSError, ValueError):
                return int(unpack(path, mmap=True)["state"]["step"])
        return None

    def load(self) -> Loaded | None:
        """The newest undamaged checkpoint, or None if there never was one. No code from the file is run.

        Raises Damaged, one line, if no complete one is left; ValueError if it has another format.
        """
        if not self.exists():
            self.chunks = []
            return None

        # Only chunks that a state names are read: those of an interrupted save are ignored, and deleted by the next.
        content = self._newest_whole()
        self.chunks = chunks_of(content)
        return Loaded(content["state"], self._read_steps(self.chunks, content["first"]))

    def _newest_whole(self) -> dict[str, Any]:
        try:
            content = self._read(self.newest)
        except Damaged as error:
            there = [path for path in self.older if path.exists()]
            if not there:
                raise
            content = self._first_whole(there)
            # The next save overwrites the damaged file and keeps the older ones.
            self.newest_damaged = True
            log.warning("%s; resuming from the checkpoint before it", error)
        self.older_chunks = [chunks_in(path) for path in self.older]
        return content

    def _first_whole(self, paths: Sequence[Path]) -> dict[str, Any]:
        for path in paths[:-1]:
            with contextlib.suppress(Damaged):
                return self._read(path)
        return self._read(paths[-1])

    def _read(self, path: Path) -> dict[str, Any]:
        content = read(path)
        for start, stop in content["chunks"]:
            verify(self.directory / Chunk(start, stop).name)
        return content

    def _read_steps(self, chunks: list[Chunk], first: int) -> Iterator[tuple[int, Step]]:
        for chunk in chunks:
            # Checksums were verified when the state was read; mapped, since replay may be larger than free memory.
            step = Step(**unpack(self.directory / chunk.name, mmap=True)["rows"])
            # The ring may have dropped the first steps of the oldest chunk.
            start = max(chunk.start, first)
            yield start, step.at(slice(start - chunk.start, None))

    def _write_steps(self, replay: Ring) -> tuple[int, list[Chunk]]:
        """Write the steps that no chunk contains yet; returns the number of the oldest step, and all chunks."""
        assert self.chunks is not None or not self.newest.exists(), f"load {self.newest} before saving over it"

        # Chunks whose steps the ring has overwritten are dropped.
        first = max(0, replay.added - replay.slots)
        kept = [chunk for chunk in self.chunks or [] if chunk.stop > first]
        start = kept[-1].stop if kept else first
        assert start <= replay.added, (start, replay.added)
        if start == replay.added:
            return first, kept

        # A last chunk that is not full is written again, otherwise every save would leave a small file.
        length = steps_per_chunk(replay.steps(replay.added - 1, replay.added))
        if kept and kept[-1].stop - kept[-1].start < length:
            start = max(first, kept.pop().start)

        new = [Chunk(a, min(a + length, replay.added)) for a in range(start, replay.added, length)]
        for chunk in new:
            self._write_chunk(chunk, replay.steps(*chunk))
        return first, kept + new

    def _write_chunk(self, chunk: Chunk, step: Step) -> None:
        assert all(len(x) == chunk.stop - chunk.start for x in step), (chunk, [x.shape for x in step])
        with replacing(self.directory / chunk.name) as file:
            torch.save({"format": FORMAT, "rows": {k: owned(x) for k, x in step._asdict().items()}}, file)

    def _delete_all_but(self, names: set[str]) -> None:
        for path in self.directory.iterdir():
            is_chunk = path.name.startswith("rows-") and path.name not in names
            if is_chunk or path.suffix == UNFINISHED:
                path.unlink()


def chunks_of(content: Mapping[str, Any]) -> list[Chunk]:
    """The chunks that a state names."""
    return [Chunk(*chunk) for chunk in content["chunks"]]


def chunks_in(path: Path) -> list[Chunk]:
    """The chunks that the state in a file names, without reading its tensors; none if it is missing or damaged."""
    try:
        return chunks_of(unpack(path, mmap=True))
    except (OSError, ValueError):
        return []


def steps_per_chunk(step: Step) -> int:
    """The number of vector steps, each as large as this [1, B] one, that fill a chunk."""
    return max(1, CHUNK_BYTES // sum(x.nbytes for x in step))


def owned(x: Tensor) -> Tensor:
    """`x` with its own storage: torch saves a view together with the whole tensor it belongs to."""
    return x if x.untyped_storage().nbytes() == x.nbytes else x.clone()


def read(path: Path) -> dict[str, Any]:
    """A file of a checkpoint, on the CPU; ValueError if its format is unknown or it holds more than plain values."""
    verify(path)
    return unpack(path)


def unpack(path: Path, mmap: bool = False) -> dict[str, Any]:
    """`read` without verifying checksums; with `mmap` the system reads tensors when they are used."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than tensors and plain values, so it is rejected") from error
    except RuntimeError as error:
        raise Damaged(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{path} has format {found}; this version of mbrl_lab reads format {FORMAT}")
    return dict(content)


def verify(path: Path) -> None:
    """Raise Damaged unless the file's content matches the checksums in its archive."""
    try:
        # torch.load ignores these checksums, so it would not notice a flipped bit.
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except FileNotFoundError as error:
        raise Damaged(f"{path} is missing") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if wrong is not None:
        raise Damaged(f"{path} is damaged: {wrong} has another checksum")


def check_plain(value: Any, name: str = "state") -> None:
    """TypeError, with the place, unless `value` can be loaded without running code."""
    # Exact types: a subclass would be pickled as a class, which `weights_only` refuses to load.
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            check_plain(key, f"{name}'s key {key!r}")
            check_plain(inner, f"{name}.{key}")
    elif type(value) in (list, tuple):
        for index, inner in enumerate(value):
            check_plain(inner, f"{name}.{index}")
    elif type(value) not in (int, float, bool, str, type(None)) and not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")
