"""Plays fresh episodes, on which a model, and a planner if there is one, are validated."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_lab.algo.mpc import seconds_since
from mbrl_lab.env import Envs
from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.types import Step, Tree

Act = Callable[[Step, Tree | None], tuple[Tensor, Tree | None]]


class Play(NamedTuple):
    """Steps of played episodes, the model's states there, and a planner's predicted returns."""

    steps: Step  # [T + 1, B]
    states: Tree  # [T + 1, B, ...]
    predicted_return: Tensor  # [T, B] of the plan at every step but the last; NaN if there is no planner
    seconds: float  # median for a choice of B actions


def play_policy(runner: Runner, algo: Algo, model: WorldModel, num: int, steps: int) -> Play:
    """[steps + 1, B] steps of the policy without exploration; B is `num`, unless environments are shared."""
    seconds: list[float] = []

    def act(row: Step, carry: Tree | None) -> tuple[Tensor, Tree | None]:
        began = time.monotonic()
        chosen = algo.act(row, carry, explore=False)
        seconds.append(seconds_since(began, runner.device))
        return chosen

    # The carry holds the plan of each step, and with it the score that the planner expects.
    played, carries = play(runner, act, num, steps)
    predicted_return = torch.full_like(played.reward[1:], torch.nan)
    if algo.planner is not None:
        predicted_return = torch.stack([c["plan"]["predicted_return"] for c in carries]).float()
    return Play(played, observe(model, played), predicted_return, median(seconds))


def play_random(runner: Runner, num: int, steps: int) -> Step:
    """[steps + 1, B] steps of uniform actions, which need no policy, and often lead to terminations."""
    spec = runner.envs.spec
    return play(runner, lambda row, carry: (spec.sample(len(row.first), row.first.device), None), num, steps)[0]


def play(runner: Runner, act: Act, num: int, steps: int) -> tuple[Step, list[Tree]]:
    """[steps + 1, B] steps, and the carry of `act` at each but the last."""
    # A stream of seeds of its own: these episodes are neither those of training nor of an evaluation.
    with closing(runner.make_envs(num, DIAGNOSIS)) as envs:
        return collect(envs, act, steps, runner.device)


def collect(envs: Envs, act: Act, steps: int, device: torch.device) -> tuple[Step, list[Tree]]:
    """`steps` vector steps after the reset; a finished episode is followed by the next one."""
    played, carries = [envs.reset().to(device)], []
    carry: Tree | None = None
    for _ in range(steps):
        action, carry = act(played[-1], carry)
        carries.append(carry)
        played.append(envs.step(action).to(device))
    return Step(*map(torch.stack, zip(*played, strict=True))), carries


def observe(model: WorldModel, steps: Step) -> Tree:
    """[T + 1, B, ...]: the model's state at every step."""
    states: list[Tree] = []
    for t in range(len(steps.first)):
        states.append(model.observe(states[-1] if states else None, steps.at(t)))
    return tree_map(lambda *x: torch.stack(x), *states)
