"""Figures of open-loop predictions, and of the returns that a planner predicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mbrl_lab.report.figure import BLUE, COLOURS, GREY, INK, ORANGE, RED, legend, make_panels, save, set_labels
from mbrl_lab.report.open_loop import COPIES, TINY, OpenLoop, no_change_error, state_error, state_spread, typical
from mbrl_lab.report.predicted_return import correlation, known_pairs, longest_episode

Array = NDArray[Any]

PANELS = 8
"""Maximum number of dimensions in a picture, including the reward."""

BINS = 61
NEAR = 15
"""Maximum number of steps before a termination for which its prediction is drawn."""


def draw_predicted(far: OpenLoop, scale: Tensor, run: str, path: Path) -> Path:
    """Draw the start with the median error: each copy's open-loop trajectory as a thin line, and the truth."""
    start, steps = typical(far, scale)
    fan, true = trajectories(far, start, steps)

    shown = shown_outputs(far)
    title = f"{run}: open-loop prediction over {steps} steps with the true actions, a line for each member"
    figure, axes = make_panels(len(shown), 3 if len(shown) <= 6 else 4, title)

    for at, (label, d) in zip(axes, shown.items(), strict=True):
        at.plot(fan[..., d], color=BLUE, alpha=0.35, linewidth=0.9)
        at.plot(true[:, d], color=INK, linewidth=1.8, label="true")
        # One legend entry for all the thin lines.
        at.plot([], [], color=BLUE, linewidth=0.9, label="predicted")
        limit_to_truth(at, true[:, d], float(scale[d]))
        set_labels(at, label, "steps ahead")
    legend(axes[0])
    return save(figure, path)


def trajectories(far: OpenLoop, start: int, steps: int) -> tuple[Array, Array]:
    """[steps + 1, C, D + 1] predicted and [steps + 1, D + 1] true, beginning at the start, whose reward is NaN."""
    begin = F.pad(far.start[start], (0, 1), value=torch.nan)
    fan = torch.cat([begin.expand(1, COPIES, -1), far.predicted[:steps, :, start]])
    return fan.numpy(), torch.cat([begin[None], far.true[:steps, start]]).numpy()


def limit_to_truth(axes: Axes, true: Array, least: float) -> None:
    """Limit the y axis: a diverging member must not flatten the truth, nor a constant truth be magnified."""
    low, high = np.nanmin(true), np.nanmax(true)
    # A constant truth gets a few standard deviations of room.
    room = max(1.5 * (high - low), 5 * least)
    below, above = axes.get_ylim()
    axes.set_ylim(max(min(below, low - least / 2), low - room), min(max(above, high + least / 2), high + room))


def draw_errors(
    one: OpenLoop, far: OpenLoop, scale: Tensor, termination: Tensor, left: Tensor, run: str, path: Path
) -> Path:
    """Draw one-step errors of state and reward, the error against the horizon, and predicted terminations."""
    figure, axes = make_panels(4, 2, f"{run}: model errors on fresh episodes")
    shown = shown_outputs(one)
    error = one.predicted - one.true[:, None]
    draw_histograms(axes[0], {label: (error / scale)[..., d] for label, d in shown.items() if label != "reward"})
    set_labels(
        axes[0], "One-step error of the state", "predicted - true, in std of the true one-step change", "density"
    )
    draw_histograms(axes[1], {"reward": error[..., -1]})
    set_labels(axes[1], "One-step error of the reward", "predicted - true", "density")
    draw_growth(axes[2], far, scale)
    draw_termination(axes[3], termination, left)
    return save(figure, path)


def draw_histograms(axes: Axes, errors: dict[str, Tensor]) -> None:
    """Draw an outline for each, around zero, over nearly all values."""
    finite = {label: error[error.isfinite()].double().numpy() for label, error in errors.items()}
    # Up to the 99.5th percentile, otherwise one outlier compresses the rest into a single bar.
    sizes = np.abs(np.concatenate([*finite.values(), [TINY]]))
    edges = np.linspace(-1, 1, BINS) * max(np.quantile(sizes, 0.995), TINY)
    for (label, error), colour in zip(finite.items(), COLOURS, strict=False):
        density = np.histogram(error, edges)[0] / max(len(error), 1) / (edges[1] - edges[0])
        rms = np.sqrt(np.square(error).mean()) if len(error) else math.nan
        axes.stairs(density, edges, color=colour, linewidth=1.4, label=f"{label}, rms {rms:.2g}")
    legend(axes)


def draw_growth(axes: Axes, far: OpenLoop, scale: Tensor) -> None:
    """Draw median and quartiles over starts; predicting no change is the baseline."""
    steps = np.arange(1, 1 + len(far.valid))
    error = _quartiles(state_error(far, scale))
    axes.fill_between(steps, error[0], error[2], color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(steps, error[1], color=BLUE, label="model, median and quartiles")
    axes.plot(steps, _quartiles(state_spread(far, scale))[1], color=ORANGE, label="spread of its copies, median")
    axes.plot(steps, _quartiles(no_change_error(far, scale))[1], "--", color=GREY, label="no change")
    axes.set_yscale("log")
    set_labels(axes, "Open-loop error of the state", "steps ahead", "rms, in std of the one-step change")
    legend(axes)


def draw_termination(axes: Axes, termination: Tensor, left: Tensor) -> None:
    """Draw the predicted probability of termination in the last steps before true terminations, and elsewhere.

    Args:
        termination: [M] predicted probabilities.
        left: [M] steps to the true termination; inf: none was observed.
    """
    set_labels(
        axes, "Predicted terminations, policy and random actions", "steps to the true termination", "probability"
    )
    axes.set_ylim(-0.03, 1.03)
    # Time runs to the right: the termination is at 0.
    axes.set_xlim(NEAR + 0.5, -0.5)

    other = left > NEAR
    if other.any():
        label = f"further away, mean and 95th percentile ({int(other.sum())} steps)"
        axes.axhline(float(termination[other].mean()), color=GREY, linestyle="--", label=label)
        axes.axhspan(0, float(termination[other].quantile(0.95)), color=GREY, alpha=0.2, linewidth=0)

    near = [d for d in range(NEAR + 1) if (left == d).any()]
    if near:
        levels = torch.tensor([0.1, 0.5, 0.9])
        low, middle, high = torch.stack([termination[left == d].quantile(levels) for d in near], 1)
        bars = torch.stack([middle - low, high - middle])
        label = "median, 10 to 90 %"
        axes.errorbar(near, middle, bars, fmt="o", color=RED, markersize=4, capsize=2, label=label)
    else:
        axes.text(0.5, 0.5, "no episode terminated", transform=axes.transAxes, ha="center", color=GREY)
    legend(axes)


def draw_planned(predicted_return: Tensor, achieved: Tensor, first: Tensor, run: str, path: Path) -> Path:
    """Draw the predicted against the achieved return of plans: all steps, and one episode over time."""
    figure, axes = make_panels(2, 2, f"{run}: predicted return of the plan, and return achieved over its horizon")
    draw_return_scatter(axes[0], *known_pairs(predicted_return, achieved))

    # The last step of an episode has no plan whose return could follow.
    env, start, stop = longest_episode(first)
    axes[1].plot(predicted_return[start : stop - 1, env].numpy(), color=BLUE, label="planned")
    axes[1].plot(achieved[start : stop - 1, env].numpy(), color=ORANGE, label="achieved")
    set_labels(axes[1], "The longest episode", "step of the episode", "return")
    legend(axes[1])
    return save(figure, path)


def draw_return_scatter(axes: Axes, planned: Tensor, achieved: Tensor) -> None:
    """Draw [N] against [N], and the diagonal on which both are equal."""
    r = correlation(planned, achieved)
    text = "no correlation: one of them does not vary" if math.isnan(r) else f"correlation {r:.2f}"
    axes.scatter(planned.numpy(), achieved.numpy(), s=10, color=BLUE, alpha=0.35, linewidths=0)

    if len(planned):
        x, y = axes.dataLim.intervalx, axes.dataLim.intervaly
        limits = [min(x[0], y[0]), max(x[1], y[1])]
        axes.plot(limits, limits, color=INK, linewidth=0.9, linestyle="--", label="planned = achieved")
        legend(axes)
    set_labels(axes, f"{len(planned)} steps, {text}", "planned", "achieved")


def shown_outputs(loop: OpenLoop) -> dict[str, int]:
    """Label and index of the outputs that are drawn: the first of the state, and the reward."""
    size = loop.start.shape[1]
    return {f"state {d}": d for d in range(min(size, PANELS - 1))} | {"reward": size}


def _quartiles(error: Tensor) -> Array:
    """[H, N] -> [3, H]; positive, for a log scale."""
    return error.nanquantile(torch.tensor([0.25, 0.5, 0.75]), 1).clamp(min=TINY).numpy()
