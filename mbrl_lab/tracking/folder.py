"""A run's folder: its config, origin and status, and the paths of its other files."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.lock import Lock
from mbrl_lab.tracking.provenance import alive, born, now, provenance
from mbrl_lab.tracking.settings import ABSENT, differences, no_default, plain

State = Literal["running", "preempted", "failed", "done"]
Opening = Literal["fresh", "resume", "done"]

SHOWN = 12
"""Maximum number of differences of two configs that a message shows, changed values first."""


class RunRefused(ValueError):
    """This run cannot start in this folder."""


class ConfigMismatch(RunRefused):
    """The folder holds a run of another config; the message shows the first differences."""


class AlreadyRunning(RunRefused):
    """A live process is using the folder."""


class RunFolder:
    """`config.yaml` and `overrides.txt` (as last started), `env.json` (as first started), `status.json`, and paths."""

    def __init__(self, path: Path | str, results: Path | None = None) -> None:
        """`results`: where evaluations, videos, pictures and exports go; None: into the folder itself."""
        self.path = Path(path).resolve()
        self.results = results or self.path
        self.metrics = self.path / "metrics.jsonl"
        self.episodes = self.path / "episodes.jsonl"
        self.actions = self.path / "actions.bin"
        self.last = self.path / "checkpoints" / "last"
        self.best = self.path / "checkpoints" / "best"
        self.videos = self.results / "videos"
        self.diagnostics = self.results / "diagnostics"
        self.evaluations = self.results / "evaluations"
        self.lock = Lock(self.path / ".lock")
        self._config: tuple[tuple[int, ...], dict[str, Any]] = ((), {})  # version of the file, and its content

    def checkpoint(self, name: str) -> Path:
        """The folder of the `last` or the `best` checkpoint, or of another one, whose path is `name`."""
        return {"last": self.last, "best": self.best}.get(name, Path(name))

    def checkpoint_name(self, checkpoint: str) -> str:
        """`last`, `best`, or a word for another checkpoint's folder, to name files by."""
        place = Path(checkpoint).resolve()
        known = {self.last: "last", self.best: "best"}
        return checkpoint if checkpoint in ("last", "best") else known.get(place, "-".join(place.parts[-3:]))

    def overrides(self) -> list[str]:
        """The words of the command line of the last start."""
        path = self.path / "overrides.txt"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def open(
        self, config: Mapping[str, Any], overrides: Sequence[str], default: Callable[[str], Any] = no_default
    ) -> Opening:
        """Start a run of this config here.

        Args:
            config: resolved, of plain values.
            overrides: words of the command line, to store.
            default: key -> its default. A setting that an older config lacks is no difference if it has its default.

        Returns `fresh` if the folder held no run; `resume` if it holds an attempt of the same config, which may have
        left no checkpoint yet; `done` if the run has finished and neither `steps` nor `stop` requires more steps, in
        which case nothing was changed.
        Raises ConfigMismatch, AlreadyRunning, or an OSError, one line, if the folder cannot be written.
        """
        self.check_links()

        # The lock before any look at the files, so that of two processes only one decides what to do.
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.lock.take():
                raise AlreadyRunning(self._at_work())

        try:
            opening, status = self.look(config, default), self.status()
        except RunRefused:
            self.lock.release()
            raise

        if opening == "done":
            self.lock.release()
            return opening

        with self._writing():
            self._describe(plain(config), overrides)
            self._write_status(state="running", step=status.get("step", 0), attempt=status.get("attempt", 0) + 1)
        return opening

    def look(self, config: Mapping[str, Any], default: Callable[[str], Any] = no_default) -> Opening:
        """The result of `open` for this config, or its exception, without starting anything."""
        config, status, stored = plain(config), self.status(), self.config()
        # The lock decides; on a file system without locks, the process number.
        if self.running(status) and status["pid"] != os.getpid():
            raise AlreadyRunning(self._at_work())
        if stored:
            self._check_same_config(stored, config, default)
        if status.get("state") == "done" and not _needs_more(config, stored, status["step"]):
            return "done"
        return "resume" if status else "fresh"

    def running(self, status: Mapping[str, Any]) -> bool:
        """Whether the process that wrote this status is still running, as far as this machine can find out."""
        if self.lock.held_elsewhere():
            return True
        here = status.get("state") == "running" and status["host"] == socket.gethostname()
        return here and alive(status["pid"], status["born"])

    def state(self, status: Mapping[str, Any]) -> str:
        """`waiting` (never started), `running`, `killed` (its process is gone), or the final state in its status."""
        # The lock first: a process that was requeued runs again although its last status is `preempted`.
        if self.running(status):
            return "running"
        # A killed process leaves `running` behind.
        state = str(status.get("state", "waiting"))
        return "killed" if state == "running" else state

    def status(self) -> dict[str, Any]:
        """`status.json`, or {} if no run ever started here."""
        return _read_json(self.path / "status.json")

    def mark(self, state: State, step: int | None = None, error: str | None = None) -> None:
        """Write the status. Without `step` the step is kept; without `error` the error is cleared.

        FileNotFoundError, one line, if the folder or its status was removed since the run opened it.
        """
        status = self.status()
        if not status:
            raise FileNotFoundError(
                f"{self.path} or its status.json was removed while the run was training: start it again"
            )
        self._write_status(state, status["step"] if step is None else step, status["attempt"], error)
        if state in ("failed", "done"):
            self.lock.release()

    def bury(self, reason: str) -> None:
        """Mark a run whose process is gone as failed, with the reason, unless it has written a final status itself."""
        status = self.status()
        if status.get("state", "running") == "running" and not self.running(status):
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_status("failed", status.get("step", 0), status.get("attempt", 0), reason)

    def config(self) -> dict[str, Any]:
        """The resolved config of the run's last start, or {}. ValueError, one line, if the file is damaged."""
        path = self.path / "config.yaml"
        if not path.exists():
            return {}

        # Parsing takes 50 ms, and a start needs it several times. A new file has another inode, so it is noticed.
        found = path.stat()
        version = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._config[0] != version:
            self._config = version, self._read_config(path)
        return copy.deepcopy(self._config[1])

    def _read_config(self, path: Path) -> dict[str, Any]:
        try:
            stored = OmegaConf.load(path)
        except (YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
            if getattr(error, "errno", None) is not None:  # an error of the disk; OmegaConf's OSErrors have no number
                raise
            raise ValueError(f"{path} is damaged: {one_line(error)}") from error
        if not isinstance(stored, DictConfig):
            raise ValueError(f"{path} is damaged: it holds no settings")
        return plain(stored)

    def check_links(self) -> None:
        """RunRefused if a symbolic link would redirect files out of the folder; a stranger's folder may contain some.

        `checkpoints` may be a link, since some users keep checkpoints on another disk, and wandb links to its own logs.
        """
        for home, folders, files in os.walk(self.path):
            if Path(home) == self.path and "wandb" in folders:
                folders.remove("wandb")
            for path in {Path(home, name) for name in [*folders, *files]} - {self.path / "checkpoints"}:
                if path.is_symlink() and not path.resolve().is_relative_to(self.path):
                    raise RunRefused(f"{path} is a link to {path.resolve()}, out of the run's folder: remove it")

    def env(self) -> dict[str, Any]:
        """Git, versions and hardware of the first start, or {}."""
        return _read_json(self.path / "env.json")

    def identity(self) -> str:
        """A unique name for this run, which it keeps when it is resumed: 16 characters of [a-z0-9]."""
        env = self.env()
        words = [str(self.path), env.get("started", ""), env.get("hardware", {}).get("host", "")]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]

    def _at_work(self) -> str:
        status = self.status()
        who = f"as pid {status['pid']} on {status['host']}" if status else "just now"
        return f"the run in {self.path} is already running {who}"

    def _check_same_config(self, stored: dict[str, Any], config: dict[str, Any], default: Callable[[str], Any]) -> None:
        lines = differences(stored, config, default)
        if lines:
            # Changed values first: settings that only one of the two has often follow from another part.
            lines.sort(key=lambda line: ABSENT in line)
            more = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            shown = "\n".join(f"  {line}" for line in [*lines[:SHOWN], *more])
            what = "resume with the old one, or choose another hydra.run.dir"
            raise ConfigMismatch(f"the run in {self.path} has another config: {what} (old -> new)\n{shown}")

    def _describe(self, config: dict[str, Any], overrides: Sequence[str]) -> None:
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_text(self.path / "overrides.txt", "".join(f"{line}\n" for line in overrides))
        # Only at the first start: a resumed run keeps its identity and its origin.
        if not self.env():
            precision = {"precision": config.get("runtime", {}).get("precision")}
            write_text(self.path / "env.json", json.dumps(provenance() | precision, indent=2) + "\n")

    def _write_status(self, state: State, step: int, attempt: int, error: str | None = None) -> None:
        status = {
            "state": state,
            "step": int(step),
            "attempt": attempt,
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "host": socket.gethostname(),
            "error": error,
            "updated": now(),
        }
        write_text(self.path / "status.json", json.dumps(status, indent=2) + "\n")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"cannot write the run folder {self.path}: {error.strerror}") from error


def no_run(path: Path) -> str:
    """A message about a folder without a run; one that has the name of a sweep leads to the sweep's runs."""
    missing = "there is no config.yaml in it" if path.is_dir() else "there is no such folder"
    sweep = path.parent / "sweeps" / path.name
    lead = f"the runs of this sweep are in {sweep}" if sweep.is_dir() else "name a run's folder, e.g. one in outputs/"
    return f"{path} holds no run: {missing}; {lead}"


def one_line(error: Exception) -> str:
    """An error's message in one line."""
    return " ".join(str(error).split())


def headline(error: str) -> str:
    """The most informative line of a run's error: the first, or for a traceback the last."""
    lines = error.strip().splitlines() or [""]
    return lines[-1 if lines[0].startswith("Traceback") else 0]


def _needs_more(config: Mapping[str, Any], stored: Mapping[str, Any], step: int) -> bool:
    """Whether a run that finished at `step` has more to do: more steps, or those left when it stopped early."""
    steps, before = config.get("steps", 0), stored.get("steps", 0)
    return steps > before or (config.get("stop") != stored.get("stop") and steps > step)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
