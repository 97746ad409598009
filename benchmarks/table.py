"""One line of CSV for each run: what it was, when it first passed a threshold, and the return of its final policy.

python benchmarks/table.py --threshold 475 outputs/sweeps/*/* > docs/results/cartpole.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

from mbrl_lab.report.curves import read_metrics
from mbrl_lab.tracking.folder import RunFolder


def line(folder: RunFolder, threshold: float) -> dict[str, Any]:
    """A run's summary; empty where it has not come that far."""
    rows, config = read_metrics(folder.metrics), folder.config()
    passed = next((row for row in rows if (row.get("eval/return") or -float("inf")) >= threshold), {})
    last = next((row for row in reversed(rows) if "final/return" in row), {})
    trained = next((row for row in reversed(rows) if "final/return" not in row), {})
    return {
        "run": folder.path.name,
        "overrides": " ".join((folder.path / "overrides.txt").read_text().split()),
        "seed": config["seed"],
        "steps": last.get("step"),
        "steps_to_threshold": passed.get("step"),
        "seconds_to_threshold": training_seconds(passed),
        "training_seconds": training_seconds(trained),
        "processor_seconds": trained.get("time/processor"),
        "final_return": last.get("final/return"),
        "final_std": last.get("final/return_std"),
        "final_min": last.get("final/return_min"),
        "episodes": config["eval"]["final_episodes"],
        "cpu": folder.env()["hardware"]["cpu"],
    }


def training_seconds(row: dict[str, Any]) -> float | None:
    """Seconds up to a row, those of evaluations left out."""
    return row["time/seconds"] - row["time/evaluation"] if row else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--threshold", type=float, required=True)
    given = parser.parse_args()
    lines = [line(RunFolder(run), given.threshold) for run in given.runs]
    writer = csv.DictWriter(sys.stdout, lines[0])
    writer.writeheader()
    writer.writerows(lines)


if __name__ == "__main__":
    main()
