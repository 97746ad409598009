"""Makers of single gymnasium environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np


def make_gym(id: str, **kwargs: Any) -> gymnasium.Env:
    """A gymnasium environment by its id; continuous actions are rescaled to [-1, 1]. ValueError for an unknown id."""
    try:
        env = gymnasium.make(id, **kwargs)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DependencyNotInstalled) as error:
        raise ValueError(f"env.make.id={id}: {error}") from error
    if isinstance(env.action_space, gymnasium.spaces.Box):
        env = gymnasium.wrappers.RescaleAction(env, np.float32(-1), np.float32(1))
    return env
