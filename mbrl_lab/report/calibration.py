"""Drawings of a judgement: predicted against true, and how well a model knows how sure it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mbrl_lab.dynamics.judge import Judgement, coverage, rms
from mbrl_lab.report.canvas import BLUE, COLOURS, GREY, INK, grid, legend, name, save

PANELS = 8
"""At most so many outputs in a picture, the reward among them."""

DOTS = 2_000
"""Transitions in a scatter plot."""

BINS = 20


def shown(outputs: int) -> dict[str, int]:
    """Label and index of the outputs that are drawn: the first of the state, and the reward."""
    return {f"state {d}": d for d in range(min(outputs, PANELS) - 1)} | {"reward": outputs - 1}


def draw_against(seen: Judgement, run: str, path: Path) -> Path:
    """Mean of the elites against what happened, a panel for each output."""
    labels = shown(seen.true.shape[1])
    title = f"{run}: predicted against true change, one step, in std of the data"
    figure, axes = grid(len(labels), 3 if len(labels) <= 6 else 4, title)
    every = -(-len(seen.true) // DOTS)
    for at, (label, d) in zip(axes, labels.items(), strict=True):
        true, predicted = seen.true[::every, d].numpy(), (seen.true + seen.error)[::every, d].numpy()
        at.scatter(true, predicted, s=6, color=BLUE, alpha=0.3, linewidths=0)
        at.plot([true.min(), true.max()], [true.min(), true.max()], color=INK, linewidth=0.9, linestyle="--")
        name(at, f"{label}, rms error {float(rms(seen.error[:, d])):.2g}", "true", "predicted")
    return save(figure, path)


def draw_calibration(seen: Judgement, run: str, path: Path) -> Path:
    """Share of what happened in central intervals of every size, and where in the belief it lies."""
    figure, axes = grid(2, 2, f"{run}: does the model know how sure it is? One step ahead")
    draw_coverage(axes[0], seen.below)
    draw_belief(axes[1], seen.below)
    return save(figure, path)


def draw_coverage(axes: Axes, below: Tensor) -> None:
    """Below the diagonal: too certain; above it: not certain enough."""
    levels = np.linspace(0, 1, 41)
    curves = torch.stack([coverage(below, float(level)) for level in levels])
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=0.9)
    for (label, d), colour in zip(shown(below.shape[1]).items(), COLOURS, strict=False):
        if not curves[:, d].isnan().any():
            axes.plot(levels, curves[:, d].numpy(), color=colour, linewidth=1.3, label=label)
    name(axes, "Coverage of central intervals", "probability of the interval", "share of what happened in it")
    if axes.get_legend_handles_labels()[0]:
        legend(axes)
    else:
        axes.text(0.5, 0.5, "the model does not say how sure it is", transform=axes.transAxes, ha="center", color=GREY)


def draw_belief(axes: Axes, below: Tensor) -> None:
    """Flat if calibrated, high at both ends if too certain, high in the middle if not certain enough."""
    known = below[below.isfinite()].numpy()
    axes.stairs(
        np.histogram(known, BINS, (0, 1))[0] / max(len(known), 1) * BINS, np.linspace(0, 1, BINS + 1), color=BLUE
    )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=0.9)
    axes.set_ylim(bottom=0)
    name(axes, "Where in the belief what happened lies", "probability given to less", "density")
