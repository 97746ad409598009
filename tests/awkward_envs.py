"""Environments as people have them, with faults and limits; registered under their class's name."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete

Result = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class Blind(gymnasium.Env[Any, Any]):
    """Takes no render_mode and draws nothing. Walks by chance and by action; its episodes last 4 to 12 steps."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(4, 13))
        self.x = self.np_random.normal()
        return self._observe(), {}

    def step(self, action: Any) -> Result:
        self.time += 1
        self.x += 0.1 * self.np_random.normal() + 0.2 * (float(action) - 0.5)
        return self._observe(), -abs(self.x), self.time >= self.length, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([self.x, self.time / 10], np.float32)


class Drawn(Blind):
    """Shows a grey square that gets brighter."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def render(self) -> Any:
        return np.full((16, 16, 3), 10 * self.time, np.uint8)


class Pictured(Blind):
    """Observed as a picture of where it is and how long, in a moment; its episodes last 10 to 40 steps."""

    observation_space = Box(0, 255, (40, 40), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.length = int(self.np_random.integers(10, 41))
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        image = np.zeros((40, 40), np.uint8)
        image[: 1 + self.time % 40, int(np.clip(20 + 5 * self.x, 0, 38)) :][:, :2] = 50 + 5 * self.time
        return image


class Lonely(Drawn):
    """Cannot be made while another of its kind lives."""

    alive = made = 0

    def __init__(self, render_mode: str | None = None) -> None:
        if Lonely.alive:
            raise RuntimeError("a second simulator: the port is in use")
        super().__init__(render_mode)
        Lonely.alive, Lonely.made, self.open = 1, Lonely.made + 1, True

    def close(self) -> None:
        if self.open:
            Lonely.alive, self.open = 0, False


class Unclosable(Drawn):
    """Raises when it is closed."""

    def close(self) -> None:
        raise OSError("the simulator does not answer")


class Unending(Drawn):
    """Its episodes never end, neither by themselves nor by a time limit."""

    def step(self, action: Any) -> Result:
        return *super().step(action)[:2], False, False, {}


class Careless(Drawn):
    """Draws by random numbers that belong to everybody."""

    def render(self) -> Any:
        return super().render() + np.random.randint(2) + int(torch.randint(2, ()))


class Slow(Drawn):
    """Takes 20 ms for a step."""

    def step(self, action: Any) -> Result:
        time.sleep(0.02)
        return super().step(action)


for _env in (Blind, Drawn, Pictured, Lonely, Unclosable, Unending, Careless, Slow):
    if _env.__name__ not in gymnasium.registry:
        limit = None if _env is Unending else 1_000
        gymnasium.register(_env.__name__, entry_point=_env, max_episode_steps=limit)
