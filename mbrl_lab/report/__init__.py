"""Pictures of a run: learning curves, errors of its model, and predicted and achieved returns of its planner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mbrl_lab.dynamics import Visual
from mbrl_lab.report.curves import draw_curves
from mbrl_lab.report.diagnosis import diagnose, numbers
from mbrl_lab.report.images import describe_images, diagnose_images, draw_images
from mbrl_lab.report.sequence import draw_open_loop
from mbrl_lab.report.summary import describe, draw_diagnosis
from mbrl_lab.runner import Runner

log = logging.getLogger("mbrl_lab")

FPS = 10.0
"""Frames per second in the video of a model's predictions."""

__all__ = ["draw", "draw_model", "fitted"]


def draw(runner: Runner, checkpoint: str = "last") -> list[Path]:
    """Write pictures and numbers into the run's diagnostics/, without affecting training. Returns the files.

    These are curves.png for every run that has logged something, and the files of `draw_model` if there is a fitted
    model. A picture that fails is left out with a warning: the run is done by then, and its results are stored.
    """
    parts: dict[str, Callable[[], list[Path]]] = {
        "the run's curves": lambda: draw_curves(runner.folder),
        "its model": lambda: draw_model(runner, checkpoint)[1] if fitted(runner) else [],
    }

    paths: list[Path] = []
    for what, part in parts.items():
        try:
            runner.folder.diagnostics.mkdir(parents=True, exist_ok=True)
            paths += part()
        except Exception as error:
            log.warning("no picture of %s: %s: %s", what, type(error).__name__, str(error).partition("\n")[0])
            log.debug("traceback of that", exc_info=True)
    return paths


def draw_model(runner: Runner, checkpoint: str = "last") -> tuple[str, list[Path]]:
    """Validate the model and the planner. Returns a text and files; a `checkpoint` but the last has its own folder."""
    home = runner.folder.diagnostics if checkpoint == "last" else runner.folder.diagnostics / checkpoint
    home.mkdir(parents=True, exist_ok=True)
    model, run = runner.algo.world_model, runner.folder.path.name
    assert model is not None, type(runner.algo)

    # What can be compared with the truth depends on what a model predicts: observations, frames, or a state's changes.
    if model.predicts == "observations":
        return draw_open_loop(runner, model, home)
    if model.predicts == "frames":
        images = diagnose_images(runner, runner.algo)
        return describe_images(images), draw_images(images, cast(Visual, model), run, home, FPS)
    diagnosis = diagnose(runner, runner.algo)
    return describe(diagnosis, numbers(diagnosis)), draw_diagnosis(diagnosis, run, home)


def fitted(runner: Runner) -> bool:
    """Whether there is a world model, fitted or known, whose predictions can be validated."""
    model = runner.algo.world_model
    return model is not None and model.predicts != "nothing" and runner.algo.warmed_up
