"""An environment as the agent sees it: names of its actions, and a picture of an observation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from mbrl_lab.env import Envs
from mbrl_lab.report.figure import INK, save
from mbrl_lab.tracking.video import frame_of, reason, rendering

STEPS = 20  # random actions before the picture, after which stacks of frames are full
ROW = 4  # channels side by side
SIDE = 2.4  # inches per channel
NUMBERS = 24  # of an observation are shown at most


def meanings(envs: Envs) -> list[str]:
    """Names of the actions, if the environment has them: in `action_meanings`, or by ALE's method."""
    vector = envs.vector
    inner = vector.envs[0].unwrapped if hasattr(vector, "envs") else vector
    names = getattr(inner, "action_meanings", None)
    return list(names if names is not None else getattr(inner, "get_action_meanings", list)())


def picture(envs: Envs, make: Callable[..., Any], path: Path) -> Path:
    """A picture of environment 0 after some random actions, at `path`.

    Images: their channels side by side. Vectors: the rendered frame beside the numbers.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same picture each time.
    torch.manual_seed(0)
    if len(envs.spec.obs_shape) == 3:
        return save(channels(observed(envs)[0].numpy(), getattr(envs.vector, "channels", ())), path)
    return save(scene(*rendered(envs, make)), path)


def observed(envs: Envs) -> Tensor:
    """[B, *obs_shape] after STEPS random actions of one episode; of the last step if no episode is that long."""
    row, since = envs.reset(), 0
    for _ in range(50 * STEPS):
        row = envs.step(envs.spec.sample(envs.num))
        # Until then a stack has empty frames.
        since = 0 if row.first[0] else since + 1
        if since == STEPS:
            break
    return row.obs


def rendered(envs: Envs, make: Callable[..., Any]) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A frame [H, W, 3] and the observation of the same step."""
    # Some simulators allow only one instance at a time.
    envs.close()
    with rendering(make) as env:
        obs, _ = env.reset(seed=0)
        for _ in range(STEPS):
            action = envs.spec.sample(1)[0].numpy()
            obs, _, terminated, truncated, _ = env.step(int(action) if envs.spec.discrete else action)
            if terminated or truncated:
                break
        return frame_of(env), obs


def channels(obs: NDArray[Any], names: tuple[str, ...]) -> Figure:
    """[C, H, W] as C grey pictures; white is 255, or 1 if no value is larger."""
    columns = min(len(obs), ROW)
    rows = -(-len(obs) // columns)
    figure = Figure(figsize=(SIDE * columns, (SIDE + 0.3) * rows), layout="constrained")
    white = 255 if obs.max() > 1 else 1
    for k, image in enumerate(obs):
        axes = bare(figure.add_subplot(rows, columns, k + 1), names[k] if names else f"channel {k}")
        axes.imshow(image, cmap="gray", vmin=0, vmax=white, interpolation="nearest")
    return figure


def scene(frame: NDArray[np.uint8], obs: NDArray[Any]) -> Figure:
    """A frame beside the observation of the same step."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    bare(left, "a frame of a video").imshow(frame)
    lines = [f"{k:>4}  {x: .4g}" for k, x in enumerate(obs.flatten()[:NUMBERS].tolist())]
    lines += [f"      and {obs.size - NUMBERS} more"] if obs.size > NUMBERS else []
    bare(right, "the observation").text(0, 1, "\n".join(lines), va="top", family="monospace", fontsize=9, color=INK)
    return figure


def bare(axes: Axes, title: str) -> Axes:
    """Remove ticks and frame."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_axis_off()
    return axes


def sight(envs: Envs, make: Callable[..., Any], path: Path) -> str:
    """The path of the picture, or the reason why there is none."""
    try:
        return str(picture(envs, make, path))
    except Exception as error:
        return f"none: {reason(error)}"
