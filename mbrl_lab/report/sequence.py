"""Open-loop predictions of a sequence model: observations imagined with the true actions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.report.figure import BLUE, GREY, INK, ORANGE, legend, make_panels, save, set_labels
from mbrl_lab.report.play import play_policy
from mbrl_lab.report.tables import SHOWN_STEPS, table, write_csv
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.tracking.video import write_video
from mbrl_lab.types import Step, Tree

ENVS, STEPS = 2, 200
"""Number of environments, and of steps in each."""

CONTEXT, IMAGINED, STARTS = 5, 45, 40
"""Observed steps, imagined steps after them, and the maximum number of windows."""

DIMENSIONS, SIDE, FPS = 8, 120, 5
"""Maximum number of panels of a vector; minimum side of an image in a video in pixels, and its frames per second."""


class DecodedWindows(NamedTuple):
    """N windows of T steps, the first CONTEXT of them observed; observations in units of the environment."""

    true: Tensor  # [T, N, *obs_shape]
    decoded_obs: Tensor  # [T, N, *obs_shape]: of posterior states, then of imagined ones
    reward: Tensor  # [T, N] true
    decoded_reward: Tensor  # [T, N]; NaN in the context
    valid: Tensor  # [T, N] bool: still the episode of the context


@torch.no_grad()
def decode_windows(runner: Runner, algo: Algo, model: WorldModel) -> DecodedWindows | None:
    """Play the policy and imagine from some of its steps; None if no episode was long enough."""
    with runner.separate_randomness(DIAGNOSIS), runner.autocast():
        steps, states, *_ = play_policy(runner, algo, model, ENVS, STEPS)
        begun = starts(steps)
        return imagined(model, steps, states, begun) if len(begun) else None


def starts(steps: Step) -> Tensor:
    """[N, 2] (time, environment): the last step of each context; no context crosses an episode boundary."""
    times = range(CONTEXT - 1, len(steps.first) - 1)
    whole = torch.stack([~steps.first[t - CONTEXT + 2 : t + 1].any(0) for t in times])
    found = whole.nonzero()
    found[:, 0] += CONTEXT - 1
    # Thinned evenly over time and environments.
    return found[:: -(-len(found) // STARTS)] if len(found) else found


def imagined(model: WorldModel, steps: Step, states: Tree, begun: Tensor) -> DecodedWindows:
    """The windows around `begun` [N, 2] in steps [T, B], at which the model has states [T, B, ...]."""
    # The time of each step of a window, and whether it still belongs to the context's episode.
    time, env = begun.unbind(1)
    when = time + torch.arange(1 - CONTEXT, IMAGINED + 1, device=time.device)[:, None]  # [T, N]
    at = when.clamp(max=len(steps.first) - 1)
    next_episode = steps.first[at, env] & (torch.arange(len(when), device=time.device)[:, None] >= CONTEXT)
    valid = (when < len(steps.first)) & (next_episode.cumsum(0) == 0)

    # In the context the posterior states are decoded; it has no predicted rewards.
    inferred = tree_map_only(Tensor, lambda x: x[at[:CONTEXT], env], states)
    decoded_obs = [*decoded(model, inferred)]
    rewards = [torch.full_like(steps.reward[at[0], env], torch.nan)] * CONTEXT

    # From the last of them on the model gets only actions.
    state = tree_map_only(Tensor, lambda x: x[time, env], states)
    for t in at[CONTEXT:]:
        state, outcome = model.imagine(state, steps.action[t, env])
        decoded_obs.append(decoded(model, state))
        rewards.append(outcome.reward)
    fields = steps.obs[at, env].float(), torch.stack(decoded_obs), steps.reward[at, env], torch.stack(rewards), valid
    return DecodedWindows(*(x.cpu() for x in fields))


def decoded(model: WorldModel, state: Tree) -> Tensor:
    """The reconstructed observations of states, of a model that decodes them."""
    obs = model.decode(state)
    assert obs is not None, type(model)
    return obs


def obs_scale(windows: DecodedWindows) -> Tensor:
    """The unit of errors: the standard deviation of each dimension of a vector, the maximum of an image."""
    if windows.true.ndim > 3:
        return windows.true.max().clamp(min=1)
    std = windows.true[windows.valid].std(0)
    return torch.where(std > 1e-6, std, 1.0)


def errors(decoded_obs: Tensor, windows: DecodedWindows) -> Tensor:
    """[T, N]: root mean square error of observations; NaN after the episode."""
    error = ((decoded_obs - windows.true) / obs_scale(windows)).flatten(2)
    return error.square().mean(-1).sqrt().where(windows.valid, torch.nan)


def by_step(windows: DecodedWindows) -> list[dict[str, float]]:
    """For each number of steps ahead (0: the last one observed): medians over windows."""
    error = errors(windows.decoded_obs, windows)
    no_change = errors(windows.true[CONTEXT - 1].expand_as(windows.true), windows)
    reward = (windows.decoded_reward - windows.reward).abs().where(windows.valid, torch.nan)

    return [
        {
            "steps": t - CONTEXT + 1,
            "windows": int(windows.valid[t].sum()),
            "error": float(error[t].nanmedian()),
            "no_change": float(no_change[t].nanmedian()),
            "reward_error": float(reward[t].nanmean()),
        }
        for t in range(CONTEXT - 1, len(error))
    ]


def draw_open_loop(runner: Runner, model: WorldModel, home: Path) -> tuple[str, list[Path]]:
    """Write open_loop.png, open_loop.csv and, for images, open_loop.mp4. Returns a text and the files.

    There are no files if the model does not decode observations, or if no episode was long enough.
    """
    windows = decode_windows(runner, runner.algo, model) if model.decodes else None
    if windows is None:
        why = "no episode was long enough" if model.decodes else "it does not decode observations: dynamics.decode"
        return f"model     {why}", []
    rows = by_step(windows)
    text = table([row for row in rows if row["steps"] in (0, *SHOWN_STEPS)])
    paths = [write_csv(rows, home / "open_loop.csv")]
    title = f"{runner.folder.path.name}: {CONTEXT} steps observed, up to {IMAGINED} imagined with the true actions"
    if windows.true.ndim == 3:
        return text, [*paths, draw_vectors(windows, rows, title, home / "open_loop.png")]
    write_video(home / "open_loop.mp4", frames(windows), FPS)
    return text, [*paths, draw_images(windows, title, home / "open_loop.png"), home / "open_loop.mp4"]


def typical(windows: DecodedWindows) -> int:
    """Of the windows with the most valid steps, the one with the median error."""
    reach = windows.valid.sum(0)
    furthest = (reach == reach.max()).nonzero()[:, 0]
    order = errors(windows.decoded_obs, windows)[:, furthest].nanmean(0).argsort()
    return int(furthest[order[len(order) // 2]])


def draw_vectors(windows: DecodedWindows, rows: list[dict[str, float]], title: str, path: Path) -> Path:
    """Draw a panel for each dimension of one window, and the errors of all windows by steps ahead."""
    window, count = typical(windows), min(windows.true.shape[-1], DIMENSIONS)
    steps = np.arange(len(windows.true)) - CONTEXT + 1
    figure, axes = make_panels(count + 1, 3, title)
    for d, at in enumerate(axes[:-1]):
        alive = windows.valid[:, window]
        for x, colour, label in ((windows.true, INK, "true"), (windows.decoded_obs, BLUE, "predicted")):
            at.plot(steps[alive], x[alive, window, d], color=colour, linewidth=1.6, label=label)
        at.axvline(0, color=GREY, linewidth=0.8)
        set_labels(at, f"observation {d}", "steps ahead")

    for key, colour in (("error", BLUE), ("no_change", ORANGE)):
        axes[-1].plot([r["steps"] for r in rows], [r[key] for r in rows], color=colour, label=key.replace("_", " "))
    set_labels(axes[-1], "median error, in standard deviations", "steps ahead")

    legend(axes[0])
    legend(axes[-1])
    return save(figure, path)


def draw_images(windows: DecodedWindows, title: str, path: Path) -> Path:
    """Draw one window in three rows: the truth, the prediction, and their difference."""
    window = typical(windows)
    # The whole context, then every fifth imagined step.
    columns = [*range(CONTEXT), *range(CONTEXT, int(windows.valid[:, window].sum()), IMAGINED // 9)]
    strip = np.concatenate([pictures(windows, window, t) for t in columns], 1)
    error = errors(windows.decoded_obs, windows)[:, window]

    figure, (at,) = make_panels(1, 1, title)
    figure.set_size_inches(1.2 * len(columns) + 0.8, 4.7)
    at.set_position((0.05, 0.16, 0.94, 0.72))
    at.imshow(strip, aspect="auto")

    middle = (np.arange(len(columns)) + 0.5) * strip.shape[1] / len(columns)
    at.set_xticks(middle, [f"{t - CONTEXT + 1}\n{error[t]:.3f}" for t in columns])
    at.set_yticks((np.arange(3) + 0.5) * strip.shape[0] / 3, ["true", "predicted", "difference"])
    at.tick_params(length=0)
    at.grid(visible=False)
    at.set_xlabel("steps ahead (up to 0: observed), and the root mean square error", fontsize=9)
    return save(figure, path)


def frames(windows: DecodedWindows) -> list[NDArray[np.uint8]]:
    """[T, H, W, 3] of one window: the truth, the prediction, and their difference, side by side."""
    window = typical(windows)
    high = windows.true.shape[-2]
    times = -(-SIDE // high)
    return [
        np.concatenate(np.split(pictures(windows, window, t), 3), 1).repeat(times, 0).repeat(times, 1)
        for t in range(int(windows.valid[:, window].sum()))
    ]


def pictures(windows: DecodedWindows, window: int, t: int) -> NDArray[np.uint8]:
    """[3 H, W, 3]: truth, prediction, and their difference, one under the other."""
    true, decoded_obs = (x[t, window] / obs_scale(windows) for x in (windows.true, windows.decoded_obs))
    return np.concatenate([coloured(x) for x in (true, decoded_obs, (true - decoded_obs).abs())])


def coloured(image: Tensor) -> NDArray[np.uint8]:
    """[C, H, W] from 0 to 1 -> [H, W, 3] bytes: three channels are RGB, one is grey, others get a hue each."""
    # Hues evenly around the colour circle, three phase-shifted cosines.
    channels = len(image)
    if channels not in (1, 3):
        hue = torch.arange(channels) / channels * 2 * torch.pi
        palette = 0.5 + 0.5 * torch.stack([(hue + shift).cos() for shift in (0.0, 2.1, 4.2)], -1)
        image = torch.einsum("chw,cr->rhw", image, palette)
    image = F.pad(image.expand(3, *image.shape[1:]), (0, 1, 0, 1), value=0.5)
    return (image.clamp(0, 1) * 255).byte().movedim(0, -1).numpy()
