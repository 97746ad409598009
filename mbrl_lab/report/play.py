"""Fresh episodes to judge a model and a planner by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_lab.algo import MPC
from mbrl_lab.env import Envs
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.types import Step, Tree, WorldModel

Act = Callable[[Step, Tree | None], tuple[Tensor, Tree | None]]


class Play(NamedTuple):
    """What was seen, what the model made of it, and what the planner promised at every row but the last."""

    rows: Step  # [T + 1, B]
    states: Tree  # [T + 1, B, ...]
    promised: Tensor  # [T, B]


def play_planned(runner: Runner, algo: MPC, num: int, steps: int) -> Play:
    """[steps + 1, num] rows of the policy as it is, without exploring."""
    rows, carries = play(runner, lambda row, carry: algo.act(row, carry, explore=False), num, steps)
    return Play(rows, observe(algo.model, rows), torch.stack([c["plan"]["score"] for c in carries]).float())


def play_random(runner: Runner, num: int, steps: int) -> Step:
    """[steps + 1, num] rows of uniform actions: cheap, and on most tasks full of ends."""
    spec = runner.envs.spec
    return play(runner, lambda row, carry: (spec.random(num, row.first.device), None), num, steps)[0]


def play(runner: Runner, act: Act, num: int, steps: int) -> tuple[Step, list[Tree]]:
    """[steps + 1, num] rows, and what `act` wanted to remember at each but the last."""
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
