"""Figures of a validation: predicted against true outputs, and calibration of the predicted uncertainty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from mbrl_lab.dynamics.validation import Validation, coverage, rms
from mbrl_lab.report.figure import BLUE, COLOURS, GREY, INK, legend, make_panels, save, set_labels

PANELS = 8
"""Maximum number of outputs in a picture, including the reward."""

DOTS = 2_000
"""Maximum number of transitions in a scatter plot."""

BINS = 20


def shown(outputs: int) -> dict[str, int]:
    """Label and index of the outputs that are drawn: the first of the state, and the reward."""
    return {f"state {d}": d for d in range(min(outputs, PANELS) - 1)} | {"reward": outputs - 1}


def draw_output_scatter(validation: Validation, run: str, path: Path) -> Path:
    """Mean prediction of the elites against the truth, a panel for each output."""
    labels = shown(validation.true.shape[1])
    title = f"{run}: predicted against true change, one step, in std of the data"
    figure, axes = make_panels(len(labels), 3 if len(labels) <= 6 else 4, title)
    # Thinned evenly, since more dots hide each other.
    every = -(-len(validation.true) // DOTS)
    for at, (label, d) in zip(axes, labels.items(), strict=True):
        true, predicted = validation.true[::every, d].numpy(), (validation.true + validation.error)[::every, d].numpy()
        at.scatter(true, predicted, s=6, color=BLUE, alpha=0.3, linewidths=0)
        at.plot([true.min(), true.max()], [true.min(), true.max()], color=INK, linewidth=0.9, linestyle="--")
        set_labels(at, f"{label}, rms error {float(rms(validation.error[:, d])):.2g}", "true", "predicted")
    return save(figure, path)


def draw_calibration(validation: Validation, run: str, path: Path) -> Path:
    """Coverage of central intervals of every size, and the histogram of predicted quantiles of the truth."""
    figure, axes = make_panels(2, 2, f"{run}: calibration of the predicted uncertainty, one step ahead")
    draw_coverage(axes[0], validation.quantile)
    draw_quantiles(axes[1], validation.quantile)
    return save(figure, path)


def draw_coverage(axes: Axes, quantile: Tensor) -> None:
    """Draw coverage against level. Below the diagonal: overconfident; above it: underconfident."""
    levels = np.linspace(0, 1, 41)
    curves = torch.stack([coverage(quantile, float(level)) for level in levels])
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=0.9)
    for (label, d), colour in zip(shown(quantile.shape[1]).items(), COLOURS, strict=False):
        # An output without predicted uncertainty has no quantiles, and so no coverage.
        if not curves[:, d].isnan().any():
            axes.plot(levels, curves[:, d].numpy(), color=colour, linewidth=1.3, label=label)
    set_labels(axes, "Coverage of central intervals", "probability of the interval", "fraction of true values in it")
    if axes.get_legend_handles_labels()[0]:
        legend(axes)
    else:
        axes.text(0.5, 0.5, "the model predicts no uncertainty", transform=axes.transAxes, ha="center", color=GREY)


def draw_quantiles(axes: Axes, quantile: Tensor) -> None:
    """Draw a histogram: flat if calibrated, high at both sides if overconfident, in the middle if underconfident."""
    known = quantile[quantile.isfinite()].numpy()
    axes.stairs(
        np.histogram(known, BINS, (0, 1))[0] / max(len(known), 1) * BINS, np.linspace(0, 1, BINS + 1), color=BLUE
    )
    axes.axhline(1, color=GREY, linestyle="--", linewidth=0.9)
    axes.set_ylim(bottom=0)
    set_labels(axes, "Predicted quantile of the true value", "quantile", "density")
