"""Pictures of a run: its curves, and how well its model predicts and its planner knows what it will get."""

from __future__ import annotations

from pathlib import Path

from mbrl_lab.algo import MPC
from mbrl_lab.report.curves import draw_curves
from mbrl_lab.report.diagnosis import draw_diagnosis
from mbrl_lab.runner import Runner

__all__ = ["draw"]


def draw(runner: Runner, checkpoint: str = "last") -> list[Path]:
    """Write pictures and numbers into the run's diagnostics/; training is not disturbed. Returns what was written.

    curves.png for every run that has logged something; predicted.png, errors.png, planned.png and model.json where a
    fitted model plans, those of another `checkpoint` than the last in a folder of its name.
    """
    home = runner.folder.diagnostics
    home.mkdir(parents=True, exist_ok=True)
    paths = draw_curves(runner.folder)
    if isinstance(runner.algo, MPC) and runner.algo.ready:
        home = home if checkpoint == "last" else home / checkpoint
        home.mkdir(exist_ok=True)
        paths += draw_diagnosis(runner, runner.algo, home)
    return paths
