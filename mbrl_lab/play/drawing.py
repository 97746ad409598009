"""Pictures of observations: images as they are, vectors as the environment draws the state that they describe."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from imageio.v3 import imwrite
from numpy.typing import NDArray
from torch import Tensor

from mbrl_lab.report.sequence import coloured
from mbrl_lab.tracking.video import Frame, drawing_env, frame_of, headless, prefer_offscreen, reason
from mbrl_lab.types import EnvSpec

log = logging.getLogger("mbrl_lab")

HIDDEN = 2
"""MuJoCo's robots leave out at most so many coordinates, those of their place in the world."""


class Drawing:
    """Draws observations of one environment; vectors only where its state follows from them.

    Args:
        spec: of the observations.
        brightest: the largest value of a pixel.
        make: makes the environment, given a render_mode.
    """

    def __init__(self, spec: EnvSpec, brightest: float, make: Callable[..., gymnasium.Env[Any, Any]]) -> None:
        self.channels = spec.obs_shape[0] // spec.stack
        self.brightest = brightest
        self.images = len(spec.obs_shape) == 3
        self.env: gymnasium.Env[Any, Any] | None = None
        self.why_not = ""
        if not self.images:
            try:
                self._open(make)
            except Exception as error:
                self.why_not = reason(error)

    def _open(self, make: Callable[..., gymnasium.Env[Any, Any]]) -> None:
        """Make the environment that draws. ValueError or RuntimeError if it cannot draw an observation."""
        if headless():
            prefer_offscreen()
        env = drawing_env(make)
        try:
            obs, _ = env.reset(seed=0)
            put_into_state(env.unwrapped, np.asarray(obs, np.float64))
        except BaseException:
            env.close()
            raise
        self.env = env

    def picture(self, obs: Tensor) -> str | None:
        """An observation [*obs_shape] as the address of a PNG file; None if it cannot be drawn."""
        if self.images:
            return address(coloured(obs[-self.channels :].float().cpu() / self.brightest)[:-1, :-1])
        if self.env is None:
            return None
        put_into_state(self.env.unwrapped, obs.double().cpu().numpy())
        return address(frame_of(self.env))

    def close(self) -> None:
        if self.env is not None:
            self.env.close()


def address(frame: Frame) -> str:
    """A picture as a data: address."""
    return "data:image/png;base64," + base64.b64encode(imwrite("<bytes>", frame, extension=".png")).decode("ascii")


def put_into_state(env: Any, obs: NDArray[np.float64]) -> None:
    """Set the environment to the state that it observes as `obs`. ValueError if that is not known.

    A predicted observation need not be a possible one: the drawing shows the nearest state.
    """
    name = type(env).__name__
    if name in ("CartPoleEnv", "MountainCarEnv", "Continuous_MountainCarEnv"):
        env.state = obs
    elif name == "PendulumEnv":
        env.state, env.last_u = np.array([np.arctan2(obs[1], obs[0]), obs[2]]), None
    elif name == "AcrobotEnv":
        env.state = np.array([np.arctan2(obs[1], obs[0]), np.arctan2(obs[3], obs[2]), *obs[4:]])
    elif not put_robot_into_state(env, obs):
        raise ValueError(f"the state of {name} does not follow from its observations")


def put_robot_into_state(env: Any, obs: NDArray[np.float64]) -> bool:
    """The same for MuJoCo's robots, whose observations are positions, without some of the first, and velocities."""
    if not hasattr(env, "set_state"):
        return False
    hidden = env.model.nq + env.model.nv - len(obs)
    if not 0 <= hidden <= HIDDEN:
        return False
    positions = np.concatenate([env.init_qpos[:hidden], obs[: env.model.nq - hidden]])
    env.set_state(positions, obs[env.model.nq - hidden :])
    return bool(np.allclose(env._get_obs(), obs, atol=1e-4))
