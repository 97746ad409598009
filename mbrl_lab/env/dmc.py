"""The DeepMind Control suite (Tassa et al. 2018) as gymnasium environments: `env=dmc env.task=hopper-stand`."""

from __future__ import annotations

import difflib
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from gymnasium.wrappers import HumanRendering
from numpy.typing import NDArray

from mbrl_lab.env.gym import load_mujoco, wrapped
from mbrl_lab.env.vector import warn_once

Array = NDArray[Any]

EPISODE = 1_000
"""Control steps after which dm_control truncates an episode, in each of these tasks."""

SIDE = 480
"""Pixels of a picture's side."""

LEFT_OUT = {
    "lqr-lqr_2_1": "its actions have no bounds and its episodes no time limit",
    "lqr-lqr_6_2": "its actions have no bounds and its episodes no time limit",
    "quadruped-escape": "dm_control resets it only with a renderer of its own",
}


class ControlTask(gymnasium.Env[Array, Array]):
    """One task, DOMAIN-TASK as dm_control names it.

    Observes all arrays of the task in dm_control's order, flattened, as float32. dm_control's discount 0 is a
    termination, its time limit a truncation. A simulation that diverges, which is rare, has no next state: the episode
    is truncated at the state before, with `diverged` in its infos, by which `Envs` stores no transition.
    An episode is a function of its seed and its actions: `reset` seeds the task's random state, and dm_control resets
    everything of MuJoCo's state, the time and the solver's warm start too.
    """

    trusted_infos = ("diverged",)

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        domain, name = checked_task(task)
        self.task = task
        # The seed is for what a domain draws while it is built; `reset` gives another.
        self.inner: Any = load_suite().load(domain, name, task_kwargs={"random": 0})
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / self.inner.control_timestep())}
        self.render_mode = render_mode
        self.renderer: Any = None

        size = sum(math.prod(part.shape) for part in self.inner.observation_spec().values())
        action = self.inner.action_spec()
        low, high = action.minimum.astype(np.float32), action.maximum.astype(np.float32)
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float32)
        self.action_space = Box(low, high, dtype=np.float32)
        self.obs = np.zeros(size, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.inner.task.random.seed(int(self.np_random.integers(2**32)))
        self.obs = flat(self.inner.reset().observation)
        return self.obs, {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        from dm_control.rl.control import PhysicsError

        try:
            time_step = self.inner.step(action)
        except PhysicsError as error:
            # An error here would stop the run at the same step whenever it is resumed.
            warn_once(f"env.task={self.task}: {' '.join(str(error).split())} The episode is cut before that step")
            return self.obs, 0.0, False, True, {"diverged": True}
        # The suite marks a termination by a discount of 0; a last step with another discount is its time limit.
        self.obs = flat(time_step.observation)
        terminated = time_step.last() and time_step.discount == 0
        return self.obs, float(time_step.reward), terminated, time_step.last() and not terminated, {}

    def render(self) -> Array:
        """[480, 480, 3], by the task's first camera."""
        if self.renderer is None:
            from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

            physics = self.inner.physics
            self.renderer = MujocoRenderer(physics.model.ptr, physics.data.ptr, None, SIDE, SIDE, camera_id=0)
        picture: Array = self.renderer.render("rgb_array")
        return picture

    def close(self) -> None:
        if self.renderer is not None:
            self.renderer.close()
        self.renderer = None
        self.inner.close()


def make_dmc(task: str, frame_skip: int, render_mode: str | None = None) -> gymnasium.Env:
    """A task of the suite with actions in [-1, 1], each of them taken `frame_skip` times.

    render_mode: None, rgb_array or human (a window). ValueError, one line, for an unknown task or without dm-control.
    """
    load_mujoco(drawing=render_mode is not None)
    env = ControlTask(task, "rgb_array" if render_mode else None)
    env.spec = EnvSpec(f"dm_control/{task}", max_episode_steps=math.ceil(EPISODE / frame_skip))
    env.metadata["render_fps"] = max(1, env.metadata["render_fps"] // frame_skip)
    return wrapped(HumanRendering(env) if render_mode == "human" else env, frame_skip=frame_skip)


def flat(observation: dict[str, Any]) -> Array:
    """The arrays and numbers of an observation in a row, in its own order."""
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which `Envs` rejects
        return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


def tasks() -> list[str]:
    """DOMAIN-TASK of all that can be trained on."""
    return sorted({f"{domain}-{name}" for domain, name in load_suite().ALL_TASKS} - set(LEFT_OUT))


def checked_task(task: str) -> tuple[str, str]:
    """Domain and name of a task. ValueError, with the nearest one, for a task that the suite has not."""
    known = tasks()
    if task in LEFT_OUT:
        raise ValueError(f"env.task is {task!r}, which is left out here: {LEFT_OUT[task]}")
    if task not in known:
        # Compared without dashes and underscores: both are written in papers.
        plain = {re.sub(r"[^a-z0-9]", "", name.lower()): name for name in known}
        close = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", task.lower()), plain, n=1, cutoff=0.85)
        beside = [name for name in known if name.partition("-")[0] == task.partition("-")[0]]
        domains = ", ".join(dict.fromkeys(name.partition("-")[0] for name in known))
        hint = (
            f"did you mean {plain[close[0]]}?" if close else f"it has {', '.join(beside) or f'the domains {domains}'}"
        )
        raise ValueError(f"env.task is {task!r}, which the DeepMind Control suite does not have; {hint}")
    domain, _, name = task.partition("-")
    return domain, name


@cache
def load_suite() -> Any:
    """dm_control's module `suite`. ValueError where it is not installed."""
    load_mujoco()
    try:
        with no_opengl():
            from dm_control import suite
    except ModuleNotFoundError as error:
        raise ValueError(f'env=dmc: {error.name} is not installed: pip install "mbrl_lab[dmc]"') from error
    forget_missing_fields()
    spare_standard_error()
    load_mujoco()  # dm_control takes MuJoCo's warnings, and prints them
    return suite


@contextmanager
def no_opengl() -> Iterator[None]:
    """Keep dm_control, while it is imported, from looking for OpenGL, with warnings where there is none.

    gymnasium draws here, as it does for its own robots, and looks for OpenGL only then.
    """
    asked = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = "off"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]
        if asked is not None:
            os.environ["MUJOCO_GL"] = asked


def spare_standard_error() -> None:
    """Keep absl's logging, which dm_control imports, from closing what stood for standard error at its import.

    Any configuration of Python's logging closes all handlers, and absl's closes its stream unless it is the process'
    own standard error.
    """
    from absl import logging

    logging.get_absl_handler().python_handler.setStream(sys.__stderr__)


def forget_missing_fields() -> None:
    """Drop the fields that this MuJoCo no longer has from dm_control's list, which would fail on them.

    A release of dm_control knows the fields of one version of MuJoCo: 1.0.50 those of 3.17, and 4.0 has fewer.
    """
    import mujoco
    from dm_control.mujoco.wrapper.mjbindings import sizes

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    for name, struct in (("mjmodel", model), ("mjdata", mujoco.MjData(model))):
        fields = sizes.array_sizes[name]
        for missing in [field for field in fields if not hasattr(struct, field)]:
            del fields[missing]
