"""What a diagnosis leaves behind: pictures, tables, numbers, and a few lines for a terminal."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mbrl_lab.report.calibration import draw_against, draw_calibration
from mbrl_lab.report.diagnosis import Diagnosis, numbers
from mbrl_lab.report.pictures import draw_errors, draw_planned, draw_predicted
from mbrl_lab.report.tables import AHEAD, by_dimension, by_horizon, number, table, write_csv
from mbrl_lab.tracking.atomic import write_text

SHOWN = 12
"""Dimensions in a terminal: those of greatest error."""


def draw_diagnosis(seen: Diagnosis, run: str, home: Path) -> list[Path]:
    """Write predicted.png, against.png, errors.png, calibration.png, planned.png where something plans, and numbers."""
    pictures = [
        draw_predicted(seen.far, seen.scale, run, home / "predicted.png"),
        draw_against(seen.judged, run, home / "against.png"),
        draw_errors(seen.one, seen.far, seen.scale, seen.end, seen.left, run, home / "errors.png"),
        draw_calibration(seen.judged, run, home / "calibration.png"),
    ]
    if not seen.promised.isnan().all():
        pictures.append(draw_planned(seen.promised, seen.achieved, seen.first, run, home / "planned.png"))
    write_csv(by_dimension(seen.judged), home / "dimensions.csv")
    write_csv(by_horizon(seen.far, seen.scale), home / "horizon.csv")
    values = numbers(seen) | {"time/plan": seen.seconds}
    write_text(home / "model.json", json.dumps(plain(values), indent=2) + "\n")
    return [*pictures, home / "dimensions.csv", home / "horizon.csv", home / "model.json"]


def words(seen: Diagnosis, values: dict[str, float]) -> str:
    """What `scripts/evaluate.py RUN --model` prints."""
    source = "hold-out" if seen.held_out else "fresh"
    dimensions = by_dimension(seen.judged)
    worst = sorted(dimensions[:-1], key=lambda row: -row["error"])[:SHOWN]
    state = dimensions[:-1] if len(dimensions) - 1 <= SHOWN else worst
    ahead = [row for row in by_horizon(seen.far, seen.scale) if row["steps"] in AHEAD and row["starts"]]
    parts = [
        f"one step ahead on {len(seen.judged.true):,} {source} transitions, in std of the data",
        table([*state, dimensions[-1]]),
        f"open loop on fresh episodes, from {seen.far.valid.shape[1]} starts, in std of the true one-step change",
        table([{k: row[k] for k in ("steps", "error", "spread", "no_change", "reward_error")} for row in ahead]),
        ends_in_words(values["model/end_at_ends"], values["model/end_elsewhere"]),
    ]
    each = f"{1000 * seen.seconds:.1f} ms each"
    if seen.promised.isnan().all():
        return "\n".join([*parts, f"actions  {each}; nothing plans"])
    kept = f"promised {number(values['planner/planned'])}, achieved {number(values['planner/achieved'])}"
    parts.append(f"plans    {kept}, correlation {number(values['planner/correlation'])}; {each}")
    return "\n".join(parts)


def ends_in_words(at_ends: float, elsewhere: float) -> str:
    seen = f"{number(at_ends)} where there was one" if at_ends == at_ends else "none was seen"
    return f"ends     predicted probability: {seen}, {number(elsewhere)} elsewhere"


def plain(values: dict[str, float]) -> dict[str, float | None]:
    """What is not finite becomes null: JSON has no word for it."""
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
