"""Makers of single gymnasium environments."""

from __future__ import annotations

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from mbrl_lab.env.actions import agent_actions
from mbrl_lab.env.checked import Checked, described
from mbrl_lab.env.observations import agent_observations

log = logging.getLogger("mbrl_lab")

SHOWN = 12
"""Ids of a module that a message lists."""

SET_LIMIT = (
    "env.max_steps=1000 with env=gym sets a limit, for a run in a new folder: one that has begun keeps its settings"
)
"""What to do about episodes that may never finish."""

INSTALL = {"Box2D": "pip install 'gymnasium[box2d]'", "MuJoCo": "pip install 'gymnasium[mujoco]'"}


def make_gym(id: str, **kwargs: Any) -> gymnasium.Env:
    """A gymnasium environment by its id, made with `kwargs`, as the laboratory wants it.

    Continuous actions are rescaled to [-1, 1], images turned to [C, H, W], infos kept back, and what it returns is
    checked. ValueError, one line, for an id that is unknown or lacks a package, and for spaces that are of no use.
    """
    return make_gym_with(id, {}, **kwargs)


def make_gym_with(id: str, wrap: Mapping[str, Any], **kwargs: Any) -> gymnasium.Env:
    """The same with what `wrap` asks for, see `wrapped` and conf/env/gym.yaml."""
    if _needs_mujoco(id):
        load_mujoco(drawing=kwargs.get("render_mode") is not None)

    # Before gymnasium imports the module, to see which ids that adds.
    with contextlib.suppress(Exception):  # gymnasium reports what is wrong with it
        registered_by(id)

    limit = {} if wrap.get("max_steps") is None else {"max_episode_steps": -1}  # its own would come first
    try:
        env = gymnasium.make(id, **{"disable_env_checker": True} | kwargs | limit)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"env.make.id is {id!r} (env.id with env=gym): {_why(id, error)}") from error

    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gymnasium.Space):
            raise ValueError(f"env.make.id is {id!r} (env.id with env=gym): it has no {name}")
    return wrapped(env, **wrap)


def wrapped(
    env: gymnasium.Env,
    max_steps: int | None = None,
    frame_skip: int = 1,
    action_bound: float | None = None,
    **observed: Any,
) -> gymnasium.Env:
    """An environment of any kind with the spaces that agents use.

    Args:
        max_steps: truncates episodes after so many of the agent's steps, and not before; None: as `env` does by itself.
        frame_skip: how many times each action is taken; rewards are added up.
        action_bound: of dimensions of actions that have no bounds of their own.
        observed: arguments of `agent_observations`.
    """
    env = Checked(env)
    if frame_skip > 1:
        env = FrameSkip(env, frame_skip)
    # Outside frame skipping, so that the limit counts the agent's steps.
    if max_steps is not None:
        env = TimeLimit(env, max_steps)
    elif env.spec is None or env.spec.max_episode_steps is None:
        warn_endless(env.spec.id if env.spec else str(env.unwrapped))
    return agent_actions(agent_observations(env, **observed), action_bound)


class FrameSkip(gymnasium.Wrapper):
    """Takes each action `skip` times, or until the episode finishes, and adds up the rewards."""

    def __init__(self, env: gymnasium.Env, skip: int) -> None:
        super().__init__(env)
        self.skip = skip

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        total, lost = 0.0, False
        for _ in range(self.skip):
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            # A life may be lost in a skipped frame.
            lost = lost or bool(info.get("life_lost", False))
            if terminated or truncated:
                break
        if "life_lost" in info:  # in any of these steps, not in the last alone
            info = info | {"life_lost": lost}
        return obs, total, terminated, truncated, info


@cache
def registered_by(id: str) -> list[str]:
    """The ids that the module in `module:Id` registers: new ones when it is imported, or with an entry point in it.

    Raises what importing the module raises; [] for an id without a module.
    """
    module, colon, _ = id.rpartition(":")
    if not colon:
        return []
    # Imported only once, so the answer is kept: a second call would find no new ids.
    before = set(gymnasium.registry)
    import_module(module)
    places = {name: str(getattr(s.entry_point, "__module__", s.entry_point)) for name, s in gymnasium.registry.items()}
    inside = {name for name, place in places.items() if re.match(rf"{re.escape(module)}([.:]|$)", place)}
    return sorted(inside | (set(gymnasium.registry) - before))


@cache
def warn_endless(name: str) -> None:
    """Warn once that the environment has no time limit."""
    log.warning(
        "%s has no time limit: unless it terminates episodes itself, evaluations never finish. %s", name, SET_LIMIT
    )


class CannotDraw(RuntimeError):
    """There will be no pictures; the message has the reason and what to do."""


def load_mujoco(drawing: bool = False) -> None:
    """Import MuJoCo, and have its warnings in the log; it would print them for every simulator, and into a file.

    It chooses how to draw while it is imported. Where MUJOCO_GL names what is not here it does without, as a simulator
    needs no pictures; with `drawing` this raises CannotDraw.
    """
    try:
        problem = _import_mujoco()
        import mujoco
    except ModuleNotFoundError:  # gymnasium reports it, with what to install
        return

    def warn(message: str) -> None:
        # Deprecations in a robot's file are for its author.
        log.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message)

    mujoco.set_mju_user_warning(warn)
    if drawing and not hasattr(mujoco, "GLContext"):
        raise CannotDraw(f"{problem}; MUJOCO_GL can be egl, osmesa or glfw where they are installed, or unset")


@cache
def _import_mujoco() -> str:
    """Why it cannot draw, if it cannot. Raises ModuleNotFoundError alone."""
    asked = os.environ.get("MUJOCO_GL", "")
    logging.getLogger("OpenGL").setLevel(logging.ERROR)  # it logs every library that it looked for
    try:
        import_module("mujoco")
    except ModuleNotFoundError:
        raise
    except Exception as error:
        # Whatever the library of graphics raises: ImportError, RuntimeError, or AttributeError where PyOpenGL has none.
        os.environ["MUJOCO_GL"] = "off"
        import_module("mujoco")
        return f"MUJOCO_GL={asked} draws nothing here ({str(error).strip().partition(chr(10))[0]})"
    return f"MUJOCO_GL={asked} draws nothing"


def _needs_mujoco(id: str) -> bool:
    spec = gymnasium.registry.get(id)
    return spec is not None and "mujoco" in str(spec.entry_point)


def _why(id: str, error: Exception) -> str:
    """gymnasium's error in a line, with other ids or the package to install; or the error inside the environment."""
    if not isinstance(error, gymnasium.error.Error | ImportError):
        cause = error.__cause__ if isinstance(error.__cause__, TypeError) else error  # gymnasium names all arguments
        cure = "; pass arguments as +env.make.NAME=VALUE" if "argument" in str(cause) else ""
        return f"making it raised {described(cause)}{cure}"
    text = (str(error).splitlines() or [type(error).__name__])[0]
    for package, cure in INSTALL.items():
        if isinstance(error, gymnasium.error.DependencyNotInstalled) and package.lower() in text.lower():
            return f"{package} is not installed: {cure}"
    return _unknown(id) if isinstance(error, gymnasium.error.UnregisteredEnv) else text


def _unknown(id: str) -> str:
    """Which ids there are instead: those of the module that `id` names, or one of gymnasium's that is close."""
    module, colon, name = id.rpartition(":")
    if colon:
        there = registered_by(id)
        which = f"it registers {', '.join(there[:SHOWN])}" + (f" and {len(there) - SHOWN} more" * (len(there) > SHOWN))
        return f"the module {module} registers no {name}; {which if there else 'it registers none'}"
    known = [x for x in gymnasium.registry if ":" not in x and "/" not in x]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    meant = f"; did you mean {close[0]}?" if close else "."
    return f"gymnasium knows none of this name{meant} One that a module of yours registers is my_module:{name}"
