"""Envs: a gymnasium vector environment whose episodes are functions of a computed seed and their actions."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from mbrl_lab.env.checked import checked, named
from mbrl_lab.env.observations import Frames, advice
from mbrl_lab.env.vector import close_safely, vectorised
from mbrl_lab.types import EnvSpec, Step

log = logging.getLogger("mbrl_lab")

TRUSTED = ("action", "life_lost", "diverged")
"""Infos that are used, if an environment declares them."""


@dataclass(frozen=True)
class Episode:
    """A finished episode: everything needed to log it and to replay it."""

    env: int  # number of its environment
    index: int  # number of the episode in that environment, from 0
    seed: int  # seed of its reset
    ret: float  # return: the sum of rewards
    length: int  # steps
    actions: np.ndarray  # [length] int64 or [length, A] float32
    truncated: bool = False  # by a time limit


class Envs:
    """`num` environments, stepped together.

    A finished environment begins its next episode at the next step (next-step autoreset), in a step marked `first`,
    from `reset(seed=episode_seed(seed, stream, env, episode))`.

    Infos are ignored unless the environment declares them in an attribute `trusted_infos`: "life_lost" [num] is true
    where a life was lost (terminal, but the episode continues), "action" [num] has the actions that were taken
    instead of those sent, and "diverged" [num] is true where the simulation has no next state: the episode is cut
    before that step, so that no transition is stored. A vector environment may also have the attributes `stack`, the
    number of frames in its observations, and `games_per_seed`, the number of consecutive episodes with consecutive
    seeds.

    Args:
        make: builds one environment.
        num: number of environments.
        seed: the run's seed.
        stream: the stream of episode seeds; training and evaluations have different ones.
        asynchronous: run each environment in its own process.
        frame_skip: frames per step, to count them; `make` applies it.
        make_vector: (num) -> a vector environment, instead of `make`.
    """

    def __init__(
        self,
        make: Callable[[], gymnasium.Env],
        num: int,
        seed: int,
        stream: int = 0,
        asynchronous: bool = False,
        frame_skip: int = 1,
        make_vector: Callable[..., VectorEnv] | None = None,
    ) -> None:
        self.num = num
        self.seed = seed
        self.stream = stream
        self.frame_skip = frame_skip
        self.steps = 0  # environment steps since `reset`

        self._build = (
            partial(make_vector, num=num)
            if make_vector
            else partial(vectorised, partial(usable, make), num, asynchronous)
        )
        self._closed = False
        self._suspended = False  # lent or put away: the next step replays the unfinished episodes first
        self._borrowed = False  # the simulators belong to another Envs
        self.vector: Any = self._build()
        if not isinstance(self.vector, VectorEnv):
            raise ValueError(f"env.make_vector made {named(self.vector)}; it must make a gymnasium.vector.VectorEnv")

        self.trusted = getattr(self.vector, "trusted_infos", ()) if make_vector else TRUSTED
        spaces = self.vector.single_observation_space, self.vector.single_action_space
        self.spec = spec_of(*spaces, getattr(self.vector, "stack", 1))
        self.games_per_seed = getattr(self.vector, "games_per_seed", 1)

    @property
    def time_limit(self) -> int | None:
        """Steps after which an episode is truncated, if the environment in this process declares it."""
        inner = getattr(self.vector, "envs", [self.vector])[0]
        return getattr(inner.spec, "max_episode_steps", None)

    def reset(self, episode: int = 0) -> Step:
        """[num] first steps of each environment's episode of that number. Raises FloatingPointError as `step` does."""
        self._open()
        self._suspended = False
        self._index = np.full(self.num, episode, np.int64)  # of each environment's episode
        self._done = np.zeros(self.num, bool)  # terminated or truncated, so the next step is a reset
        self._return = np.zeros(self.num)
        self._actions: list[list[np.ndarray]] = [[] for _ in range(self.num)]
        self._finished: list[Episode] = []

        obs, _ = self.vector.reset(seed=[self._seed(i) for i in range(self.num)])
        no, zero = torch.zeros(self.num, dtype=torch.bool), torch.zeros(self.num)
        observed = self._observe(obs)
        self._check(observed, zero)
        return Step(self.spec.zero_action(self.num), observed, zero, terminal=no, first=~no)

    def step(self, action: Tensor) -> Step:
        """[num] actions, on any device -> [num] steps on the CPU.

        Raises FloatingPointError naming the step and the environment for an action, observation or reward that is not
        finite in float32.
        """
        if self._suspended:
            self._resume()

        # Simulators do not notice NaN: the next observations would be wrong, and the cause hard to find.
        sent = action.cpu().numpy()
        self._check_action(sent)

        # gymnasium's autoreset draws its own seeds, so finished environments are reset again, with ours.
        first = self._done
        obs, reward, terminated, truncated, info = self.vector.step(sent)
        if first.any():
            self._index[first] += 1
            obs = self._reset_where(first)

        # float32 is what the networks get, so an overflow of float64 is found here too.
        self.steps += self.num
        observed, reward32 = self._observe(obs), torch.as_tensor(reward, dtype=torch.float32)
        self._check(observed, reward32)

        # gymnasium's vector environments add a mask `_name` to each info `name`.
        info = {key: info[key] for name in self.trusted for key in (name, f"_{name}") if key in info}
        taken = taken_actions(info, sent)
        self._record(taken, reward, first)
        self._done = terminated | truncated
        self._finish(truncated)

        # The first step of an episode is a reset: no action led to it, so zeros are stored. Marked so, the step of a
        # diverged simulation, which observes the last state again, is no transition either.
        begins = torch.as_tensor(first | info.get("diverged", False))
        shape = (-1,) + (1,) * (action.ndim - 1)
        return Step(
            action=torch.as_tensor(taken).masked_fill(begins.view(shape), 0),
            obs=observed,
            reward=reward32.masked_fill(begins, 0),
            terminal=torch.as_tensor(terminated | info.get("life_lost", False)),
            first=begins,
        )

    def finished(self) -> list[Episode]:
        """The episodes that finished since the last call."""
        episodes, self._finished = self._finished, []
        return episodes

    def close(self) -> None:
        """Close the simulators; an exception is only a warning. Does nothing if they belong to another `Envs`."""
        if not self._closed and not self._borrowed:
            self._closed = True
            close_safely(self.vector)

    def lend(self, stream: int) -> Envs:
        """The same simulators, for episodes of another stream. The next `step` here resumes the unfinished ones."""
        self._open()
        self._suspended = True
        other = copy.copy(self)
        other.stream = stream
        other.steps = 0
        other._suspended = False
        other._borrowed = True
        return other

    def put_away(self) -> None:
        """Close the simulators; the next `step` or `lend` makes them again."""
        self.close()
        self._suspended = True

    def _open(self) -> None:
        if self._closed:
            self.vector, self._closed = self._build(), False

    def _resume(self) -> None:
        """Replay the unfinished episodes, after the simulators were lent or put away."""
        # Rewards of the replay must add up to the same returns, or the simulator does not repeat episodes.
        finished, returns = self._finished, self._return.copy()
        self.load_state_dict(self.state_dict())
        self._finished = finished
        if not np.array_equal(returns, self._return):
            log.warning("an episode replayed from its seed and actions is not the same: eval.shared needs that")

    def state_dict(self) -> dict:
        """The episode of each environment and the actions since its reset. No simulator state is saved."""
        actions = [torch.as_tensor(np.array(a)) if a else torch.zeros(0) for a in self._actions]
        return {"steps": self.steps, "index": self._index.tolist(), "actions": actions}

    def load_state_dict(self, state: dict) -> None:
        """Restore the saved environments by replaying their episodes.

        All environments step together, so an environment that is at its k-th step is reset k steps before the end.
        """
        self.reset()
        self._index = np.array(state["index"])
        lengths = np.array([len(a) for a in state["actions"]])
        total = int(lengths.max())

        # Start with the oldest reset; each environment joins when its episode begins.
        for t in range(total + 1):
            begins = lengths == total - t
            if begins.any():
                self._reset_where(begins)
                self._return[begins] = 0
                self._done[begins] = False

            if t < total:
                self._replay([a[t - total] if len(a) >= total - t else None for a in state["actions"]])
        self._actions = [[x.numpy() for x in a] for a in state["actions"]]
        self.steps = state["steps"]

    def _replay(self, actions: list[Tensor | None]) -> None:
        """A step of the environments that have an action; the others are reset later, so their step does not matter."""
        idle = self.spec.zero_action(1)[0]
        sent = torch.stack([idle if a is None else a for a in actions]).numpy()
        _, reward, terminated, truncated, _ = self.vector.step(sent)
        self._return += reward
        self._done = terminated | truncated

    def _seed(self, env: int) -> int:
        # Consecutive games of one emulator seed: see `atari.GAMES_PER_SEED`.
        group, number = divmod(int(self._index[env]), self.games_per_seed)
        return episode_seed(self.seed, self.stream, env, group) * self.games_per_seed + number

    def _reset_where(self, mask: np.ndarray) -> Any:
        seeds = [self._seed(i) if mask[i] else None for i in range(self.num)]
        return self.vector.reset(seed=seeds, options={"reset_mask": mask})[0]

    def _observe(self, obs: np.ndarray) -> Tensor:
        return torch.as_tensor(obs, dtype=self.spec.obs_dtype)

    def _check(self, obs: Tensor, reward: Tensor) -> None:
        good = np.isfinite(reward.numpy())
        # Bytes are always finite, and images are the largest observations.
        if obs.dtype != torch.uint8:
            good = good & np.isfinite(obs.numpy()).reshape(self.num, -1).all(1)
        if not good.all():
            env = int(np.flatnonzero(~good)[0])
            wrong = [k for k, x in enumerate(obs[env].flatten().tolist()) if not np.isfinite(x)]
            what = f"number {wrong[0]} of the observation" if wrong else f"the reward, {float(reward[env])}"
            where = f"the environment returned a number that is not finite in float32 at {self._place(env)}"
            raise FloatingPointError(f"{where}: {what}")

    def _check_action(self, sent: np.ndarray) -> None:
        if sent.dtype.kind == "f" and not np.isfinite(sent).all():
            env = int(np.flatnonzero(~np.isfinite(sent).reshape(self.num, -1).all(1))[0])
            where = f"the agent's action {sent[env].tolist()} is not finite at {self._place(env)}"
            raise FloatingPointError(f"{where}: its networks diverged, a lower learning rate may help")

    def _place(self, env: int) -> str:
        return f"step {self.steps}, environment {env}, episode {self._index[env]} (seed {self._seed(env)})"

    def _record(self, sent: np.ndarray, reward: np.ndarray, first: np.ndarray) -> None:
        for i in range(self.num):
            if first[i]:
                self._actions[i], self._return[i] = [], 0.0
            else:
                # A copy, since the caller may reuse the array.
                self._actions[i].append(sent[i].copy())
                self._return[i] += reward[i]

    def _finish(self, truncated: np.ndarray) -> None:
        for i in np.flatnonzero(self._done).tolist():
            actions = np.stack(self._actions[i])
            index, cut = int(self._index[i]), bool(truncated[i])
            self._finished.append(Episode(i, index, self._seed(i), float(self._return[i]), len(actions), actions, cut))


def taken_actions(info: dict[str, Any], sent: np.ndarray) -> np.ndarray:
    """[num] actions that were taken: those in `info`, and those sent to environments that report none."""
    reported = info.get("action", sent)
    if "_action" not in info:  # a vector environment of our own, which reports all of them
        return reported
    mask = info["_action"].reshape(-1, *[1] * (sent.ndim - 1))
    return np.where(mask, reported, sent)


def episode_seed(seed: int, stream: int, env: int, episode: int) -> int:
    """The seed of one episode, computed from its numbers: each stream (training, evaluation) has other seeds."""
    # SeedSequence hashes the numbers, so that neighbouring ones give unrelated seeds.
    return int(np.random.SeedSequence([seed, stream, env, episode]).generate_state(1)[0])


def usable(make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """The environment of `make()`, checked. ValueError for unusable spaces, before gymnasium fails on them."""
    env = checked(make)
    spec_of(env.observation_space, env.action_space)
    return env


def spec_of(observation: gymnasium.Space, action: gymnasium.Space, stack: int = 1) -> EnvSpec:
    """The spec of these spaces. ValueError, with a remedy, for spaces that no part of the package supports.

    Vectors are float32 whatever the space's dtype is, images [C, H, W] are bytes.
    """
    shape = observation.shape
    if not isinstance(observation, spaces.Box) or shape is None:
        raise ValueError(f"observations must be arrays (Box), these are {observation}{advice(observation)}")
    if 0 in shape:
        raise ValueError(f"observations of shape {list(shape)} are empty: give the environment something to observe")
    if len(shape) != 1 and (observation.dtype != np.uint8 or len(shape) not in (2, 3)):
        kind = f"{observation.dtype} of shape {list(shape)}"
        raise ValueError(f"observations must be vectors or images of uint8, these are {kind}{advice(observation)}")

    # A stack of single grey frames: replay stores each frame once.
    dtype = torch.float32 if len(shape) == 1 else torch.uint8
    stack = shape[0] if isinstance(observation, Frames) else stack
    return EnvSpec(shape, dtype, *actions_of(action), stack)


def actions_of(action: gymnasium.Space) -> tuple[int, bool]:
    """The number of actions or of their dimensions, and whether they are discrete. ValueError as in `spec_of`."""
    if isinstance(action, spaces.Discrete) and action.start == 0:
        return int(action.n), True
    if isinstance(action, spaces.Box) and len(action.shape) == 1 and action.dtype.kind == "f":
        if (action.low == -1).all() and (action.high == 1).all():
            return action.shape[0], False
        raise ValueError(
            f"a flat Box of actions must be [-1, 1], this is {action}: wrap it in gymnasium's RescaleAction"
        )
    cure = "make the environment use one of these, e.g. one discrete action for each combination"
    raise ValueError(f"actions must be Discrete from 0 or a flat Box, these are {action}: {cure}")
