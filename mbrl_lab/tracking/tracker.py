"""Tracker: everything that a run writes during training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbrl_lab.env import Episode
from mbrl_lab.protocols import FileLogger, Logger
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.loggers import Jsonl
from mbrl_lab.tracking.progress import Progress
from mbrl_lab.tracking.state import random_state_kept

MakeLogger = Callable[[RunFolder], Logger]
Film = Callable[[Path, int, NDArray[Any]], None]
"""(path, seed, actions): replay an episode and write it as a video, or warn."""

RECENT = 20
"""Number of recent training episodes whose lengths estimate those of an evaluation."""


class Tracker:
    """Writes rows of metrics to every logger, episodes to their log, videos of some, and the line of progress.

    Training episodes that finish between two rows are averaged in the later one (`train/return`, `train/length`).
    It may be entered twice, and closes when it is left for the last time.

    Args:
        folder: the run's folder.
        loggers: by their name in the config. metrics.jsonl is always written, by `jsonl` or by a default one.
        film: writes a video of an episode, or warns.
        film_every: one of this number of training episodes is filmed; 0: none.
    """

    def __init__(self, folder: RunFolder, loggers: Mapping[str, MakeLogger], film: Film, film_every: int) -> None:
        self.folder = folder
        self.film = film
        self.film_every = film_every

        jsonl = loggers.get("jsonl", Jsonl)(folder)
        if not isinstance(jsonl, Jsonl):
            raise ValueError(
                f"logger.jsonl is a {type(jsonl).__name__}; it must be a Jsonl, which a resume can truncate"
            )
        self.jsonl = jsonl
        self.make = [make for name, make in loggers.items() if name != "jsonl"]
        self.episodes = EpisodeLog(folder)
        self.loggers: list[Logger] = []

        self.progress_line: Progress | None = None
        self.depth = 0

        self.count = 0  # training episodes so far
        self.finished: list[tuple[float, int]] = []  # return and length of those since the last row
        self.lengths: deque[int] = deque(maxlen=RECENT)  # of training episodes, only for the line of progress

    def __enter__(self) -> Tracker:
        # Runner.run and the command both enter it; loggers are started once.
        if not self.depth:
            self.loggers = [make(self.folder) for make in self.make]
        self.depth += 1
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.depth -= 1
        self.stop()
        if self.depth:
            return
        for logger in [self.jsonl, *self.loggers]:
            logger.close(ok=error is None)
        self.episodes.close()

    def start(self, step: int, total: int) -> None:
        """Start the line of progress; with a total of 0 steps it is that of an evaluation."""
        self.progress_line = Progress(total, step)

    def stop(self) -> None:
        """End the line of progress."""
        if self.progress_line is not None:
            self.progress_line.close()
            self.progress_line = None

    def progress(
        self, step: int, train_return: float | None = None, eval_return: float | None = None, note: object = ""
    ) -> None:
        """Update the line of progress, with the returns that are known."""
        if self.progress_line is not None:
            self.progress_line.update(step, train_return, eval_return, note)

    def trained(self, episodes: Sequence[Episode], step: int) -> None:
        """Log training episodes that finished."""
        for e in episodes:
            self.episodes.add("train", e.env, e.index, e.seed, step, e.ret, e.actions)
            if self.film_every and self.count % self.film_every == 0:
                self._film(step, f"train-{self.count}.mp4", e)
            self.count += 1
            self.finished.append((e.ret, e.length))
            self.lengths.append(e.length)
            self.progress(step, train_return=e.ret)

    def evaluated(self, episodes: Sequence[Episode], step: int) -> None:
        """Log an evaluation's episodes."""
        for e in episodes:
            self.episodes.add("eval", e.env, e.index, e.seed, step, e.ret, e.actions)
        self.progress(step, eval_return=float(np.mean([e.ret for e in episodes])))

    def film_final(self, episodes: Sequence[Episode], step: int) -> None:
        """Film episodes of the final evaluation."""
        for k, e in enumerate(episodes):
            self._film(step, f"final-{k}.mp4", e)

    def _film(self, step: int, name: str, e: Episode) -> None:
        """Write a video, announced first, since a thousand frames take a while without a GPU."""
        if self.progress_line is not None:
            self.progress_line.announce(f"filming {name}")
        # Rendering may draw random numbers, and a run must be the same with and without videos.
        with random_state_kept():
            self.film(self.folder.videos / name, e.seed, e.actions)
        self.progress(step)

    def log(self, row: dict[str, float]) -> dict[str, float]:
        """Write a row to every logger; returns it with the statistics of finished training episodes."""
        if self.finished:
            returns, lengths = np.array(self.finished).T
            row = row | {"train/return": float(returns.mean()), "train/length": float(lengths.mean())}
        self.finished = []
        for logger in [self.jsonl, *self.loggers]:
            logger.log(row)
        return row

    def attach(self, paths: Sequence[Path]) -> None:
        """Pass pictures and videos to the loggers that accept them."""
        for logger in self.loggers:
            if isinstance(logger, FileLogger) and paths:
                logger.attach(paths)

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "ended": list(self.finished),
            "metrics": self.jsonl.position(),
            "episodes": self.episodes.position(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Truncate the files to their size at the checkpoint."""
        self.count, self.finished = state["count"], [tuple(x) for x in state["ended"]]
        self.jsonl.truncate(state["metrics"])
        self.episodes.truncate(state["episodes"])

    def restart(self) -> None:
        """Truncate the files of an attempt that left no checkpoint."""
        self.load_state_dict({"count": 0, "ended": [], "metrics": 0, "episodes": (0, 0)})
