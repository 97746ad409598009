"""Pictures of a run: learning curves, errors of its model, and predicted and achieved returns of its planner."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from mbrl_lab.protocols import WorldModel
from mbrl_lab.report.curves import draw_curves
from mbrl_lab.report.images import draw_frames
from mbrl_lab.report.sequence import draw_open_loop
from mbrl_lab.report.summary import draw_features
from mbrl_lab.runner import Runner

log = logging.getLogger("mbrl_lab")

DRAW: dict[str, Callable[[Runner, WorldModel, Path], tuple[str, list[Path]]]] = {
    "features": draw_features,
    "observations": draw_open_loop,
    "frames": draw_frames,
}
"""`WorldModel.predicts` -> (runner, model, folder) -> (a text, files): predictions compared with the truth."""

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
    model = runner.algo.world_model
    assert model is not None, type(runner.algo)
    return DRAW[model.predicts](runner, model, home)


def fitted(runner: Runner) -> bool:
    """Whether there is a world model, fitted or known, whose predictions can be validated."""
    model = runner.algo.world_model
    return model is not None and model.predicts != "nothing" and runner.algo.warmed_up
