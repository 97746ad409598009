"""Data for figures: a world model, and a planner if there is one, on episodes they were not trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.dynamics.validation import Validation
from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.report.open_loop import (
    OpenLoop,
    change_std,
    every_start,
    predict_open_loop,
    spread_out,
    state_error,
    state_spread,
    steps_to_termination,
)
from mbrl_lab.report.play import observe, play_policy, play_random
from mbrl_lab.report.predicted_return import achieved_return, correlation, known_pairs
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.types import Step

ENVS, STEPS = 2, 200
"""Number of environments, and of steps in each; they bound the time of the planner."""

HORIZON, STARTS = 50, 200
"""Steps of open-loop prediction, and number of starts."""


class Diagnosis(NamedTuple):
    """All data of the figures, on the CPU."""

    one: OpenLoop  # one step from every step of the policy's episodes
    far: OpenLoop  # many steps from some of them
    scale: Tensor  # [D + 1] units of error: std of the true change, and of the reward
    termination: Tensor  # [M] predicted probability of terminating, over steps of the policy and of random actions
    steps_left: Tensor  # [M] true steps to the termination after each; inf: none was observed
    first: Tensor  # [T + 1, B] marks of the policy's episodes
    predicted_return: Tensor  # [T, B] return that the planner predicts for its plan; NaN: there is no planner
    achieved_return: Tensor  # [T, B] return that followed; NaN: not known
    seconds: float  # for a choice of actions
    validation: Validation  # one step ahead on held-out transitions, or on the fresh ones
    held_out: bool


@torch.no_grad()
def diagnose(runner: Runner, algo: Algo, num: int = ENVS, steps: int = STEPS) -> Diagnosis:
    """Play, predict and compare. The result depends only on the weights, and the runner is not changed.

    Args:
        runner: provides environments, replay and device.
        algo: acts, and has the model.
        num: number of environments.
        steps: steps in each, of the policy and of random actions.
    """
    model = algo.world_model
    assert model is not None, type(algo)
    with runner.separate_randomness(DIAGNOSIS), runner.autocast():
        # States of the policy: errors one step and many steps ahead.
        played, states, predicted_return, seconds = play_policy(runner, algo, model, num, steps)
        starts = every_start(played)
        one = predict_open_loop(model, played, states, starts, 1)
        far = predict_open_loop(model, played, states, spread_out(starts, STARTS), min(HORIZON, steps))

        # Random actions, since a good policy rarely terminates.
        random = play_random(runner, num, steps)
        random_one = predict_open_loop(model, random, observe(model, random), every_start(random), 1)

        # Held-out steps were never trained on either, and there are many more of them than fresh ones.
        held = model.held_out(runner.replay)
        validation = validate(model, held if held is not None else pairwise(played), one)

    left = torch.cat([steps_to_termination(x)[1:][x.transitions().valid] for x in (played, random)]).cpu()
    termination = torch.cat([x.termination[0].mean(0) for x in (one, random_one)])

    # Without a planner there is no predicted return to compare with.
    achieved = torch.full_like(predicted_return, torch.nan)
    if algo.planner is not None:
        achieved = achieved_return(played, algo.planner.horizon, algo.planner.discount)
    return Diagnosis(
        one=one,
        far=far,
        scale=change_std(one),
        termination=termination,
        steps_left=left,
        first=played.first.cpu(),
        predicted_return=predicted_return.cpu(),
        achieved_return=achieved.cpu(),
        seconds=seconds,
        validation=validation,
        held_out=held is not None,
    )


def pairwise(steps: Step) -> Step:
    """[2, N]: every valid transition of [T + 1, B] steps."""
    valid = steps.transitions().valid
    return Step(*(torch.stack([x[:-1][valid], x[1:][valid]]) for x in steps))


def validate(model: WorldModel, steps: Step, one: OpenLoop) -> Validation:
    """The model's own validation on steps [2, N], or, if it has none, the one-step predictions of its copies."""
    if (own := model.validation(steps)) is not None:
        return Validation(*(x.cpu() for x in own))

    # Errors of the mean over copies; their standard deviation is the model's uncertainty, without quantiles.
    scale = change_std(one)
    true = torch.cat([one.true[0, :, :-1] - one.start, one.true[0, :, -1:]], -1)
    error = one.predicted[0].mean(0) - one.true[0]
    spread = one.predicted[0].std(0, correction=0)
    unknown = torch.full_like(true, torch.nan)
    termination = one.termination[0].mean(0)
    never = termination > 2
    return Validation(true / scale, error / scale, spread / scale, unknown, termination, never)


def numbers(diagnosis: Diagnosis) -> dict[str, float]:
    """The metrics of model.json. State errors are medians, in std of the true one-step change; NaN: not observed."""
    error, spread = (f(diagnosis.far, diagnosis.scale) for f in (state_error, state_spread))
    planned, got = known_pairs(diagnosis.predicted_return, diagnosis.achieved_return)
    reward_error = (diagnosis.one.predicted - diagnosis.one.true[:, None])[..., -1]
    terminal = diagnosis.steps_left == 0

    return {
        "model/openloop/obs/error_1": float(state_error(diagnosis.one, diagnosis.scale).nanmedian()),
        "model/openloop/obs/error_10": float(error[9].nanmedian()) if len(error) > 9 else math.nan,
        "model/openloop/obs/std_10": float(spread[9].nanmedian()) if len(error) > 9 else math.nan,
        "model/openloop/reward/rmse": float(reward_error.square().mean().sqrt()),
        "model/openloop/termination/at_terminations": float(diagnosis.termination[terminal].mean()),
        "model/openloop/termination/elsewhere": float(diagnosis.termination[~terminal].mean()),
        "planner/predicted": float(planned.mean()),
        "planner/achieved": float(got.mean()),
        "planner/correlation": correlation(planned, got),
    } | {key: float(value) for key, value in diagnosis.validation.metrics().items()}
