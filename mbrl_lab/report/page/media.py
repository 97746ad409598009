"""Pictures and videos of a run: inside the page if they are small enough, otherwise links to their files."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mbrl_lab.tracking.folder import RunFolder

TYPES = {".png": "image/png", ".mp4": "video/mp4", ".gif": "image/gif"}

CAPTIONS = {
    "curves": "Learning curves: returns and lengths of episodes, and losses of the model, against environment steps",
    "predicted": "Predictions of the model from one state, with the true values",
    "scatter": "Predicted changes against true ones, one step ahead, a panel for each output",
    "errors": "Errors of the model by steps ahead and by output, and predicted terminations",
    "calibration": "Calibration: fraction of true values inside the predicted intervals",
    "planned": "Returns that the planner predicted against those that it achieved",
    "open_loop": "Open-loop predictions of the model beside the true observations",
}
"""Text alternatives, by the names of the files; the numbers are in tables beside them."""


class Medium(NamedTuple):
    """A picture or a video."""

    path: Path
    caption: str
    source: str  # a data: address, or that of the file
    embedded: bool

    @property
    def video(self) -> bool:
        return self.path.suffix == ".mp4"


def files_of(folder: RunFolder) -> list[Path]:
    """The run's pictures and videos, without links that lead out of its folder."""
    found = [
        path
        for home in (folder.diagnostics, folder.videos)
        for path in sorted(home.rglob("*"))
        if path.suffix in TYPES and path.is_file() and path.resolve().is_relative_to(folder.path)
    ]
    # Pictures first: they are smaller, and their numbers say more.
    return sorted(found, key=lambda path: path.suffix == ".mp4")


def place(files: Iterable[tuple[RunFolder, Path]], limit: int, link: Callable[[Path], str]) -> dict[Path, Medium]:
    """Embed files, the first ones first, up to a total of `limit` bytes; `link` gives the address of the others."""
    media: dict[Path, Medium] = {}
    for folder, path in files:
        size = path.stat().st_size
        if embedded := size <= limit:
            limit -= size
        source = data_address(path) if embedded else link(path)
        media[path] = Medium(path, caption(folder, path), source, embedded)
    return media


def data_address(path: Path) -> str:
    """The file as text."""
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def caption(folder: RunFolder, path: Path) -> str:
    """What the file shows, and of which checkpoint if it is not of the last."""
    inside = path.relative_to(folder.path)
    known = CAPTIONS.get(path.stem, f"Video {path.stem}" if path.suffix == ".mp4" else path.stem)
    return known if len(inside.parts) == 2 else f"{known} ({'/'.join(inside.parts[1:-1])})"


def in_turns(lists: Sequence[Sequence[Path]]) -> list[tuple[int, Path]]:
    """(index, file): the first file of each list, then the second of each, so that a limit is fair to all runs."""
    longest = max(map(len, lists), default=0)
    return [(k, files[n]) for n in range(longest) for k, files in enumerate(lists) if n < len(files)]
