"""All that a report shows of a run, read from its folder. A damaged folder is a line of text, never an exception."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbrl_lab.report.compare import Curve, environment_name, find_runs, read_run
from mbrl_lab.scores import Reference
from mbrl_lab.tracking.folder import RunFolder, one_line
from mbrl_lab.tracking.settings import flatten

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)
"""Exceptions of reading files that somebody else wrote, or that are half-written."""

RUN_FILES = ("status.json", "metrics.jsonl", "sweep.json")
"""Files by which a folder without a config is known to be meant as a run or a sweep."""


class Run(NamedTuple):
    """A run as it is on disk now."""

    name: str  # its folder, as short as is unique
    folder: RunFolder
    curve: Curve
    settings: dict[str, Any]  # flat
    environment: str
    status: dict[str, Any]
    state: str
    origin: dict[str, Any]  # env.json

    @property
    def command(self) -> str:
        """The command line that started it."""
        return shlex.join(["mbrl-lab", "train", *self.folder.overrides()])

    @property
    def reference(self) -> Reference | None:
        """Scores of a random policy and of a human, where the environment has them."""
        known = [self.settings.get(f"env.score.{key}") for key in Reference._fields]
        numbers = [float(x) for x in known if isinstance(x, int | float)]
        return Reference(*numbers) if len(numbers) == len(known) else None

    @property
    def evaluated(self) -> bool:
        """Whether there is a return to show."""
        return bool(len(self.curve.steps)) or self.curve.final == self.curve.final  # not NaN


class Waiting(NamedTuple):
    """A job of a sweep that has not started."""

    name: str
    state: str
    command: str


def read_runs(places: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """The runs in and below some places, and a line for each folder that could not be read.

    ValueError, one line, if there is no run at all.
    """
    problems: list[str] = []
    folders: list[Path] = []
    for place in places:
        try:
            folders += [path for path in find_runs([place]) if path not in folders]
        except ValueError as error:
            problems.append(str(error))
    problems += [f"{path} has no config.yaml: left out" for path in without_config(places, folders)]

    if not folders:
        raise ValueError("; ".join(problems))
    runs = []
    for name, folder in zip(short_names(folders), folders, strict=True):
        try:
            runs.append(open_run(name, folder))
        except UNREADABLE as error:
            problems.append(f"{name}: {one_line(error) or type(error).__name__}")
    return runs, problems


def open_run(name: str, path: Path) -> Run:
    """Read a run. Nothing of its config is built, and interpolations in it are text."""
    folder = RunFolder(path)
    if not folder.config():
        raise ValueError(f"{path / 'config.yaml'} is empty")
    curve, status = read_run(path), folder.status()
    settings = flatten(folder.config())
    return Run(
        name=name,
        folder=folder,
        curve=curve,
        settings=settings,
        environment=environment_name(curve),
        status=status,
        state=folder.state(status),
        origin=folder.env(),
    )


def without_config(places: Sequence[Path], folders: Sequence[Path]) -> list[Path]:
    """Folders that look like runs but have no config.yaml, as one that was interrupted while it started."""
    found = {path.parent for place in places for file in RUN_FILES[:2] for path in place.rglob(file)}
    inside = {*folders}
    return sorted(path for path in found if path not in inside and not inside & {*path.parents})


def short_names(folders: Sequence[Path]) -> list[str]:
    """Paths relative to the deepest folder that holds them all."""
    absolute = [path.resolve() for path in folders]
    common = Path(os.path.commonpath([path.parent for path in absolute]))
    return [path.relative_to(common).as_posix() for path in absolute]
