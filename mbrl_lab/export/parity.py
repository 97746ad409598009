"""Parity: whether a file acts as the run's policy does, on real observations, and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.export.acting import Acting
from mbrl_lab.export.formats import Call
from mbrl_lab.runner import FINAL, Runner

TOLERANCE = 1e-5
"""The largest difference of an output, relative to the largest number of that output where it is above 1."""

BATCH = 32
"""Observations in a batch that is compared, too."""

TIMED, WARMUP = 200, 20
"""Actions whose time is taken, and those before them."""


class Played(NamedTuple):
    """Real steps, one after the other: the policy's inputs and outputs at each, of batch 1."""

    inputs: list[tuple[Tensor, ...]]
    outputs: list[tuple[Tensor, ...]]
    given: int  # inputs beside the belief
    episodes: int


@torch.no_grad()
def play(runner: Runner, module: Acting, steps: int) -> Played:
    """Let a module act for so many steps, from the first episode of the final evaluation on."""
    inputs: list[tuple[Tensor, ...]] = []
    outputs: list[tuple[Tensor, ...]] = []
    noise = torch.Generator().manual_seed(runner.seed)
    episodes, belief = 0, module.signature.zeros(1)[module.given :]
    with closing(runner.make_envs(1, FINAL)) as envs:
        step = envs.reset()
        for _ in range(steps):
            given = [step.obs]
            if module.given > 1:
                drawn = torch.rand(1, *module.signature.inputs[3].shape, generator=noise)
                given += [step.action, step.first, drawn]

            inputs.append((*given, *belief))
            outputs.append(module(*inputs[-1]))
            episodes += int(step.first)
            belief = outputs[-1][2:]
            step = envs.step(outputs[-1][0])
    return Played(inputs, outputs, module.given, episodes)


@dataclass(frozen=True)
class Parity:
    """How far a file's outputs are from the policy's."""

    difference: float
    """The largest, relative as TOLERANCE is."""
    other_actions: int
    """Observations with another discrete action, where the policy's scores for the two do not tie."""

    @property
    def holds(self) -> bool:
        return self.difference <= TOLERANCE and not self.other_actions


@torch.no_grad()
def parity(call: Call, played: Played) -> Parity:
    """Compare step by step, where each side carries its own belief along, and then many steps in one batch."""
    found = []
    belief: Sequence[Tensor] = played.inputs[0][played.given :]
    for inputs, outputs in zip(played.inputs, played.outputs, strict=True):
        own = call(*inputs[: played.given], *belief)
        found.append(compare(own, outputs))
        belief = own[2:]

    inputs, outputs = (tuple(map(torch.cat, zip(*x[:BATCH], strict=True))) for x in (played.inputs, played.outputs))
    found.append(compare(call(*inputs), outputs))
    return Parity(max(x.difference for x in found), sum(x.other_actions for x in found))


def compare(own: Sequence[Tensor], expected: Sequence[Tensor]) -> Parity:
    """Outputs (action, scores, belief ...) of one batch with those expected."""
    # Not through a minimum or a maximum of Python's, which lose NaN.
    sides = [(a.flatten(1), b.flatten(1)) for a, b in zip(own[1:], expected[1:], strict=True)]
    differences = [((a - b).abs().amax(1) / b.abs().amax(1).clamp(min=1)).max() for a, b in sides]
    difference = float(torch.stack(differences).nan_to_num(float("inf")).max())

    action, scores = expected[:2]
    if action.is_floating_point():  # the scores are the action
        return Parity(difference, 0)
    lost = scores.gather(1, action[:, None]) - scores.gather(1, own[0][:, None])
    tie = 2 * TOLERANCE * scores.abs().amax(1, keepdim=True).clamp(min=1)
    return Parity(difference, int((lost > tie).sum()))


@torch.no_grad()
def latency(call: Call, played: Played) -> float:
    """Median seconds of one action, of batch 1."""
    seconds = []
    for k in range(WARMUP + TIMED):
        inputs = played.inputs[k % len(played.inputs)]
        began = time.perf_counter()
        call(*inputs)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARMUP:])
