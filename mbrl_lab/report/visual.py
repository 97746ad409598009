"""A world model of images, judged on fresh episodes: how far its frames hold, its rare outcomes, a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_lab.dynamics.image_trainer import JUDGED, ImageTrainer, assess
from mbrl_lab.dynamics.quality import AHEAD, OpenLoop, changed, f1, recall_of, tiles_right
from mbrl_lab.dynamics.visual import Visual
from mbrl_lab.protocols import Algo
from mbrl_lab.report.canvas import COLOURS, grid, legend, name, save
from mbrl_lab.report.play import observe, play_policy, play_random
from mbrl_lab.report.tables import Row, number, table, write_csv
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.video import write_video
from mbrl_lab.types import Step

ENVS, STEPS = 2, 300
"""Environments side by side, and how many steps each is played, by the policy and at random."""

FILMED = 150
"""Steps of the video."""

SIZE = 252
"""Least height of its pictures in pixels."""


class Seen(NamedTuple):
    """What was predicted of fresh episodes, and what is known by it."""

    loop: OpenLoop
    numbers: dict[str, float]
    table: list[Row]  # for each number of steps ahead
    rows: Step  # [T + 1, B] the policy's episodes


@torch.no_grad()
def examine(runner: Runner, algo: Algo, num: int = ENVS, steps: int = STEPS) -> Seen:
    """Play and predict; the same for the same weights, and without a trace in the runner."""
    model = algo.model
    assert isinstance(model, Visual), type(model)
    parts = cast(ImageTrainer, model.trainer).parts
    with runner.random_numbers_apart(DIAGNOSIS), runner.arithmetic():
        rows = play_policy(runner, algo, model, num, steps).rows
        both = Step(*(torch.cat(x, 1) for x in zip(rows, play_random(runner, num, steps), strict=True)))
        loop, found, _ = assess(model, windows(both, model.lead + 1 + max(AHEAD), JUDGED), parts)
        seen = {k: float(v) for k, v in found.items()}
        state = observe(model, rows)[:-1].flatten(0, 1)
        seen["model/disagreement"] = float(model.disagreement(state, rows.action[1:].flatten()).mean())
    said, was = changed(loop, model.far)
    still = loop._replace(predicted=loop.start.expand_as(loop.predicted))
    lines = {"changed f1": f1(said, was, loop.valid), "tiles right": tiles_right(said, was, loop.valid)}
    if parts is not None:
        lines |= {f"{k} recall": x for k, x in recall_of(parts, loop).items()}
        lines |= {f"{k}, last frame": x for k, x in recall_of(parts, still).items()}
    ahead = [{"steps": h + 1} | {k: float(x[h]) for k, x in lines.items()} for h in range(len(loop.true))]
    return Seen(loop, seen, ahead, rows)


def windows(rows: Step, length: int, most: int) -> Step:
    """[length, N] windows of rows [T + 1, B] whose first two rows are of one episode, N at most `most`, evenly."""
    starts = (~rows.first[1 : len(rows.first) - length + 2]).nonzero()
    starts = starts[torch.linspace(0, len(starts) - 1, min(most, len(starts))).long().to(starts.device)]
    time = starts[:, 0] + torch.arange(length, device=starts.device).unsqueeze(-1)
    return rows.at((time, starts[:, 1]))


def draw_visual(seen: Seen, model: Visual, run: str, home: Path, fps: float) -> list[Path]:
    """Write frames.png, frames.mp4, frames.csv and model.json."""
    figure, axes = grid(1, 1, f"{run}: open-loop frames on fresh episodes")
    for label, colour in zip([k for k in seen.table[0] if k != "steps"], COLOURS, strict=False):
        steps, share = [row["steps"] for row in seen.table], [row[label] for row in seen.table]
        axes[0].plot(steps, share, color=colour, label=label, linestyle="--" if "last frame" in label else "-")
    axes[0].set_ylim(-0.02, 1.02)
    name(axes[0], "Predicted right (the last frame again: 0)", "steps ahead", "share")
    legend(axes[0])
    save(figure, home / "frames.png")
    write_csv(seen.table, home / "frames.csv")
    write_text(home / "model.json", json.dumps(seen.numbers, indent=2) + "\n")
    write_video(home / "frames.mp4", film(model, seen.rows), fps)
    return [home / "frames.png", home / "frames.mp4", home / "frames.csv", home / "model.json"]


@torch.no_grad()
def film(model: Visual, rows: Step) -> list[NDArray[np.uint8]]:
    """Truth, prediction and where they differ, side by side, of the first environment.

    The prediction begins anew from the truth every so many steps as are judged, and where an episode begins.
    """
    pictures = []
    states = observe(model, rows.at((slice(0, FILMED), slice(0, 1))))
    state = states[0]
    for t in range(len(states) - 1):
        row = rows.at((t + 1, slice(0, 1)))
        begins = t % max(AHEAD) == 0 or bool(row.first)
        state = model.expect(states[t] if begins else state, row.action)[0]
        state = states[t + 1] if row.first else state
        true, said = (x[0, -model.shape[0] :] for x in (states[t + 1], state))
        apart = (true.short() - said.short()).abs().to(torch.uint8)
        pictures.append(np.concatenate([coloured(x) for x in (true, said, apart)], 1))
    return pictures


def coloured(frame: Tensor) -> NDArray[np.uint8]:
    """[C, H, W] -> [H', W', 3]: grey as it is, channels of 0 and 1 in colours of their own; enlarged."""
    times = -(-SIZE // frame.shape[1])
    if len(frame) == 1:
        picture = frame[0, :, :, None].expand(-1, -1, 3).float()
    else:
        hues = torch.tensor([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in COLOURS], dtype=torch.float32)
        picture = (frame.cpu().float().unsqueeze(-1) * hues[: len(frame), None, None]).amax(0)
    return picture.byte().cpu().numpy().repeat(times, 0).repeat(times, 1)


def visual_words(seen: Seen) -> str:
    """What `scripts/evaluate.py RUN --model` prints."""
    known = seen.numbers
    lines = [
        f"open loop on fresh episodes, from {seen.loop.start.shape[0]} starts; the last frame again has an f1 of 0",
        table([row for row in seen.table if row["steps"] in AHEAD]),
    ]
    for kind in ("reward", "end"):
        if f"model/{kind}_recall" in known:
            words = ("precision", "recall", "average_precision", "calibration")
            said = ", ".join(f"{w.replace('_', ' ')} {number(known[f'model/{kind}_{w}'])}" for w in words)
            lines.append(f"{kind:8} {said}")
    lines.append(f"members  disagree by {number(known['model/disagreement'])}")
    length = max(1, int(known["model/earned_length"]))
    lines.append(f"earned   rollouts of {length} steps, by the possible outcomes nearest to the truth")
    return "\n".join(lines)
