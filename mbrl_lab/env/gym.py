"""Makers of single gymnasium environments."""

from __future__ import annotations

import difflib
import logging
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import RescaleAction, TransformObservation

log = logging.getLogger("mbrl_lab")

INSTALL = {"Box2D": "pip install 'gymnasium[box2d]'", "MuJoCo": "pip install 'gymnasium[mujoco]'"}


def make_gym(id: str, **kwargs: Any) -> gymnasium.Env:
    """A gymnasium environment by its id; continuous actions are rescaled to [-1, 1], images turned to [C, H, W].

    ValueError, one line, for an id that is unknown or lacks a package.
    """
    if _needs_mujoco(id):
        log_mujoco()
    try:
        env = gymnasium.make(id, **kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"env.make.id is {id!r} (env.id with env=gym): {_why(id, error)}") from error
    if isinstance(env.action_space, Box):
        env = RescaleAction(env, np.float32(-1), np.float32(1))
    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 3 and space.dtype == np.uint8:
        low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
        env = TransformObservation(env, lambda image: np.moveaxis(image, -1, 0), Box(low, high, dtype=np.uint8))
    return env


def log_mujoco() -> None:
    """Have MuJoCo's warnings in the log; it would print them for every simulator, and into MUJOCO_LOG.TXT.

    That a robot's file has something deprecated in it, nobody who runs it can mend: that is for the debug level.
    """
    try:
        import mujoco
    except ImportError:
        return

    def say(message: str) -> None:
        log.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message)

    mujoco.set_mju_user_warning(say)


def _needs_mujoco(id: str) -> bool:
    spec = gymnasium.registry.get(id)
    return spec is not None and "mujoco" in str(spec.entry_point)


def _why(id: str, error: Exception) -> str:
    """What gymnasium says, in a line, with the id that was meant or the package to install."""
    said = str(error).splitlines()[0]
    for package, cure in INSTALL.items():
        if isinstance(error, gymnasium.error.DependencyNotInstalled) and package.lower() in said.lower():
            return f"{package} is not installed: {cure}"
    known = [x for x in gymnasium.registry if ":" not in x and "/" not in x]
    close = difflib.get_close_matches(id, known, n=1, cutoff=0.6)
    unknown = isinstance(error, gymnasium.error.UnregisteredEnv)
    return f"there is none; did you mean {close[0]}?" if unknown and close else said
