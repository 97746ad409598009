"""Recorded: one episode as arrays, under Minari's names and in the environment's own units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl_lab.config import ConfigError


class Recorded(NamedTuple):
    """An episode of T steps, or a part of one."""

    observations: NDArray[Any]  # [T + 1, ...]; of stacked images the newest frame alone
    actions: NDArray[Any]  # [T] or [T, A], as the environment itself takes them
    rewards: NDArray[np.float32]  # [T]
    terminations: NDArray[np.bool_]  # [T]; true before the last step where only a life was lost
    truncations: NDArray[np.bool_]  # [T]

    @property
    def length(self) -> int:
        return len(self.rewards)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], place: str) -> Recorded:
        """ConfigError, one line, for arrays that are missing, or whose lengths do not fit."""
        if missing := [name for name in cls._fields if name not in arrays]:
            raise ConfigError(f"{place} has no array {missing[0]!r}; an episode has {', '.join(cls._fields)}")
        found = cls(*(np.asarray(arrays[name]) for name in cls._fields))
        lengths = {name: len(x) for name, x in zip(cls._fields, found, strict=True)}
        steps = lengths["rewards"]
        expected = {name: steps + (name == "observations") for name in cls._fields}
        if wrong := [name for name in cls._fields if lengths[name] != expected[name]]:
            raise ConfigError(f"{place}: {wrong[0]} are {lengths[wrong[0]]}; {steps} rewards need {expected[wrong[0]]}")
        return found
