"""A model, and a planner where there is one, judged on what was not trained on: the data behind the pictures."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor

from mbrl_lab.dynamics import Ensemble
from mbrl_lab.dynamics.judge import Judgement
from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.report.forecast import (
    Forecast,
    every_start,
    forecast,
    scale_of,
    spread_out,
    state_error,
    state_spread,
    until_end,
)
from mbrl_lab.report.play import observe, play_policy, play_random
from mbrl_lab.report.promise import achieved, correlation, pairs
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.types import Step

ENVS, STEPS = 2, 200
"""Environments side by side, and how many steps each is played: bounds what the planner costs."""

HORIZON, STARTS = 50, 200
"""Steps of open-loop prediction, and from how many rows."""


class Diagnosis(NamedTuple):
    """Everything that is drawn, on the CPU."""

    one: Forecast  # one step from every row of the policy's episodes
    far: Forecast  # many steps from some of them
    scale: Tensor  # [D + 1] units of error: std of the true change, and of the reward
    end: Tensor  # [M] predicted probability of ending, over steps of the policy and of random actions
    left: Tensor  # [M] true steps to the end after each; inf: no end in sight
    first: Tensor  # [T + 1, B]
    promised: Tensor  # [T, B] return that the planner expects from its plan; NaN: nothing plans
    achieved: Tensor  # [T, B] return that followed; NaN: not known
    seconds: float  # that a choice of actions took
    judged: Judgement  # one step ahead on held-out rows, or on the fresh ones
    held_out: bool


def model_of(algo: Algo) -> WorldModel | None:
    """The world model of an algorithm that has one."""
    return cast(WorldModel | None, getattr(algo, "model", None))


@torch.no_grad()
def diagnose(runner: Runner, algo: Algo, num: int = ENVS, steps: int = STEPS) -> Diagnosis:
    """Play, predict and compare; the same for the same weights, and without a trace in the runner."""
    model = model_of(algo)
    assert model is not None, type(algo)
    with runner.random_numbers_apart(DIAGNOSIS), runner.arithmetic():
        rows, states, promised, seconds = play_policy(runner, algo, model, num, steps)
        starts = every_start(rows)
        one = forecast(model, rows, states, starts, 1)
        far = forecast(model, rows, states, spread_out(starts, STARTS), min(HORIZON, steps))
        wild = play_random(runner, num, steps)
        wild_one = forecast(model, wild, observe(model, wild), every_start(wild), 1)
        held = held_out(runner, algo)
        judged = judge(model, held if held is not None else pairwise(rows), one)
    left = torch.cat([until_end(x)[1:][x.transitions().valid] for x in (rows, wild)]).cpu()
    end = torch.cat([x.end[0].mean(0) for x in (one, wild_one)])
    planner = getattr(algo, "planner", None)
    got = achieved(rows, planner.horizon, planner.discount) if planner else torch.full_like(promised, torch.nan)
    plans = rows.first.cpu(), promised.cpu(), got.cpu()
    return Diagnosis(one, far, scale_of(one), end, left, *plans, seconds, judged, held is not None)


def held_out(runner: Runner, algo: Algo) -> Step | None:
    """[2, N] rows that the model was never trained on; None where replay or a hold-out is not there."""
    model = model_of(algo)
    return model.trainer.held_out(runner.replay) if isinstance(model, Ensemble) else None


def pairwise(rows: Step) -> Step:
    """[2, N]: every valid transition of [T + 1, B] rows."""
    valid = rows.transitions().valid
    return Step(*(torch.stack([x[:-1][valid], x[1:][valid]]) for x in rows))


def judge(model: WorldModel, rows: Step, one: Forecast) -> Judgement:
    """What an ensemble says of itself on rows [2, N]; of another model, what its copies show in a forecast."""
    if isinstance(model, Ensemble):
        seen = model.judge(rows)
        return Judgement(*(x.cpu() for x in seen))
    scale = scale_of(one)
    true = torch.cat([one.true[0, :, :-1] - one.start, one.true[0, :, -1:]], -1)
    error = one.predicted[0].mean(0) - one.true[0]
    spread = one.predicted[0].std(0, correction=0)
    end = one.end[0].mean(0)
    return Judgement(true / scale, error / scale, spread / scale, torch.full_like(true, torch.nan), end, end > 2)


def numbers(seen: Diagnosis) -> dict[str, float]:
    """State errors: medians, in standard deviations of the true one-step change. NaN for what was not seen."""
    error, spread = state_error(seen.far, seen.scale), state_spread(seen.far, seen.scale)
    planned, got = pairs(seen.promised, seen.achieved)
    reward_error = (seen.one.predicted - seen.one.true[:, None])[..., -1]
    ends = seen.left == 0
    return {
        "model/one_step_error": float(state_error(seen.one, seen.scale).nanmedian()),
        "model/error_at_10": float(error[9].nanmedian()) if len(error) > 9 else math.nan,
        "model/spread_at_10": float(spread[9].nanmedian()) if len(error) > 9 else math.nan,
        "model/reward_error": float(reward_error.square().mean().sqrt()),
        "model/end_at_ends": float(seen.end[ends].mean()),
        "model/end_elsewhere": float(seen.end[~ends].mean()),
        "planner/planned": float(planned.mean()),
        "planner/achieved": float(got.mean()),
        "planner/correlation": correlation(planned, got),
    } | {key: float(value) for key, value in seen.judged.metrics().items()}
