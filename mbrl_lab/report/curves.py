"""Learning curves: returns, lengths and model losses against steps, read from a run's logs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from mbrl_lab.report.figure import BLUE, GREEN, ORANGE, legend, make_panels, save, set_labels
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder

Rows = Sequence[dict[str, Any]]
Panel = Callable[[Axes, Rows, Rows], None]
"""(axes, rows of metrics.jsonl, training rows of episodes.jsonl)"""

EVALUATIONS: dict[str, dict[str, Any]] = {
    "eval": {"fmt": "o-", "color": ORANGE, "markersize": 3.5, "capsize": 2, "elinewidth": 0.8, "label": "evaluation"},
    "final": {"fmt": "D", "color": GREEN, "markersize": 5, "capsize": 3, "label": "final policy"},
}
LOSSES = {
    "model/train/loss": ("training loss", BLUE),
    "model/train/termination/loss": ("termination loss", ORANGE),
    "model/holdout/loss": ("hold-out error", GREEN),
}


def draw_curves(folder: RunFolder) -> list[Path]:
    """Write curves.png; nothing if nothing was logged."""
    rows, episodes = read_metrics(folder.metrics), EpisodeLog(folder).finished("train")
    panels = panels_of(rows, episodes)
    if not panels:
        return []
    figure, axes = make_panels(len(panels), 3, f"{folder.path.name}: learning curves")
    for panel, at in zip(panels, axes, strict=True):
        panel(at, rows, episodes)
        # 100k instead of 100000, whose labels overlap.
        at.xaxis.set_major_formatter(EngFormatter(sep=""))
    return [save(figure, folder.diagnostics / "curves.png")]


def draw_return_curve(folder: RunFolder, path: Path) -> None:
    """Write the panel of returns alone to `path`; nothing if nothing was played."""
    rows, episodes = read_metrics(folder.metrics), EpisodeLog(folder).finished("train")
    if draw_returns in panels_of(rows, episodes):
        figure, (axes,) = make_panels(1, 1, "")
        draw_returns(axes, rows, episodes)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        save(figure, path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, oldest first; one that is still being written is left out."""
    # A run may be writing: only lines that end with a newline are complete.
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def series(rows: Rows, *keys: str) -> NDArray[np.float64]:
    """[1 + len(keys), N]: the steps and values of the rows in which every key has a number."""
    whole = [row for row in rows if all(row.get(key) is not None for key in keys)]
    return np.array([[row[key] for row in whole] for key in ("step", *keys)], np.float64)


def panels_of(rows: Rows, episodes: Rows) -> list[Panel]:
    """The panels that have data."""
    played = bool(episodes) or any(series(rows, f"{phase}/return").size for phase in EVALUATIONS)
    fitted = any(series(rows, key).size for key in LOSSES)
    panels: list[Panel] = [draw_returns, draw_lengths] if played else []
    return [*panels, draw_losses] if fitted else panels


def draw_returns(axes: Axes, rows: Rows, episodes: Rows) -> None:
    """Draw every training episode, their means, and evaluations with one standard deviation."""
    draw_training(axes, rows, episodes, "return")
    for phase, style in EVALUATIONS.items():
        steps, mean, std = series(rows, f"{phase}/return", f"{phase}/return_std")
        if len(steps):
            axes.errorbar(steps, mean, std, **style)
            axes.fill_between(steps, mean - std, mean + std, color=style["color"], alpha=0.2, linewidth=0)
    set_labels(axes, "Return of episodes, ± one std for evaluations", "environment steps")
    legend(axes)


def draw_lengths(axes: Axes, rows: Rows, episodes: Rows) -> None:
    """Lengths of the episodes of the first panel."""
    draw_training(axes, rows, episodes, "length")
    for phase, style in EVALUATIONS.items():
        steps, length = series(rows, f"{phase}/length")
        if len(steps):
            axes.errorbar(steps, length, **style)
    set_labels(axes, "Length of episodes", "environment steps", "steps")
    legend(axes)


def draw_training(axes: Axes, rows: Rows, episodes: Rows, key: str) -> None:
    """Draw training episodes one by one, and their mean between two rows of metrics."""
    if episodes:
        axes.plot(*series(episodes, key), ".", color=BLUE, alpha=0.3, markersize=4, label="training episode")
        axes.plot(*series(rows, f"train/{key}"), color=BLUE, linewidth=1.4, label="training, mean")


def draw_losses(axes: Axes, rows: Rows, episodes: Rows) -> None:
    """Draw the losses after each fit of the model, on a log scale unless a likelihood is negative."""
    values = [series(rows, key) for key in LOSSES]
    for (label, colour), (steps, loss) in zip(LOSSES.values(), values, strict=True):
        if len(steps):
            axes.plot(steps, loss, color=colour, linewidth=1.4, label=label)
    if all((loss > 0).all() for _, loss in values):
        axes.set_yscale("log")
    set_labels(axes, "Model losses", "environment steps")
    legend(axes)
