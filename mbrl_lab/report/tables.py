"""Tables of numbers: for CSV files and for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mbrl_lab.dynamics.validation import LEVELS, Validation, coverage, rms
from mbrl_lab.report.open_loop import OpenLoop, no_change_error, state_error, state_spread
from mbrl_lab.tracking.atomic import write_text

Row = dict[str, Any]

SHOWN_STEPS = (1, 2, 5, 10, 20, 50)


def by_dimension(validation: Validation) -> list[Row]:
    """A row for each dimension of the state and the reward: error, bias and spread in std, and coverage."""
    size = validation.error.shape[1]
    columns = {"error": rms(validation.error, 0), "bias": validation.error.mean(0), "spread": rms(validation.spread, 0)}
    columns |= {f"in_{100 * level:.0f}": coverage(validation.quantile, level) for level in LEVELS}
    labels = [*(f"state {d}" for d in range(size - 1)), "reward"]
    return [{"of": label} | {k: float(v[d]) for k, v in columns.items()} for d, label in enumerate(labels)]


def by_horizon(far: OpenLoop, scale: Tensor) -> list[Row]:
    """A row for each number of steps ahead: medians and quartiles over starts."""
    error, spread, no_change = (f(far, scale) for f in (state_error, state_spread, no_change_error))
    # The mean over copies is the model's prediction; rewards keep their own units.
    reward = (far.predicted.mean(1) - far.true)[..., -1].where(far.valid, float("nan"))

    return [
        {
            "steps": h + 1,
            "starts": int(far.valid[h].sum()),
            "error": float(error[h].nanmedian()),
            "error_25": float(error[h].nanquantile(0.25)),
            "error_75": float(error[h].nanquantile(0.75)),
            "spread": float(spread[h].nanmedian()),
            "no_change": float(no_change[h].nanmedian()),
            "reward_error": float(reward[h].square().nanmean().sqrt()),
        }
        for h in range(len(far.valid))
    ]


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    """Write a CSV file: names in the first line; an unknown number is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: number(v, "", 8) for k, v in row.items()} for row in rows)
    write_text(path, text.getvalue())
    return path


def table(rows: Sequence[Row]) -> str:
    """Aligned columns below their names."""
    texts = [[key.replace("_", " ") for key in rows[0]], *([number(v) for v in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(x.rjust(w) for x, w in zip(line, widths, strict=True)) for line in texts)


def number(value: Any, unknown: str = "-", precision: int = 3) -> str:
    """A number with a few significant digits; `unknown` for NaN and None."""
    if value is None:
        return unknown
    if not isinstance(value, float):
        return str(value)
    return unknown if value != value else f"{value:.{precision}g}"
