"""Between replay and recorded episodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mbrl_lab.config import ConfigError
from mbrl_lab.data.episodes import Recorded
from mbrl_lab.env.actions import Units
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step


def episodes_of(steps: Step, units: Units) -> list[Recorded]:
    """[T, B] steps as replay stores them -> their episodes. What replay holds only the end of is an episode, too."""
    found = []
    for env in range(steps.first.shape[1]):
        one = steps.at((slice(None), env))
        begins = one.first.clone()
        begins[0] = True
        starts = [*begins.nonzero().flatten().tolist(), len(begins)]
        for start, stop in itertools.pairwise(starts):
            if stop - start > 1:
                found.append(recorded(one.at(slice(start, stop)), units))
    return found


def recorded(steps: Step, units: Units) -> Recorded:
    """[T + 1] steps of one episode."""
    terminal = steps.terminal[1:].numpy()
    truncated = np.zeros_like(terminal)
    truncated[-1] = not terminal[-1]  # by a time limit, or because nothing after it is in replay
    actions = units.to_env(steps.action[1:].numpy())
    return Recorded(steps.obs.numpy(), actions, steps.reward[1:].numpy(), terminal, truncated)


def fill(replay: Replay, episodes: Iterable[Recorded], units: Units, place: str) -> int:
    """Put episodes into an empty replay, side by side in its environments; returns how many steps were put there.

    Environments get equally many steps, so the last episodes of some are cut. ConfigError, one line, if observations or
    actions are not those of the environment.
    """
    columns: list[list[Step]] = [[] for _ in range(replay.num_envs)]
    lengths = [0] * replay.num_envs
    for episode in episodes:
        steps = steps_of(episode, replay.spec, units, place)
        shortest = lengths.index(min(lengths))
        columns[shortest].append(steps)
        lengths[shortest] += len(steps.first)

    rows = min(lengths)
    if not rows:
        raise ConfigError(f"replay.init is {place}, which holds fewer episodes than env.num={replay.num_envs}")
    joined = [Step(*(torch.cat(x)[:rows] for x in zip(*column, strict=True))) for column in columns]
    kept = min(rows, replay.slots)
    newest = Step(*(torch.stack(x, 1)[rows - kept :] for x in zip(*joined, strict=True)))
    # A part of an episode begins where the others were cut off.
    newest.first[0] = True
    replay.restore(0, newest)
    replay.added = kept
    return kept * replay.num_envs


def steps_of(episode: Recorded, spec: EnvSpec, units: Units, place: str) -> Step:
    """[T + 1] steps as replay stores them."""
    shape = spec.obs_shape[spec.stack > 1 :]
    if episode.observations.shape[1:] != shape or (
        (spec.obs_dtype == torch.uint8) != (episode.observations.dtype == np.uint8)
    ):
        there = f"{episode.observations.dtype} {list(episode.observations.shape[1:])}"
        here = f"{str(spec.obs_dtype).removeprefix('torch.')} {list(shape)}"
        raise ConfigError(f"replay.init is {place}: its observations are {there}, this environment's are {here}")

    actions = units.to_agent(episode.actions, f"replay.init is {place}")
    obs = torch.as_tensor(episode.observations).to(spec.obs_dtype)
    reward = torch.as_tensor(episode.rewards).float()
    if not (obs.isfinite().all() and reward.isfinite().all()):
        raise ConfigError(f"replay.init is {place}: it has observations or rewards that are not finite")
    return Step(
        action=after(torch.as_tensor(actions)),
        obs=obs,
        reward=after(reward),
        terminal=after(torch.as_tensor(episode.terminations).bool()),
        first=torch.arange(episode.length + 1) == 0,
    )


def after(x: Tensor) -> Tensor:
    """[T, ...] -> [T + 1, ...]: a zero for the first step, to which no action led."""
    return torch.cat([torch.zeros_like(x[:1]), x])


def joined(chunks: Sequence[tuple[int, Step]]) -> Step:
    """The chunks of a checkpoint's replay, in order -> [T, B]."""
    return Step(*(torch.cat(x) for x in zip(*(step for _, step in chunks), strict=True)))
