"""The look of all figures: colours, panels, and a file that is whole or absent."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mbrl_lab.tracking.atomic import replacing

BLUE, ORANGE, GREEN, RED, GREY, INK = "#2f6db5", "#e0782f", "#3a9a5b", "#c23b4b", "#9aa0a8", "#24292f"
COLOURS = (BLUE, ORANGE, GREEN, RED, "#8257b8", "#8a6a4a", "#1fa3a3", "#d66ba0")


WIDTH, HEIGHT = 4.6, 3.1
"""Inches that a panel takes with its labels."""

LEFT, RIGHT, TOP, BOTTOM = 0.7, 0.15, 0.35, 0.5
"""Inches of that for labels; fixed, since measuring every text takes longer than drawing."""

HEADING = 0.3


def make_panels(count: int, columns: int, title: str) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `columns` side by side."""
    columns = min(columns, count)
    width, height = WIDTH * columns, HEIGHT * -(-count // columns) + HEADING
    figure = Figure(figsize=(width, height))
    figure.suptitle(title, color=INK, fontsize=12, y=1 - 0.12 / height, va="top")
    # Axes are placed by hand; matplotlib's layout engines would measure every text.
    axes = []
    for k in range(count):
        x, y = WIDTH * (k % columns) + LEFT, height - HEADING - HEIGHT * (k // columns + 1) + BOTTOM
        box = (x / width, y / height, (WIDTH - LEFT - RIGHT) / width, (HEIGHT - TOP - BOTTOM) / height)
        axes.append(_plain(figure.add_axes(box)))
    return figure, axes


def set_labels(axes: Axes, title: str, x: str, y: str = "") -> None:
    """Title and axis labels of a panel."""
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def legend(axes: Axes) -> None:
    """A legend, where it hides least."""
    axes.legend(fontsize=8, framealpha=0.6, edgecolor="none")


def save(figure: Figure, path: Path, *more: Path) -> Path:
    """Write PNGs or PDFs, by their suffixes, that take the place of older ones at once; returns the first path."""
    for each in (path, *more):
        # Letters of a PDF as outlines that every printer knows; publishers reject matplotlib's own kind.
        with replacing(each) as file, rc_context({"pdf.fonttype": 42}):
            figure.savefig(file, format=each.suffix[1:], dpi=110)
    return path


def _plain(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.02)
    return axes
