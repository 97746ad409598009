"""Atari games in ale_py's own vector environment, by the rules of one of two protocols (docs/environments.md)."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ale_py
import gymnasium
import numpy as np
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import VectorEnv
from gymnasium.wrappers import HumanRendering
from numpy.typing import NDArray

FIRE = 1
"""Its index among the actions of every game that has it."""

GAMES_PER_SEED = 32
"""Consecutive games of one emulator seed. Without sticky actions the emulator's seed and the game's number determine a
game, and the next game is 90 ms cheaper than a new seed. So a game's seed encodes both: seed // 32 and seed % 32."""

NATIVE: dict[str, Any] = {"img_height": 210, "img_width": 160, "grayscale": False, "stack_num": 1}
"""The game's own picture, for videos."""


@dataclass(frozen=True)
class Protocol:
    """The rules under which a game is played."""

    sticky: float  # probability that the previous action is repeated
    noops: int  # maximum number of no-op frames at the beginning of an episode
    all_actions: bool  # all 18, or only those with an effect in this game
    lives: bool  # a lost life is terminal, and FIRE is pressed if the game waits for it


PROTOCOLS = {
    "100k": Protocol(sticky=0.0, noops=30, all_actions=False, lives=True),
    "machado": Protocol(sticky=0.25, noops=0, all_actions=True, lives=False),
}


class AtariVector(VectorEnv):
    """`num` games of [frame_stack, 84, 84] uint8, stepped in parallel threads; scores are raw, episodes full games.

    `info["life_lost"]` [num]: a life was lost and the game continues. With `serve`, FIRE is pressed instead of the
    agent's action at the next step, and `info["action"]` [num] has the actions that were taken. Consecutive games of
    one emulator have consecutive seeds; after `games_per_seed` of them it is seeded again.
    Raises ValueError for an unknown game, or one whose number of actions is not `actions`.
    """

    trusted_infos = ("action", "life_lost")

    def __init__(
        self,
        num: int,
        game: str,
        protocol: str,
        frame_stack: int,
        frame_skip: int,
        serve: bool,
        actions: int | None,
        **picture: Any,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"env.protocol is {protocol!r}; it must be {' or '.join(PROTOCOLS)}")
        check_game(game)
        rules = PROTOCOLS[protocol]

        # ale_py could clip rewards and press FIRE by itself; but learners clip, and an action must be recorded.
        self.games = AtariVectorEnv(
            game,
            num,
            **{"stack_num": frame_stack} | picture,
            frameskip=frame_skip,
            repeat_action_probability=rules.sticky,
            noop_max=rules.noops,
            full_action_space=rules.all_actions,
            life_loss_info=rules.lives,
            use_fire_reset=rules.lives,
            reward_clipping=False,
        )

        self.num_envs = num
        self.stack = frame_stack
        self.channels = [f"{k} before" for k in range(frame_stack - 1, 0, -1)] + ["now"]
        self.single_observation_space = self.games.single_observation_space
        self.single_action_space = self.games.single_action_space
        self.observation_space = self.games.observation_space
        self.action_space = self.games.action_space

        self.action_meanings = [action.name for action in self.games.ale.get_action_set()]
        check_spaces(self, None if rules.all_actions else actions, (frame_stack, 84, 84) if not picture else None)

        self.serve = serve and rules.lives and self.action_meanings[FIRE] == "FIRE"
        self.games_per_seed = 1 if rules.sticky else GAMES_PER_SEED
        self.lives = np.zeros(num, np.int32)
        self.waiting = np.zeros(num, bool)
        self.done = np.zeros(num, bool)
        self.begun = np.full(num, -1)  # the seed of a game that has just begun, otherwise -1
        self.game = np.full(num, -1)  # the seed of each game

    def reset(  # type: ignore[override]
        self, *, seed: Sequence[int | None], options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Reset the games of `options["reset_mask"]`, or all, with one seed for each game."""
        # The autoreset of `step` has already begun the next game of an emulator; often it is the wanted one.
        mask = options["reset_mask"] if options else np.ones(self.num_envs, bool)
        wanted = np.array([-1 if s is None else s for s in seed])
        due = mask & (wanted != self.begun)
        if due.any():
            self._begin(due, wanted)
        self.begun = np.where(mask, wanted, self.begun)
        self.game = np.where(mask, wanted, self.game)
        self.waiting, self.done = self.waiting & ~mask, self.done & ~mask
        return self.obs, {}

    def _begin(self, mask: NDArray[np.bool_], seeds: NDArray[np.int64]) -> None:
        """Seed those emulators, then begin game after game until each is at the wanted one."""
        console, number = np.divmod(seeds, self.games_per_seed)
        self.obs, info = self.games.reset(seed=console[mask] % 2**31, options={"reset_mask": mask})
        for played in range(int(number[mask].max())):
            chosen = mask & (number > played)
            self.obs, info = self.games.reset(seed=np.full(chosen.sum(), -1), options={"reset_mask": chosen})
        self.lives = info["lives"].copy()

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        taken = np.where(self.waiting, FIRE, actions)
        self.obs, reward, terminated, truncated, info = self.games.step(taken)

        # After a finished game this step began the emulator's next one, whose seed is the next number.
        self.game = self.game + self.done
        self.begun = np.where(self.done, self.game, -1)

        # ale_py reports `terminated` at each lost life; the game is over only if no lives are left.
        lost = terminated & (info["lives"] < self.lives) & (info["lives"] > 0)
        self.lives, self.waiting = info["lives"].copy(), lost & self.serve
        self.done = truncated | (terminated & ~lost)
        return self.obs, reward, terminated & ~lost, truncated, {"life_lost": lost, "action": taken}

    def close_extras(self, **kwargs: Any) -> None:
        self.games.close()


class Atari(gymnasium.Env[NDArray[np.uint8], np.int64]):
    """One game of `AtariVector`; for rendering a second one, in the game's own colours, gets the same actions."""

    trusted_infos = ("action", "life_lost")

    def __init__(self, render_mode: str | None = None, **game: Any) -> None:
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 60 // game["frame_skip"]}
        self.render_mode = render_mode
        self.players = [AtariVector(1, **game)]
        self.players += [AtariVector(1, **game, **NATIVE)] if render_mode else []
        self.observation_space = self.players[0].single_observation_space
        self.action_space = self.players[0].single_action_space
        self.colour: NDArray[np.uint8] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        obs, *shown = [player.reset(seed=[start])[0][0] for player in self.players]
        self.colour = shown[0][0] if shown else None
        return obs, {}

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        played = [player.step(np.array([action])) for player in self.players]
        obs, reward, terminated, truncated, info = played[0]
        self.colour = played[1][0][0, 0] if len(played) > 1 else None
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {k: v[0] for k, v in info.items()}

    def render(self) -> NDArray[np.uint8]:
        """[210, 160, 3]."""
        assert self.colour is not None, "made without render_mode"
        return self.colour

    def close(self) -> None:
        for player in self.players:
            player.close()


def make_atari(render_mode: str | None = None, **game: Any) -> gymnasium.Env:
    """One game; `game`: arguments of `AtariVector`. render_mode: None, rgb_array or human (a window)."""
    if render_mode == "human":
        return HumanRendering(Atari("rgb_array", **game))
    return Atari(render_mode, **game)


def check_game(game: str) -> None:
    """ValueError, with the most similar name, for a game that ale_py does not have."""
    games = ale_py.roms.get_all_rom_ids()
    # It warns, in several lines, about a missing ROM, which is reported below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = ale_py.roms.get_rom_path(game) if game in games else None

    if game not in games:
        # "ms-pacman" and "MsPacman" are close to ms_pacman once all signs are removed.
        plain = {name.replace("_", ""): name for name in games}
        close = difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", game.lower()), plain, n=1, cutoff=0.6)
        hint = f"did you mean {plain[close[0]]}?" if close else f"it has {', '.join(games)}"
        raise ValueError(f"env.game is {game!r}, which ale_py does not have; {hint}")
    if found is None or not found.is_file():
        raise ValueError(f"env.game={game}: its ROM is missing; pip install --force-reinstall ale-py brings it back")


def check_spaces(games: AtariVector, actions: int | None, shape: tuple[int, ...] | None) -> None:
    """ValueError if observations or actions differ from those that are declared."""
    space, count = games.single_observation_space, games.single_action_space.n  # type: ignore[attr-defined]
    if shape is not None and (space.shape != shape or space.dtype != np.uint8):
        raise ValueError(f"observations are {space.shape} {space.dtype}; they must be {shape} uint8")
    if actions is not None and count != actions:
        raise ValueError(f"env.actions is {actions}, but the game has {count}: {', '.join(games.action_meanings)}")
