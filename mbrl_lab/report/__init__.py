"""Pictures of a run: its curves, and how well its model predicts and its planner knows what it will get."""

from __future__ import annotations

from pathlib import Path

from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.report.curves import draw_curves
from mbrl_lab.report.diagnosis import Diagnosis, diagnose, draw_diagnosis, model_of
from mbrl_lab.report.open_loop import draw_open_loop
from mbrl_lab.runner import Runner

__all__ = ["draw", "draw_model", "fitted", "model_of"]


def draw(runner: Runner, checkpoint: str = "last") -> list[Path]:
    """Write pictures and numbers into the run's diagnostics/; training is not disturbed. Returns what was written.

    curves.png for every run that has logged something. Where there is a fitted model, what `draw_model` writes; or, if
    it is one of sequences, whose state is not the observation, what `draw_open_loop` does.
    """
    runner.folder.diagnostics.mkdir(parents=True, exist_ok=True)
    paths = draw_curves(runner.folder)
    model = model_of(runner.algo)
    if fitted(runner) and isinstance(model, SequenceModel):
        paths += draw_open_loop(runner, model, home_of(runner, checkpoint))
    elif fitted(runner):
        paths += draw_model(runner, checkpoint)[1]
    return paths


def draw_model(runner: Runner, checkpoint: str = "last") -> tuple[Diagnosis, list[Path]]:
    """Judge the model and the planner; those of another `checkpoint` than the last get a folder of its name."""
    seen = diagnose(runner, runner.algo)
    return seen, draw_diagnosis(seen, runner.folder.path.name, home_of(runner, checkpoint))


def home_of(runner: Runner, checkpoint: str) -> Path:
    """The folder for what is drawn of a checkpoint's model."""
    home = runner.folder.diagnostics if checkpoint == "last" else runner.folder.diagnostics / checkpoint
    home.mkdir(parents=True, exist_ok=True)
    return home


def fitted(runner: Runner) -> bool:
    """Whether there is a world model that has seen data."""
    return model_of(runner.algo) is not None and bool(getattr(runner.algo, "ready", True))
