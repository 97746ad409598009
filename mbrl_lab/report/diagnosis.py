"""A model and a planner judged on fresh episodes: the data behind the pictures, and the numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.algo import MPC
from mbrl_lab.planner.search import Search
from mbrl_lab.report.forecast import Forecast, every_start, forecast, scale_of, spread_out, state_error, until_end
from mbrl_lab.report.pictures import draw_errors, draw_planned, draw_predicted
from mbrl_lab.report.play import observe, play_planned, play_random
from mbrl_lab.report.promise import achieved, correlation, pairs
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.tracking.atomic import write_text

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
    promised: Tensor  # [T, B] return that the planner expects from its plan
    achieved: Tensor  # [T, B] return that followed; NaN: not known


def draw_diagnosis(runner: Runner, algo: MPC, home: Path) -> list[Path]:
    """Write predicted.png, errors.png, planned.png and model.json into a folder."""
    seen = diagnose(runner, algo)
    run = runner.folder.path.name
    pictures = [
        draw_predicted(seen.far, seen.scale, run, home / "predicted.png"),
        draw_errors(seen.one, seen.far, seen.scale, seen.end, seen.left, run, home / "errors.png"),
        draw_planned(seen.promised, seen.achieved, seen.first, run, home / "planned.png"),
    ]
    write_text(home / "model.json", json.dumps(plain(numbers(seen)), indent=2) + "\n")
    return [*pictures, home / "model.json"]


@torch.no_grad()
def diagnose(runner: Runner, algo: MPC, num: int = ENVS, steps: int = STEPS) -> Diagnosis:
    """Play, predict and compare; the same for the same weights, and without a trace in the runner."""
    assert isinstance(algo.planner, Search), type(algo.planner)
    with runner.random_numbers_apart(DIAGNOSIS), runner.arithmetic():
        rows, states, promised = play_planned(runner, algo, num, steps)
        starts = every_start(rows)
        one = forecast(algo.model, rows, states, starts, 1)
        far = forecast(algo.model, rows, states, spread_out(starts, STARTS), min(HORIZON, steps))
        wild = play_random(runner, num, steps)
        wild_starts = every_start(wild)
        wild_one = forecast(algo.model, wild, observe(algo.model, wild), wild_starts, 1)
    left = torch.cat([until_end(x)[1:][x.transitions().valid] for x in (rows, wild)]).cpu()
    end = torch.cat([x.end[0].mean(0) for x in (one, wild_one)])
    got = achieved(rows, algo.planner.horizon, algo.planner.discount)
    return Diagnosis(one, far, scale_of(one), end, left, rows.first.cpu(), promised.cpu(), got.cpu())


def numbers(seen: Diagnosis) -> dict[str, float]:
    """State errors: medians, in standard deviations of the true one-step change. NaN for what was not seen."""
    error = state_error(seen.far, seen.scale)
    planned, got = pairs(seen.promised, seen.achieved)
    reward_error = (seen.one.predicted - seen.one.true[:, None])[..., -1]
    ends = seen.left == 0
    return {
        "model/one_step_error": float(state_error(seen.one, seen.scale).nanmedian()),
        "model/error_at_10": float(error[9].nanmedian()) if len(error) > 9 else math.nan,
        "model/reward_error": float(reward_error.square().mean().sqrt()),
        "model/end_at_ends": float(seen.end[ends].mean()),
        "model/end_elsewhere": float(seen.end[~ends].mean()),
        "planner/planned": float(planned.mean()),
        "planner/achieved": float(got.mean()),
        "planner/correlation": correlation(planned, got),
    }


def plain(values: dict[str, float]) -> dict[str, float | None]:
    """What is not finite becomes null: JSON has no word for it."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
