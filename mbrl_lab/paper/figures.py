"""Figures of a paper, each as a PDF for LaTeX and a PNG for Markdown."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import SubprocessError
from tempfile import TemporaryDirectory

import numpy as np
from imageio.v3 import imread
from imageio_ffmpeg import count_frames_and_secs, get_ffmpeg_exe
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mbrl_lab.report.compare import Group, aligned, draw_comparison, draw_profile
from mbrl_lab.report.figure import GREY, INK, save
from mbrl_lab.report.page.charts import profile_strata
from mbrl_lab.report.page.groups import Environment, with_evaluations
from mbrl_lab.report.page.media import files_of
from mbrl_lab.report.page.runs import Run

SUFFIXES = (".pdf", ".png")
FRAMES = 5
WIDTH, TITLE = 9.2, 0.25
"""Inches: the width of a figure of frames, and the height of a row's title."""


def files(path: Path) -> list[Path]:
    """The files of a figure."""
    return [path.with_suffix(suffix) for suffix in SUFFIXES]


def draw_curves(environment: Environment, path: Path) -> bool:
    """IQM of the return against steps and seconds; False if no run was evaluated in training."""
    evaluated = [group for group in map(with_evaluations, environment.groups) if group.curves]
    # Seeds that were evaluated at different steps have no curve.
    groups = [group for group in evaluated if len(aligned(group)[0])]
    if groups:
        draw_comparison(groups, environment.name, environment.threshold, *files(path))
    return bool(groups)


def draw_profiles(environment: Environment, path: Path) -> bool:
    """Performance profiles; False if no group has two runs."""
    strata = [(label, scores) for label, (scores,) in profile_strata(environment)]
    several = any(len(scores) > 1 for _, scores in strata)
    if several:
        draw_profile(strata, environment.name, *files(path))
    return several


def draw_frames(groups: Sequence[tuple[Group, Sequence[Run]]], path: Path) -> list[Run]:
    """A row of frames for each group that has a video of its final policy; returns the runs that were filmed."""
    films = [(group.label, run, film) for group, runs in groups for run, film in [film_of(runs)] if run and film]
    rows = [(label, run, frames) for label, run, film in films if len(frames := frames_of(film)) == FRAMES]
    if rows:
        height, width, _ = rows[0][2][0].shape
        each = WIDTH / FRAMES * height / width + TITLE
        figure = Figure(figsize=(WIDTH, each * len(rows)))
        axes = figure.subplots(len(rows), FRAMES, squeeze=False)
        figure.subplots_adjust(0.01, 0.01, 0.99, 1 - TITLE / each / len(rows), wspace=0.03, hspace=TITLE / each)
        for line, (label, _, frames) in zip(axes, rows, strict=True):
            line[0].set_title(label, loc="left", fontsize=10, color=INK)
            for at, frame in zip(line, frames, strict=True):
                at.imshow(frame)
                at.set(xticks=[], yticks=[])
                at.spines[:].set_color(GREY)
        save(figure, *files(path))
    return [run for _, run, _ in rows]


def film_of(runs: Sequence[Run]) -> tuple[Run | None, Path | None]:
    """The first run with a video of its final policy, and the video."""
    for run in runs:
        for path in files_of(run.folder):
            if path.suffix == ".mp4" and path.stem.startswith(("final", "evaluation")):
                return run, path
    return None, None


def frames_of(film: Path) -> list[NDArray[np.uint8]]:
    """Frames from the first to the last, at equal distances; [] for a file that is no video."""
    with suppress(OSError, RuntimeError, SubprocessError), TemporaryDirectory() as place:
        count, _ = count_frames_and_secs(film)
        wanted = "+".join(f"eq(n,{k})" for k in np.linspace(0, count - 1, FRAMES).astype(int))
        options = ["-vf", f"select={wanted.replace(',', chr(92) + ',')}", "-fps_mode", "passthrough"]
        subprocess.run(
            [get_ffmpeg_exe(), "-v", "error", "-i", str(film), *options, f"{place}/%d.png"], check=True, timeout=60
        )
        return [imread(path) for path in sorted(Path(place).iterdir())]
    return []
