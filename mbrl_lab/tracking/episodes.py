"""The log of episodes: one row each, with their seeds and actions, so that any episode can be replayed."""

from __future__ import annotations

import json
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mbrl_lab.tracking.append import AppendFile
from mbrl_lab.tracking.folder import RunFolder

Phase = Literal["train", "eval"]


class EpisodeLog:
    """Rows {phase, env, index, seed, step, return, length, offset, action_dim}.

    An episode's actions are in actions.bin from byte `offset`, little-endian: int32 [length] if `action_dim` is null
    (discrete), otherwise float32 [length, action_dim].
    """

    def __init__(self, folder: RunFolder) -> None:
        self.rows = AppendFile(folder.episodes)
        self.actions = AppendFile(folder.actions)

    def add(
        self, phase: Phase, env: int, index: int, seed: int, step: int, episode_return: float, actions: NDArray[Any]
    ) -> None:
        """Log a finished episode by its seed and the actions since its reset: integers [L] or floats [L, A]."""
        discrete = actions.ndim == 1
        assert discrete == (actions.dtype.kind in "iu"), (actions.shape, actions.dtype)

        # Actions before the row, so that a row never refers to bytes that do not exist yet.
        offset = self.actions.append(np.ascontiguousarray(actions, dtype="<i4" if discrete else "<f4").tobytes())

        row = {
            "phase": phase,
            "env": int(env),
            "index": int(index),
            "seed": int(seed),
            "step": int(step),
            "return": float(episode_return) if np.isfinite(episode_return) else None,
            "length": len(actions),
            "offset": offset,
            "action_dim": None if discrete else actions.shape[1],
        }
        self.rows.append(json.dumps(row, allow_nan=False).encode() + b"\n")

    def finished(self, phase: Phase) -> list[dict[str, Any]]:
        """The rows of a phase, oldest first; one that is still being written is left out."""
        text = self.rows.path.read_text() if self.rows.path.exists() else ""
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [row for row in rows if row["phase"] == phase]

    def read(self, phase: Phase, k: int) -> tuple[int, NDArray[Any]]:
        """(seed, actions) of the k-th episode of a phase; -1 is the latest. IndexError if there is none.

        ValueError if its row does not match the file of actions.
        """
        row = self.finished(phase)[k]
        discrete, length = row["action_dim"] is None, row["length"]
        count = length * (1 if discrete else row["action_dim"])
        dtype = np.dtype("<i4" if discrete else "<f4")

        # A row from somebody else could name any size, which numpy would allocate.
        end = row["offset"] + count * dtype.itemsize
        if min(count, row["offset"]) < 0 or end > self.actions.path.stat().st_size:
            raise ValueError(f"{self.rows.path} names {count} actions at byte {row['offset']} of {self.actions.path}")
        flat = np.fromfile(self.actions.path, dtype, count, offset=row["offset"])
        return row["seed"], flat if discrete else flat.reshape(length, -1)

    def position(self) -> tuple[int, int]:
        """Bytes written so far to episodes.jsonl and actions.bin, flushed to disk; a checkpoint stores them."""
        return self.rows.position(), self.actions.position()

    def truncate(self, position: tuple[int, int]) -> None:
        """Truncate both files to `position`."""
        self.rows.truncate(position[0])
        self.actions.truncate(position[1])

    def close(self) -> None:
        self.rows.close()
        self.actions.close()
