"""The tasks of homework 4 of UC Berkeley's CS 285 (fall 2022), with an arm of our own: see docs/cs285.md."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray
from torch import Tensor

from mbrl_lab.env import cs285_physics as physics
from mbrl_lab.env.gym import load_mujoco

# Before these import MuJoCo, which would fail if its renderer is not installed.
load_mujoco()
import mujoco  # noqa: E402
from gymnasium.envs.mujoco import MujocoEnv  # noqa: E402

Array = NDArray[Any]
Answer = tuple[Array, float, bool, bool, dict[str, Any]]

ARM = Path(__file__).with_name("cs285_arm.xml")
DRAWN = ["human", "rgb_array", "depth_array", "rgbd_tuple"]


class Cheetah(MujocoEnv):
    """gymnasium's half cheetah, one MuJoCo step of 0.01 s at a time.

    Observes 9 positions (including the root's x), 9 velocities and the torso's position, which MuJoCo computes one step
    late, as in the homework.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        space = Box(-np.inf, np.inf, (21,), np.float64)
        super().__init__("half_cheetah.xml", 1, space, render_mode, camera_name="track")

    def reset_model(self) -> Array:
        position = self.init_qpos + self.np_random.uniform(-0.1, 0.1, self.model.nq)
        self.set_state(position, self.init_qvel + 0.1 * self.np_random.standard_normal(self.model.nv))
        return self._observe()

    def step(self, action: Array) -> Answer:  # type: ignore[override]
        self.do_simulation(action, self.frame_skip)
        obs = self._observe()
        return obs, scalar(physics.cheetah_reward, obs, action, obs), False, False, {}

    def step_from(self, obs: Array, action: Array) -> Array:
        """The next observation, from a given one."""
        self.data.qpos, self.data.qvel, self.data.ctrl = obs[:9], obs[9:18], action
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        return self._observe()

    def _observe(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.body("torso").xpos])


class Reacher(MujocoEnv):
    """An arm of seven joints that has to hold its fingertip at (0.1, 0.1, 0.1), two MuJoCo steps of 0.01 s at a time.

    Observes 7 angles, their velocities / 10, fingertip and target. Every episode begins in the same state.
    """

    camera: ClassVar[dict[str, Any]] = {
        "distance": 2.2,
        "azimuth": 120.0,
        "elevation": -25.0,
        "lookat": np.array([0.2, -0.2, 0.0]),
    }

    def __init__(self, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": DRAWN, "render_fps": 50}
        space = Box(-np.inf, np.inf, (20,), np.float64)
        super().__init__(str(ARM), 2, space, render_mode, default_camera_config=self.camera)

    def reset_model(self) -> Array:
        self.set_state(self.init_qpos, self.init_qvel)
        return self._observe()

    def step(self, action: Array) -> Answer:  # type: ignore[override]
        self.do_simulation(action, self.frame_skip)
        # `mj_step` leaves the fingertip one step behind the angles.
        mujoco.mj_kinematics(self.model, self.data)
        obs = self._observe()
        return obs, scalar(physics.reacher_reward, obs, action, obs), False, False, {}

    def step_from(self, obs: Array, action: Array) -> Array:
        """The next observation, from a given one."""
        self.data.qpos, self.data.qvel, self.data.ctrl = obs[:7], 10 * obs[7:14], action
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        mujoco.mj_kinematics(self.model, self.data)
        return self._observe()

    def _observe(self) -> Array:
        fingertip, target = self.data.site("fingertip").xpos, self.data.site("target").xpos
        return np.concatenate([self.data.qpos, self.data.qvel / 10, fingertip, target])


class Obstacles(gymnasium.Env[Array, Array]):
    """A point in a square that has to go around rectangles to (0.7, -0.8). Observes its position and the goal's."""

    goal: ClassVar[tuple[float, float]] = (0.7, -0.8)
    low: ClassVar[tuple[float, float]] = (-0.99, 0.26)
    high: ClassVar[tuple[float, float]] = (0.59, 0.99)
    side: ClassVar[int] = 240

    def __init__(self, render_mode: str | None = None) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
        self.render_mode = render_mode
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = Box(-1, 1, (2,), np.float32)
        self.obs = np.array([0.0, 0.0, *self.goal])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start at a random free position in the upper left."""
        super().reset(seed=seed)
        # Rejection sampling: drawn again until it is outside of all rectangles.
        while not physics.free(torch.as_tensor(at := self.np_random.uniform(self.low, self.high))[None]):
            pass
        self.obs = np.array([*at, *self.goal])
        return self.obs, {}

    def step(self, action: Array) -> Answer:
        before, sent = torch.as_tensor(self.obs)[None], torch.as_tensor(action, dtype=torch.float64)[None]
        self.obs = physics.obstacles_next_obs(before, sent)[0].numpy()
        reward = scalar(physics.obstacles_reward, self.obs, action, self.obs)
        return self.obs, reward, bool(scalar(physics.obstacles_termination, self.obs, action, self.obs)), False, {}

    def render(self) -> Array:
        """[side, side, 3]: rectangles grey, the goal green, the point black."""
        # Centres of the pixels, in the units of the square.
        centre = (np.arange(self.side) + 0.5) / self.side * 2 - 1
        x, y = np.meshgrid(centre, -centre)
        picture = np.full((self.side, self.side, 3), 255, np.uint8)
        for left, top, width, height in physics.OBSTACLES:
            picture[(x > left) & (x < left + width) & (y < top) & (y > top - height)] = 150
        picture[np.maximum(abs(x), abs(y)) > physics.BORDER] = 90
        px, py, gx, gy = self.obs
        picture[(x - gx) ** 2 + (y - gy) ** 2 < physics.GOAL_RADIUS**2] = (80, 180, 90)
        picture[(x - px) ** 2 + (y - py) ** 2 < 0.03**2] = 0
        return picture


TASKS: dict[str, Callable[..., gymnasium.Env]] = {"cheetah": Cheetah, "obstacles": Obstacles, "reacher": Reacher}


def make_cs285(task: str, max_episode_steps: int, render_mode: str | None = None) -> gymnasium.Env:
    """cheetah, obstacles or reacher, with a time limit, which is not terminal."""
    load_mujoco(drawing=render_mode is not None)
    if task not in TASKS:
        raise ValueError(f"env.make.task is {task!r}; it must be {' | '.join(TASKS)}")
    return TimeLimit(TASKS[task](render_mode=render_mode), max_episode_steps)


@cache
def simulator(task: str) -> Any:
    return TASKS[task]()


def simulated(obs: Tensor, action: Tensor, task: str) -> Tensor:
    """[N, D], [N, A] -> [N, D]: the next observations by MuJoCo itself, one by one, for `dynamics=analytic`.

    It is slow, some 50,000 states per second, but exact.
    """
    env = simulator(task)
    # MuJoCo computes in double precision, on the CPU.
    states, actions = (x.double().cpu().numpy() for x in (obs, action))
    after = [env.step_from(*row) for row in zip(states, actions, strict=True)]
    return torch.as_tensor(np.stack(after), dtype=obs.dtype, device=obs.device)


def scalar(head: Callable[[Tensor, Tensor, Tensor], Tensor], *of: Array) -> float:
    """The value of a batched function at a single (obs, action, next_obs)."""
    return float(head(*(torch.as_tensor(x)[None] for x in of))[0])
