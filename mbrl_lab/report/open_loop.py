"""What a model of sequences sees ahead with its eyes shut: observations imagined from the actions that were taken."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.report.canvas import BLUE, GREY, INK, ORANGE, grid, legend, name, save
from mbrl_lab.report.play import play_policy
from mbrl_lab.report.tables import AHEAD as SHOWN
from mbrl_lab.report.tables import table, write_csv
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.tracking.video import write_video
from mbrl_lab.types import Step, Tree

ENVS, STEPS = 2, 200
"""Environments side by side, and how many steps each is played."""

CONTEXT, AHEAD, STARTS = 5, 45, 40
"""Rows that are seen, rows that are imagined after them, and from how many rows at most."""

DIMENSIONS, SIDE, FPS = 8, 120, 5
"""Panels of a vector at most; pixels of an image's side in a video at least, and its frames in a second."""


class OpenLoop(NamedTuple):
    """N windows of T rows, the first CONTEXT of them seen; observations in units of the environment."""

    true: Tensor  # [T, N, *obs_shape]
    told: Tensor  # [T, N, *obs_shape]: decoded from what was inferred, then from what was imagined
    reward: Tensor  # [T, N] true
    told_reward: Tensor  # [T, N]; NaN in the context
    valid: Tensor  # [T, N] bool: the episode of the context goes on


@torch.no_grad()
def look_ahead(runner: Runner, algo: Algo, model: SequenceModel) -> OpenLoop | None:
    """Play the policy and imagine from some of its rows; None where no episode was long enough."""
    with runner.random_numbers_apart(DIAGNOSIS), runner.arithmetic():
        rows, states, *_ = play_policy(runner, algo, model, ENVS, STEPS)
        begun = starts(rows)
        return imagined(model, rows, states, begun) if len(begun) else None


def starts(rows: Step) -> Tensor:
    """[N, 2] (row, environment): the last row of each context, of which none spans an episode's beginning."""
    whole = torch.stack([~rows.first[t - CONTEXT + 2 : t + 1].any(0) for t in range(CONTEXT - 1, len(rows.first) - 1)])
    found = whole.nonzero()
    found[:, 0] += CONTEXT - 1
    return found[:: -(-len(found) // STARTS)] if len(found) else found


def imagined(model: SequenceModel, rows: Step, states: Tree, begun: Tensor) -> OpenLoop:
    """What was seen and what is imagined around rows [N, 2] of rows [T, B] with states [T, B, ...]."""
    time, env = begun.unbind(1)
    when = time + torch.arange(1 - CONTEXT, AHEAD + 1, device=time.device)[:, None]  # [T, N]
    at = when.clamp(max=len(rows.first) - 1)
    broken = rows.first[at, env] & (torch.arange(len(when), device=time.device)[:, None] >= CONTEXT)
    valid = (when < len(rows.first)) & (broken.cumsum(0) == 0)
    inferred = tree_map_only(Tensor, lambda x: x[at[:CONTEXT], env], states)
    told = [*decoded(model, inferred)]
    rewards = [torch.full_like(rows.reward[at[0], env], torch.nan)] * CONTEXT
    state = tree_map_only(Tensor, lambda x: x[time, env], states)
    for row in at[CONTEXT:]:
        state, outcome = model.imagine(state, rows.action[row, env])
        told.append(decoded(model, state))
        rewards.append(outcome.reward)
    seen = rows.obs[at, env].float(), torch.stack(told), rows.reward[at, env], torch.stack(rewards), valid
    return OpenLoop(*(x.cpu() for x in seen))


def decoded(model: WorldModel, state: Tree) -> Tensor:
    """The observations that states stand for, of a model that predicts them."""
    obs = model.decode(state)
    assert obs is not None, type(model)
    return obs


def scale_of(seen: OpenLoop) -> Tensor:
    """What errors are measured in: the deviation of each number of a vector, the greatest number of an image."""
    if seen.true.ndim > 3:
        return seen.true.max().clamp(min=1)
    std = seen.true[seen.valid].std(0)
    return torch.where(std > 1e-6, std, 1.0)


def errors(told: Tensor, seen: OpenLoop) -> Tensor:
    """[T, N]: root mean square of what was told of observations; NaN where the episode is over."""
    apart = ((told - seen.true) / scale_of(seen)).flatten(2)
    return apart.square().mean(-1).sqrt().where(seen.valid, torch.nan)


def by_step(seen: OpenLoop) -> list[dict[str, float]]:
    """For each number of steps ahead (0: the last row that was seen): medians over windows."""
    told, still = errors(seen.told, seen), errors(seen.true[CONTEXT - 1].expand_as(seen.true), seen)
    reward = (seen.told_reward - seen.reward).abs().where(seen.valid, torch.nan)
    return [
        {
            "steps": t - CONTEXT + 1,
            "windows": int(seen.valid[t].sum()),
            "error": float(told[t].nanmedian()),
            "no_change": float(still[t].nanmedian()),
            "reward_error": float(reward[t].nanmean()),
        }
        for t in range(CONTEXT - 1, len(told))
    ]


def draw_open_loop(runner: Runner, model: SequenceModel, home: Path) -> tuple[str, list[Path]]:
    """Words, and the files open_loop.png, open_loop.csv and, of images, open_loop.mp4 that were written.

    No files where the model tells no observations, or no episode was long enough.
    """
    seen = look_ahead(runner, runner.algo, model) if model.decodes else None
    if seen is None:
        why = "no episode was long enough to judge it" if model.decodes else "it tells no observations: dynamics.decode"
        return f"model     {why}", []
    rows = by_step(seen)
    said = table([row for row in rows if row["steps"] in (0, *SHOWN)])
    paths = [write_csv(rows, home / "open_loop.csv")]
    title = (
        f"{runner.folder.path.name}: {CONTEXT} rows seen, then up to {AHEAD} imagined with the actions that were taken"
    )
    if seen.true.ndim == 3:
        return said, [*paths, draw_vectors(seen, rows, title, home / "open_loop.png")]
    write_video(home / "open_loop.mp4", frames(seen), FPS)
    return said, [*paths, draw_images(seen, title, home / "open_loop.png"), home / "open_loop.mp4"]


def typical(seen: OpenLoop) -> int:
    """Of the windows whose episodes go furthest, that of median error."""
    reach = seen.valid.sum(0)
    furthest = (reach == reach.max()).nonzero()[:, 0]
    order = errors(seen.told, seen)[:, furthest].nanmean(0).argsort()
    return int(furthest[order[len(order) // 2]])


def draw_vectors(seen: OpenLoop, rows: list[dict[str, float]], title: str, path: Path) -> Path:
    """A panel for each number of one window, and the errors of all windows by steps ahead."""
    window, count = typical(seen), min(seen.true.shape[-1], DIMENSIONS)
    steps = np.arange(len(seen.true)) - CONTEXT + 1
    figure, axes = grid(count + 1, 3, title)
    for d, at in enumerate(axes[:-1]):
        alive = seen.valid[:, window]
        for x, colour, label in ((seen.true, INK, "true"), (seen.told, BLUE, "told")):
            at.plot(steps[alive], x[alive, window, d], color=colour, linewidth=1.6, label=label)
        at.axvline(0, color=GREY, linewidth=0.8)
        name(at, f"observation {d}", "steps ahead")
    for key, colour in (("error", BLUE), ("no_change", ORANGE)):
        axes[-1].plot([r["steps"] for r in rows], [r[key] for r in rows], color=colour, label=key.replace("_", " "))
    name(axes[-1], "median error, in standard deviations", "steps ahead")
    legend(axes[0])
    legend(axes[-1])
    return save(figure, path)


def draw_images(seen: OpenLoop, title: str, path: Path) -> Path:
    """Rows of pictures of one window: the truth, what was told, and how far they are apart."""
    window = typical(seen)
    columns = [*range(CONTEXT), *range(CONTEXT, int(seen.valid[:, window].sum()), AHEAD // 9)]
    strip = np.concatenate([pictures(seen, window, t) for t in columns], 1)
    error = errors(seen.told, seen)[:, window]
    figure, (at,) = grid(1, 1, title)
    figure.set_size_inches(1.2 * len(columns) + 0.8, 4.7)
    at.set_position((0.05, 0.16, 0.94, 0.72))
    at.imshow(strip, aspect="auto")
    middle = (np.arange(len(columns)) + 0.5) * strip.shape[1] / len(columns)
    at.set_xticks(middle, [f"{t - CONTEXT + 1}\n{error[t]:.3f}" for t in columns])
    at.set_yticks((np.arange(3) + 0.5) * strip.shape[0] / 3, ["true", "told", "apart"])
    at.tick_params(length=0)
    at.grid(visible=False)
    at.set_xlabel("steps ahead (up to 0: seen), and the root mean square error", fontsize=9)
    return save(figure, path)


def frames(seen: OpenLoop) -> list[NDArray[np.uint8]]:
    """[T, H, W, 3] of one window: the truth, what was told, and how far they are apart, side by side."""
    window = typical(seen)
    high = seen.true.shape[-2]
    times = -(-SIDE // high)
    return [
        np.concatenate(np.split(pictures(seen, window, t), 3), 1).repeat(times, 0).repeat(times, 1)
        for t in range(int(seen.valid[:, window].sum()))
    ]


def pictures(seen: OpenLoop, window: int, t: int) -> NDArray[np.uint8]:
    """[3 H, W, 3]: truth, what was told, and their distance, one under the other."""
    true, told = (x[t, window] / scale_of(seen) for x in (seen.true, seen.told))
    return np.concatenate([coloured(x) for x in (true, told, (true - told).abs())])


def coloured(image: Tensor) -> NDArray[np.uint8]:
    """[C, H, W] from 0 to 1 -> [H, W, 3] bytes: three channels are colours, one is grey, others have hues each."""
    channels = len(image)
    if channels not in (1, 3):
        hue = torch.arange(channels) / channels * 2 * torch.pi
        palette = 0.5 + 0.5 * torch.stack([(hue + shift).cos() for shift in (0.0, 2.1, 4.2)], -1)
        image = torch.einsum("chw,cr->rhw", image, palette)
    image = F.pad(image.expand(3, *image.shape[1:]), (0, 1, 0, 1), value=0.5)
    return (image.clamp(0, 1) * 255).byte().movedim(0, -1).numpy()
