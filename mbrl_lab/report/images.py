"""A world model of images on fresh episodes: errors of its frames by steps ahead, rare outcomes, and a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl_lab.dynamics.image_trainer import VALIDATED, ImageTrainer, assess
from mbrl_lab.dynamics.quality import HORIZONS, FramePredictions, changed, f1, recall_of, tiles_right
from mbrl_lab.dynamics.visual import Visual
from mbrl_lab.protocols import Algo, WorldModel
from mbrl_lab.report.figure import COLOURS, legend, make_panels, save, set_labels
from mbrl_lab.report.play import observe, play_policy, play_random
from mbrl_lab.report.tables import Row, number, table, write_csv
from mbrl_lab.runner import DIAGNOSIS, Runner
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.video import write_video
from mbrl_lab.types import Step

ENVS, STEPS = 2, 300
"""Number of environments, and of steps in each, of the policy and of random actions."""

FILMED = 150
"""Steps of the video."""

FPS = 10.0
"""Frames per second of the video."""

SIZE = 252
"""Minimum height of its pictures in pixels."""


class ImageDiagnosis(NamedTuple):
    """Open-loop predictions of fresh episodes, and their errors."""

    loop: FramePredictions
    numbers: dict[str, float]
    table: list[Row]  # for each number of steps ahead
    steps: Step  # [T + 1, B] the policy's episodes


@torch.no_grad()
def diagnose_images(runner: Runner, algo: Algo, num: int = ENVS, steps: int = STEPS) -> ImageDiagnosis:
    """Play and predict. The result depends only on the weights, and the runner is not changed.

    Args:
        runner: provides environments and device.
        algo: acts, and has the model.
        num: number of environments.
        steps: steps in each, of the policy and of random actions.
    """
    model = cast(Visual, algo.world_model)
    objects = cast(ImageTrainer, model.trainer).objects
    with runner.separate_randomness(DIAGNOSIS), runner.autocast():
        played = play_policy(runner, algo, model, num, steps).steps
        # Random play as well: a good policy rarely loses the ball, so its episodes have few terminations.
        both = Step(*(torch.cat(x, 1) for x in zip(played, play_random(runner, num, steps), strict=True)))
        loop, metrics, _ = assess(model, windows(both, model.lead + 1 + max(HORIZONS), VALIDATED), objects)

        state = observe(model, played)[:-1].flatten(0, 1)
        disagreement = model.disagreement(state, played.action[1:].flatten()).mean()

    # Rates of correct predictions by steps ahead, and those of repeating the last frame.
    predicted, true = changed(loop, model.change_threshold)
    lines = {"changed f1": f1(predicted, true, loop.valid), "tiles right": tiles_right(predicted, true, loop.valid)}
    if objects is not None:
        repeated = loop._replace(predicted=loop.start.expand_as(loop.predicted))
        lines |= {f"{k} recall": x for k, x in recall_of(objects, loop).items()}
        lines |= {f"{k}, last frame": x for k, x in recall_of(objects, repeated).items()}
    ahead = [{"steps": h + 1} | {k: float(x[h]) for k, x in lines.items()} for h in range(len(loop.true))]

    numbers = {k: float(v) for k, v in metrics.items()} | {"model/rollout/disagreement": float(disagreement)}
    return ImageDiagnosis(loop, numbers, ahead, played)


def windows(steps: Step, length: int, most: int) -> Step:
    """[length, N] windows of steps [T + 1, B], N at most `most`, evenly spaced; the first two are of one episode."""
    starts = (~steps.first[1 : len(steps.first) - length + 2]).nonzero()
    starts = starts[torch.linspace(0, len(starts) - 1, min(most, len(starts))).long().to(starts.device)]
    time = starts[:, 0] + torch.arange(length, device=starts.device).unsqueeze(-1)
    return steps.at((time, starts[:, 1]))


def draw_frames(runner: Runner, model: WorldModel, home: Path) -> tuple[str, list[Path]]:
    """Validate a model of images. Returns a text and files."""
    diagnosis = diagnose_images(runner, runner.algo)
    return describe_images(diagnosis), draw_images(diagnosis, cast(Visual, model), runner.folder.path.name, home)


def draw_images(diagnosis: ImageDiagnosis, model: Visual, run: str, home: Path) -> list[Path]:
    """Write frames.png, frames.mp4, frames.csv and model.json."""
    figure, axes = make_panels(1, 1, f"{run}: open-loop frames on fresh episodes")
    for label, colour in zip([k for k in diagnosis.table[0] if k != "steps"], COLOURS, strict=False):
        steps, rate = [row["steps"] for row in diagnosis.table], [row[label] for row in diagnosis.table]
        axes[0].plot(steps, rate, color=colour, label=label, linestyle="--" if "last frame" in label else "-")
    # Repeating the last frame has an f1 of 0, so the axis begins below it.
    axes[0].set_ylim(-0.02, 1.02)
    set_labels(axes[0], "Predicted correctly (repeating the last frame: 0)", "steps ahead", "fraction")
    legend(axes[0])

    save(figure, home / "frames.png")
    write_csv(diagnosis.table, home / "frames.csv")
    write_text(home / "model.json", json.dumps(diagnosis.numbers, indent=2) + "\n")
    write_video(home / "frames.mp4", video_frames(model, diagnosis.steps), FPS)
    return [home / "frames.png", home / "frames.mp4", home / "frames.csv", home / "model.json"]


@torch.no_grad()
def video_frames(model: Visual, steps: Step) -> list[NDArray[np.uint8]]:
    """Truth, prediction and their difference, side by side, of the first environment.

    The prediction restarts from the truth after max(HORIZONS) steps, and at the beginning of an episode.
    """
    frames = []
    states = observe(model, steps.at((slice(0, FILMED), slice(0, 1))))
    state = states[0]
    for t in range(len(states) - 1):
        step = steps.at((t + 1, slice(0, 1)))
        restart = t % max(HORIZONS) == 0 or bool(step.first)
        # The most likely frame, not a sample: a video of samples would flicker.
        state = model.expect(states[t] if restart else state, step.action)[0]
        state = states[t + 1] if step.first else state

        true, predicted = (x[0, -model.shape[0] :] for x in (states[t + 1], state))
        difference = (true.short() - predicted.short()).abs().to(torch.uint8)
        frames.append(np.concatenate([coloured(x) for x in (true, predicted, difference)], 1))
    return frames


def coloured(frame: Tensor) -> NDArray[np.uint8]:
    """[C, H, W] -> [H', W', 3]: grey frames stay grey, channels of 0 and 1 get a colour each; enlarged."""
    # Enlarged by an integer factor, so that pixels stay sharp.
    times = -(-SIZE // frame.shape[1])
    if len(frame) == 1:
        picture = frame[0, :, :, None].expand(-1, -1, 3).float()
    else:
        hues = torch.tensor([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in COLOURS], dtype=torch.float32)
        hues = hues[torch.arange(len(frame)) % len(hues)]  # Seaquest has more channels than there are colours
        picture = (frame.cpu().float().unsqueeze(-1) * hues[:, None, None]).amax(0)
    return picture.byte().cpu().numpy().repeat(times, 0).repeat(times, 1)


def describe_images(diagnosis: ImageDiagnosis) -> str:
    """The text that `scripts/evaluate.py RUN --model` prints."""
    known, starts = diagnosis.numbers, diagnosis.loop.start.shape[0]
    lines = [
        f"open loop on fresh episodes, from {starts} starts; repeating the last frame has an f1 of 0",
        table([row for row in diagnosis.table if row["steps"] in HORIZONS]),
    ]
    for kind in ("reward", "termination"):
        if f"model/openloop/{kind}/recall" in known:
            names = ("precision", "recall", "average_precision", "calibration")
            values = ", ".join(f"{w.replace('_', ' ')} {number(known[f'model/openloop/{kind}/{w}'])}" for w in names)
            lines.append(f"{kind:8} {values}")

    lines.append(f"members  disagree by {number(known['model/rollout/disagreement'])}")
    length = int(known["model/openloop/trusted_horizon"])
    lines.append(f"trusted  rollouts of {length} steps, by the possible outcomes nearest to the truth")
    return "\n".join(lines)
