"""The output of a diagnosis: pictures, tables, numbers, and a few lines for a terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mbrl_lab.protocols import WorldModel
from mbrl_lab.report.calibration import draw_calibration, draw_output_scatter
from mbrl_lab.report.diagnosis import Diagnosis, diagnose, numbers
from mbrl_lab.report.pictures import draw_errors, draw_planned, draw_predicted
from mbrl_lab.report.tables import SHOWN_STEPS, by_dimension, by_horizon, number, table, write_csv
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.atomic import write_text

SHOWN = 12
"""Maximum number of dimensions in a terminal: those with the largest errors."""


def draw_features(runner: Runner, model: WorldModel, home: Path) -> tuple[str, list[Path]]:
    """Validate a model whose features are numbers, and the planner. Returns a text and files."""
    diagnosis = diagnose(runner, runner.algo)
    return describe(diagnosis, numbers(diagnosis)), draw_diagnosis(diagnosis, runner.folder.path.name, home)


def draw_diagnosis(diagnosis: Diagnosis, run: str, home: Path) -> list[Path]:
    """Write the pictures, CSV files and model.json into `home`; planned.png only if there is a planner."""
    d = diagnosis
    paths = [
        draw_predicted(d.far, d.scale, run, home / "predicted.png"),
        draw_output_scatter(d.validation, run, home / "scatter.png"),
        draw_errors(d.one, d.far, d.scale, d.termination, d.steps_left, run, home / "errors.png"),
        draw_calibration(d.validation, run, home / "calibration.png"),
    ]
    if not d.predicted_return.isnan().all():
        paths.append(draw_planned(d.predicted_return, d.achieved_return, d.first, run, home / "planned.png"))

    paths.append(write_csv(by_dimension(d.validation), home / "dimensions.csv"))
    paths.append(write_csv(by_horizon(d.far, d.scale), home / "horizon.csv"))

    values = numbers(d) | {"time/plan": d.seconds}
    write_text(home / "model.json", json.dumps(plain(values), indent=2) + "\n")
    return [*paths, home / "model.json"]


def describe(diagnosis: Diagnosis, values: dict[str, float]) -> str:
    """The text that `scripts/evaluate.py RUN --model` prints."""
    source = "hold-out" if diagnosis.held_out else "fresh"
    *state, reward = by_dimension(diagnosis.validation)
    # Humanoid has 348 dimensions.
    if len(state) > SHOWN:
        state = sorted(state, key=lambda row: -row["error"])[:SHOWN]
    ahead = [row for row in by_horizon(diagnosis.far, diagnosis.scale) if row["steps"] in SHOWN_STEPS and row["starts"]]
    parts = [
        f"one step ahead on {len(diagnosis.validation.true):,} {source} transitions, in std of the data",
        table([*state, reward]),
        f"open loop on fresh episodes, from {diagnosis.far.valid.shape[1]} starts, in std of the true one-step change",
        table([{k: row[k] for k in ("steps", "error", "spread", "no_change", "reward_error")} for row in ahead]),
        describe_termination(
            values["model/openloop/termination/at_terminations"], values["model/openloop/termination/elsewhere"]
        ),
    ]

    each = f"{1000 * diagnosis.seconds:.1f} ms each"
    if diagnosis.predicted_return.isnan().all():
        return "\n".join([*parts, f"actions  {each}; there is no planner"])
    predicted, achieved = (number(values[f"planner/{k}"]) for k in ("predicted", "achieved"))
    both = f"predicted return {predicted}, achieved {achieved}, correlation {number(values['planner/correlation'])}"
    return "\n".join([*parts, f"plans    {both}; {each}"])


def describe_termination(at_terminations: float, elsewhere: float) -> str:
    known = at_terminations == at_terminations  # not NaN
    where = f"{number(at_terminations)} where episodes terminated" if known else "no episode terminated"
    return f"termination  predicted probability: {where}, {number(elsewhere)} elsewhere"


def plain(values: dict[str, float]) -> dict[str, float | None]:
    """Values that are not finite become null, since JSON has none."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
