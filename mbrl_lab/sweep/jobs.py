"""The jobs of a sweep, which are stored before the first of them starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mbrl_lab.config import ConfigError
from mbrl_lab.config.command_line import quoted
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.settings import MAY_CHANGE

NAME = "sweep.json"


SCRIPT = Path(__file__).resolve().parents[1] / "cli" / "train.py"
"""The script that starts runs if there is no scripts/train.py, as in an installed package."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep: its folder, command line, number of threads and device."""

    folder: Path
    overrides: tuple[str, ...]
    flags: tuple[str, ...] = ()
    threads: int = 1
    device: str = "auto"

    def arguments(self) -> list[str]:
        """The command line after the script's name."""
        # A ${ in the folder's name must not be read as an interpolation.
        place = quoted(str(self.folder).replace("${", "\\${"))
        return [*self.flags, *self.overrides, "hydra.mode=RUN", f"hydra.run.dir={place}"]

    def kind(self) -> list[str]:
        """The overrides that identify the run: those that a resumed run may not change."""
        return sorted(o for o in self.overrides if o.lstrip("+~").partition("=")[0].partition(".")[0] not in MAY_CHANGE)


@dataclass(frozen=True)
class Sweep:
    """`sweep.json`: the script, the folder it was called from, the launcher's settings, all jobs, their SLURM ids."""

    path: Path
    script: str
    cwd: str
    launcher: Mapping[str, Any]
    jobs: Mapping[str, Job]  # by the folder's name
    submitted: Mapping[str, str] = field(default_factory=dict)

    def command(self, job: Job) -> list[str]:
        """What starts this job."""
        # -P: files beside the script must not be imported in the place of packages.
        return [sys.executable, "-P", self.script, *job.arguments()]

    def write(self) -> None:
        """Write it into the sweep's folder."""
        jobs = {
            name: {
                "overrides": list(job.overrides),
                "flags": list(job.flags),
                "threads": job.threads,
                "device": job.device,
            }
            for name, job in self.jobs.items()
        }

        content = {
            "script": self.script,
            "cwd": self.cwd,
            "launcher": dict(self.launcher),
            "jobs": jobs,
            "submitted": dict(self.submitted),
        }

        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / NAME, json.dumps(content, indent=2) + "\n")

    def including(self, other: Sweep | None) -> Sweep:
        """This sweep with the jobs it had before; ConfigError if one of them was another run."""
        if other is None:
            return self
        for name, job in self.jobs.items():
            before = other.jobs.get(name)
            if before is not None and before.kind() != job.kind():
                was, now = " ".join(before.kind()), " ".join(job.kind())
                what = f"{self.path} holds another sweep: its run {name} is {was!r}, not {now!r}"
                raise ConfigError(f"{what}; choose another sweep_name")
        return replace(self, jobs={**other.jobs, **self.jobs}, submitted=other.submitted)


def read_sweep(path: Path) -> Sweep | None:
    """The sweep that `write` stored, or None if there is none. ConfigError if a run would be outside of its folder."""
    file = path / NAME
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    for name in content["jobs"]:
        # Somebody else's sweep.json must not make us write to other folders.
        if not Path(os.path.normpath(path / name)).is_relative_to(path):
            raise ConfigError(f"{file}: run {name!r} is outside of {path}")
    jobs = {
        name: Job(path / name, tuple(job["overrides"]), tuple(job["flags"]), job["threads"], job["device"])
        for name, job in content["jobs"].items()
    }
    return Sweep(path, content["script"], content["cwd"], content["launcher"], jobs, content["submitted"])


def names(jobs: Sequence[Job], path: Path) -> dict[str, Job]:
    """Jobs by their folder's name in the sweep; ConfigError if two have the same one."""
    found: dict[str, Job] = {}
    for job in jobs:
        name = job.folder.relative_to(path).as_posix()
        if name in found:
            raise ConfigError(f"two runs of the sweep have the same folder {job.folder}: check hydra.sweep.subdir")
        found[name] = job
    return found
