"""Fresh episodes to judge a model, and a planner where there is one, by."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_lab.algo.mpc import taken
from mbrl_lab.env import Envs
from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.types import Step, Tree

Act = Callable[[Step, Tree | None], tuple[Tensor, Tree | None]]


class Play(NamedTuple):
    """What was seen, what the model made of it, and what a planner promised at every row but the last."""

    rows: Step  # [T + 1, B]
    states: Tree  # [T + 1, B, ...]
    promised: Tensor  # [T, B]; NaN where nothing plans
    seconds: float  # median of what a choice of B actions took


def play_policy(runner: Runner, algo: Algo, model: WorldModel, num: int, steps: int) -> Play:
    """[steps + 1, B] rows of the policy as it is, without exploring; B is `num`, unless environments are shared."""
    seconds: list[float] = []

    def act(row: Step, carry: Tree | None) -> tuple[Tensor, Tree | None]:
        began = time.monotonic()
        chosen = algo.act(row, carry, explore=False)
        seconds.append(taken(began, runner.device))
        return chosen

    rows, carries = play(runner, act, num, steps)
    promised = torch.full_like(rows.reward[1:], torch.nan)
    if hasattr(algo, "planner"):
        promised = torch.stack([c["plan"]["score"] for c in carries]).float()
    return Play(rows, observe(model, rows), promised, median(seconds))


def play_random(runner: Runner, num: int, steps: int) -> Step:
    """[steps + 1, B] rows of uniform actions: cheap, and on most tasks full of ends."""
    spec = runner.envs.spec
    return play(runner, lambda row, carry: (spec.random(len(row.first), row.first.device), None), num, steps)[0]


def play(runner: Runner, act: Act, num: int, steps: int) -> tuple[Step, list[Tree]]:
    """[steps + 1, B] rows, and what `act` wanted to remember at each but the last."""
    with closing(runner.make_envs(num, DIAGNOSIS)) as envs:
        return follow(envs, act, steps, runner.device)


def follow(envs: Envs, act: Act, steps: int, device: torch.device) -> tuple[Step, list[Tree]]:
    """`steps` steps from the first rows on; episodes that end are followed by the next ones."""
    rows, carries = [envs.reset().to(device)], []
    carry: Tree | None = None
    for _ in range(steps):
        action, carry = act(rows[-1], carry)
        carries.append(carry)
        rows.append(envs.step(action).to(device))
    return Step(*map(torch.stack, zip(*rows, strict=True))), carries


def observe(model: WorldModel, rows: Step) -> Tree:
    """[T + 1, B, ...]: the model's state at every row."""
    states: list[Tree] = []
    for t in range(len(rows.first)):
        states.append(model.observe(states[-1] if states else None, rows.at(t)))
    return tree_map(lambda *x: torch.stack(x), *states)
