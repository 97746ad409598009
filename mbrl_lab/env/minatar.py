"""MinAtar: one game for videos, and a vector of games for training."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mbrl_lab.env.minatar_games import ACTIONS, SIDE, Breakout, Game, SpaceInvaders
from mbrl_lab.env.minatar_seaquest import Seaquest
from mbrl_lab.env.minatar_traffic import Asterix, Freeway

GAMES: dict[str, type[Game]] = {
    "asterix": Asterix,
    "breakout": Breakout,
    "freeway": Freeway,
    "seaquest": Seaquest,
    "spaceinvaders": SpaceInvaders,
}
PIXELS = 32  # side of a cell in a picture
COLOURS = np.array(
    [
        *([255, 255, 255], [255, 107, 107], [120, 84, 180], [78, 205, 196], [255, 209, 102], [255, 105, 220]),
        *([120, 160, 255], [70, 90, 110], [150, 220, 90], [255, 160, 60]),
    ],
    np.uint8,
)
"""Of the channels of a game, in their order."""
FPS = 15


class Session:
    """A game with sticky actions, a choice of actions, and a time limit of `max_steps` (0: none).

    With probability `sticky` the previous action is repeated; the first one is noop.
    Raises ValueError with the setting that is invalid.
    """

    def __init__(self, game: str, sticky: float, minimal_actions: bool, max_steps: int) -> None:
        require(game in GAMES, "game", game, " | ".join(GAMES))
        require(0 <= sticky <= 1, "sticky", sticky, "from 0 to 1")
        require(isinstance(minimal_actions, bool), "minimal_actions", minimal_actions, "true | false")
        require(isinstance(max_steps, int) and max_steps >= 0, "max_steps", max_steps, "a whole number from 0")
        self.game = GAMES[game]()
        self.sticky = sticky
        self.max_steps = max_steps
        self.actions = self.game.minimal if minimal_actions else tuple(range(len(ACTIONS)))
        self.action_meanings = [ACTIONS[a] for a in self.actions]
        self.shape = len(self.game.channels), SIDE, SIDE
        self.observation_space = Box(0, 1, self.shape, np.uint8)
        self.action_space = Discrete(len(self.actions))

    def reset(self, random: np.random.Generator) -> None:
        """Begin an episode; all of its random numbers come from `random`."""
        # `last` is cleared, so that an episode does not depend on the one before.
        self.random, self.last, self.time = random, 0, 0
        self.game.reset(random)

    def step(self, action: int) -> tuple[int, bool, bool]:
        """(reward, terminated, truncated)."""
        # Without sticky actions no number is drawn, so the game's own numbers are the authors'.
        if not self.sticky or self.random.random() >= self.sticky:
            self.last = self.actions[action]
        self.time += 1
        reward, terminated = self.game.step(self.last)
        # A game that ends at the limit has ended: nothing is bootstrapped there.
        return reward, terminated, self.time == self.max_steps and not terminated

    def packed(self) -> bytes:
        """The cells of all channels, one bit each."""
        # Python's integers have as many bits as are needed; a step of a game then costs microseconds.
        whole = 0
        for channel, board in enumerate(self.game.boards()):
            whole |= board << SIDE * SIDE * channel
        cells = len(self.game.channels) * SIDE * SIDE
        return whole.to_bytes(-(-cells // 8), "little")


def require(holds: bool, name: str, value: Any, allowed: str) -> None:
    if not holds:
        raise ValueError(f"env.make.{name} is {value!r}; it must be {allowed}")


def unpack(sessions: list[bytes], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """[N, C, 10, 10] of 0 and 1."""
    rows = np.frombuffer(b"".join(sessions), np.uint8).reshape(len(sessions), -1)
    return np.unpackbits(rows, axis=1, count=math.prod(shape), bitorder="little").reshape(-1, *shape)


class MinAtar(gymnasium.Env[NDArray[np.uint8], Any]):
    """One game. Observations [C, 10, 10] of 0 and 1: a channel for each kind of object."""

    def __init__(
        self, game: str, sticky: float, minimal_actions: bool, max_steps: int, render_mode: str | None = None
    ) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}
        require(render_mode in (None, "rgb_array"), "render_mode", render_mode, "rgb_array")
        self.session = Session(game, sticky, minimal_actions, max_steps)
        self.render_mode = render_mode
        self.action_meanings = self.session.action_meanings
        self.observation_space = self.session.observation_space
        self.action_space = self.session.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.session.reset(self.np_random)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        reward, terminated, truncated = self.session.step(int(action))
        return self._observe(), float(reward), terminated, truncated, {}

    def render(self) -> NDArray[np.uint8]:
        """[320, 320, 3]: a colour for each channel."""
        picture = np.zeros((SIDE, SIDE, 3), np.uint8)
        # Channels overlap, so the game says which is drawn last.
        obs = self._observe().astype(bool)
        for channel in self.session.game.layers:
            picture[obs[channel]] = COLOURS[channel]
        return picture.repeat(PIXELS, 0).repeat(PIXELS, 1)

    def _observe(self) -> NDArray[np.uint8]:
        return unpack([self.session.packed()], self.session.shape)[0]


class MinAtarVector(VectorEnv[NDArray[np.uint8], NDArray[Any], NDArray[Any]]):
    """`num` games in one object: equal to a SyncVectorEnv of MinAtar, with less overhead.

    Next-step autoreset; `reset` takes a seed for each game, and options={"reset_mask": [num] bool}.
    """

    def __init__(self, num: int, game: str, sticky: float, minimal_actions: bool, max_steps: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_fps": FPS}
        self.sessions = [Session(game, sticky, minimal_actions, max_steps) for _ in range(num)]
        self.randoms = [np.random.default_rng() for _ in range(num)]
        self.done = np.zeros(num, bool)
        self.spec = EnvSpec(f"MinAtar/{game}-v1", max_episode_steps=max_steps or None)
        self.num_envs = num
        self.action_meanings = self.sessions[0].action_meanings
        self.channels = self.sessions[0].game.channels
        self.single_observation_space = self.sessions[0].observation_space
        self.single_action_space = self.sessions[0].action_space
        self.observation_space = batch_space(self.single_observation_space, num)
        self.action_space = batch_space(self.single_action_space, num)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        seeds = seed if isinstance(seed, list) else [None if seed is None else seed + i for i in range(self.num_envs)]
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        # Without a seed a game continues its generator, as gymnasium's own environments do.
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                self.randoms[i] = np_random(seeds[i])[0]
            self.sessions[i].reset(self.randoms[i])
        self.done[mask] = False
        return self._observe(), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.uint8], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        reward = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for i, (session, done) in enumerate(zip(self.sessions, self.done.tolist(), strict=True)):
            # Next-step autoreset: the step after the last one of an episode is a reset, and its action is ignored.
            if done:
                session.reset(self.randoms[i])
            else:
                reward[i], terminated[i], truncated[i] = session.step(int(actions[i]))
        self.done = terminated | truncated
        return self._observe(), reward, terminated, truncated, {}

    def _observe(self) -> NDArray[np.uint8]:
        return unpack([session.packed() for session in self.sessions], self.sessions[0].shape)
