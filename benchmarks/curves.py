"""Learning curves over seeds: a picture with a panel for each environment, and a CSV of its points.

python benchmarks/curves.py --out docs/results/minatar outputs/sweeps/mine/*

A line is the mean over the seeds of one algorithm, the band reaches from the lowest to the highest of them. Points are
evaluations while training, and where every seed has one, of the final policy.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from mbrl_lab.report.curves import read_metrics
from mbrl_lab.report.figure import COLOURS, legend, make_panels, save, set_labels
from mbrl_lab.tracking.folder import RunFolder

Curve = dict[int, list[float]]
"""Step: the return of each seed that was evaluated there."""


def curves_of(runs: Sequence[Path]) -> dict[str, dict[str, Curve]]:
    """Environment: algorithm: curve. Steps that not every seed has are left out."""
    found: dict[str, dict[str, Curve]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    seeds: dict[tuple[str, str], int] = defaultdict(int)
    for run in runs:
        words = dict(w.split("=", 1) for w in (run / "overrides.txt").read_text().split() if "=" in w)
        key = words.get("env", "cartpole"), words.get("algo", words.get("experiment", "mpc"))
        seeds[key] += 1
        points = {}
        for row in read_metrics(RunFolder(run).metrics):
            value = row.get("final/return", row.get("eval/return"))
            points |= {row["step"]: value} if value is not None else {}
        for step, value in points.items():
            found[key[0]][key[1]][step].append(value)
    return {
        env: {
            algo: {k: v for k, v in sorted(curve.items()) if len(v) == seeds[env, algo]}
            for algo, curve in sorted(algos.items())
        }
        for env, algos in sorted(found.items())
    }


def draw(axes: Axes, env: str, algos: dict[str, Curve]) -> None:
    """A panel: each algorithm's mean, and from its lowest seed to its highest."""
    for colour, (algo, curve) in zip(COLOURS, algos.items(), strict=False):
        steps = list(curve)
        values = np.array(list(curve.values()))
        axes.plot(steps, values.mean(1), color=colour, label=f"{algo}, {values.shape[1]} seeds")
        axes.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.18, linewidth=0)
    set_labels(axes, env, "environment steps", "return of an episode")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    legend(axes)


def write_points(path: Path, curves: dict[str, dict[str, Curve]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["env", "algo", "step", "mean", "lowest", "highest", "seeds"])
        for env, algos in curves.items():
            for algo, curve in algos.items():
                for step, v in curve.items():
                    writer.writerow([env, algo, step, *(round(x, 3) for x in (np.mean(v), min(v), max(v))), len(v)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="path of both files, without an ending")
    given = parser.parse_args()
    curves = curves_of(given.runs)
    figure, axes = make_panels(len(curves), 3, "evaluation while training")
    for at, (env, algos) in zip(axes, curves.items(), strict=True):
        draw(at, env, algos)
    save(figure, given.out.with_suffix(".png"))
    write_points(given.out.with_suffix(".csv"), curves)


if __name__ == "__main__":
    main()
