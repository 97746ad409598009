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
"""Maximum number of ids of a module that a message lists."""

SET_LIMIT = (
    "env.max_steps=1000 with env=gym sets a limit, for a run in a new folder: one that has begun keeps its settings"
)
"""What to do about episodes that may never finish."""

INSTALL = {"Box2D": "pip install 'gymnasium[box2d]'", "MuJoCo": "pip install 'gymnasium[mujoco]'"}


def make_gym(id: str, **kwargs: Any) -> gymnasium.Env:
    """A gymnasium environment by its id, made with `kwargs`, with the spaces that agents use.

    Continuous actions are rescaled to [-1, 1], images are transposed to [C, H, W], infos are dropped, and returned
    values are checked. ValueError, one line, for an unknown id, a missing package, and unusable spaces.
    """
    return make_gym_with(id, {}, **kwargs)


def make_gym_with(id: str, wrap: Mapping[str, Any], **kwargs: Any) -> gymnasium.Env:
    """The same with the arguments `wrap` of `wrapped`, see conf/env/gym.yaml."""
    if _needs_mujoco(id):
        load_mujoco(drawing=kwargs.get("render_mode") is not None)

    # Before gymnasium imports the module, to find out which ids it registers.
    with contextlib.suppress(Exception):  # gymnasium will report the error
        registered_by(id)

    # The registered time limit would truncate earlier than a longer `max_steps`.
    limit = {} if wrap.get("max_steps") is None else {"max_episode_steps": -1}
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
        max_steps: truncates episodes after this number of the agent's steps, not earlier; None: `env`'s own limit.
        frame_skip: how many times each action is repeated; rewards are added up.
        action_bound: the bound of action dimensions that have none.
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
        if "life_lost" in info:  # in any of these steps, not only in the last one
            info = info | {"life_lost": lost}
        return obs, total, terminated, truncated, info


@cache
def registered_by(id: str) -> list[str]:
    """The ids that the module in `module:Id` registers: those new after its import, or with an entry point in it.

    Raises the exceptions of the import; [] for an id without a module.
    """
    module, colon, _ = id.rpartition(":")
    if not colon:
        return []
    # A module is imported only once: a second call would find no new ids, so the result is cached.
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
    """Rendering is impossible; the message has the reason and the remedy."""


def load_mujoco(drawing: bool = False) -> None:
    """Import MuJoCo, and redirect its warnings to the log; it would print them for every simulator, and into a file.

    It chooses its renderer during the import. If MUJOCO_GL names one that is not installed it is imported without a
    renderer, which simulation does not need; with `drawing` this raises CannotDraw.
    """
    try:
        problem = _import_mujoco()
        import mujoco
    except ModuleNotFoundError:  # gymnasium reports it, with what to install
        return

    def warn(message: str) -> None:
        # Deprecations in a robot's file concern its author, not the user.
        log.log(logging.DEBUG if "deprecated" in message else logging.WARNING, "MuJoCo: %s", message)

    mujoco.set_mju_user_warning(warn)
    if drawing and not hasattr(mujoco, "GLContext"):
        raise CannotDraw(f"{problem}; MUJOCO_GL can be egl, osmesa or glfw where they are installed, or unset")


@cache
def _import_mujoco() -> str:
    """Import it; returns why it cannot render, if it cannot. Raises only ModuleNotFoundError."""
    given = os.environ.get("MUJOCO_GL", "")
    logging.getLogger("OpenGL").setLevel(logging.ERROR)  # it logs every library that it searched for
    try:
        import_module("mujoco")
    except ModuleNotFoundError:
        raise
    except Exception as error:
        # Graphics libraries raise ImportError, RuntimeError, or AttributeError (PyOpenGL without a library).
        os.environ["MUJOCO_GL"] = "off"
        import_module("mujoco")
        return f"MUJOCO_GL={given} draws nothing here ({str(error).strip().partition(chr(10))[0]})"
    return f"MUJOCO_GL={given} draws nothing"


def _needs_mujoco(id: str) -> bool:
    spec = gymnasium.registry.get(id)
    return spec is not None and "mujoco" in str(spec.entry_point)


def _why(id: str, error: Exception) -> str:
    """gymnasium's error in one line, with similar ids or the package to install; or the environment's own error."""
    if not isinstance(error, gymnasium.error.Error | ImportError):
        cause = error.__cause__ if isinstance(error.__cause__, TypeError) else error  # gymnasium names all arguments
        cure = "; pass arguments as +env.make.NAME=VALUE" if "argument" in str(cause) else ""
        return f"making it raised {described(cause)}{cure}"

    # gymnasium's own errors: a missing package, or an unknown id.
    text = (str(error).splitlines() or [type(error).__name__])[0]
    for package, cure in INSTALL.items():
        if isinstance(error, gymnasium.error.DependencyNotInstalled) and package.lower() in text.lower():
            return f"{package} is not installed: {cure}"
    return _unknown(id) if isinstance(error, gymnasium.error.UnregisteredEnv) else text


def _unknown(id: str) -> str:
    """Valid ids: those of the module that `id` names, or the most similar one of gymnasium."""
    module, colon, name = id.rpartition(":")
    if colon:
        there = registered_by(id)
        which = f"it registers {', '.join(there[:SHOWN])}" + (f" and {len(there) - SHOWN} more" * (len(there) > SHOWN))
        return f"the module {module} registers no {name}; {which if there else 'it registers none'}"

    # Ids of packages and namespaces are left out: they are long, and misspelt ids rarely mean them.
    known = [x for x in gymnasium.registry if ":" not in x and "/" not in x]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    meant = f"; did you mean {close[0]}?" if close else "."
    return f"gymnasium has no environment of this name{meant} An id that your own module registers is my_module:{name}"
