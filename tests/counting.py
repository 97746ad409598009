"""Environments that say where they are, so that every row can be checked by looking at it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from mbrl_lab.env import Envs, episode_seed
from mbrl_lab.types import Step

Result = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


def length_of(seed: int) -> int:
    """How long the episode of this seed is: 1 to 6 steps."""
    return 1 + seed % 6


def is_terminal(seed: int) -> bool:
    """Whether it ends in a terminal state, or by a time limit."""
    return seed // 6 % 2 == 0


class Counting(gymnasium.Env):
    """Observes (its seed's identity, steps since the reset, the action that led here) and pays 10 * step + action."""

    def __init__(self, nan_at: tuple[int, str] = (-1, "")) -> None:
        self.observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = Discrete(4)
        self.nan_at, self.calls = nan_at, 0
        self.seed, self.time = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.seed, self.time = seed if seed is not None else self.seed, 0
        return self._observe(0.0), {}

    def step(self, action: Any) -> Result:
        self.time += 1
        self.calls += 1
        obs, reward = self._observe(float(action)), 10.0 * self.time + float(action)
        when, where = self.nan_at
        if self.calls == when:
            obs, reward = (obs * np.nan, reward) if where == "obs" else (obs, np.nan)
        over = self.time >= length_of(self.seed)
        return obs, reward, over and is_terminal(self.seed), over and not is_terminal(self.seed), {}

    def _observe(self, action: float) -> np.ndarray:
        return np.array([identity(self.seed), self.time, action], np.float32)


def identity(seed: int) -> int:
    """A seed as a number that float32 holds."""
    return seed % 2**20


class Point(gymnasium.Env):
    """A point on a line to be brought to 0 within 15 steps of at most 0.2: pays minus its distance from there."""

    observation_space = Box(-2, 2, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.x, self.time = np.zeros(1, np.float32), 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.time = self.np_random.uniform(-1, 1, 1).astype(np.float32), 0
        return self.x, {}

    def step(self, action: np.ndarray) -> Result:
        self.time += 1
        self.x = np.clip(self.x + 0.2 * np.clip(action, -1, 1), -2, 2).astype(np.float32)
        return self.x, -float(abs(self.x[0])), False, self.time >= 15, {}


def expected(seed: int, stream: int, num: int, actions: list[Tensor]) -> list[list[tuple[float, ...]]]:
    """By hand, for each environment: (identity, time, action, reward, terminal, first) of the reset and each step."""
    streams = []
    for env in range(num):
        episode, time = 0, 0
        now = episode_seed(seed, stream, env, episode)
        rows: list[tuple[float, ...]] = [(identity(now), 0, 0, 0, False, True)]
        for action in actions:
            if time == length_of(now):
                episode, time = episode + 1, 0
                now = episode_seed(seed, stream, env, episode)
                rows.append((identity(now), 0, 0, 0, False, True))
                continue
            time, a = time + 1, float(action[env])
            rows.append((identity(now), time, a, 10 * time + a, time == length_of(now) and is_terminal(now), False))
        streams.append(rows)
    return streams


def seen(steps: list[Step]) -> list[list[tuple[float, ...]]]:
    """The same of rows that came."""
    streams = []
    for env in range(len(steps[0].first)):
        rows = [s.at(env) for s in steps]
        assert all(float(r.action) == float(r.obs[2]) for r in rows), "an action is not the one that led here"
        streams.append([(*r.obs.tolist(), r.reward.item(), bool(r.terminal), bool(r.first)) for r in rows])
    return streams


def play(envs: Envs, count: int) -> tuple[list[Step], list[Tensor]]:
    """The first rows and `count` more, by random actions."""
    steps, actions = [envs.reset()], []
    for _ in range(count):
        actions.append(envs.spec.sample(envs.num))
        steps.append(envs.step(actions[-1]))
    return steps, actions
