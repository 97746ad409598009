"""Starts the jobs of a sweep with its launcher, and reports failures."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from mbrl_lab.config import ConfigError
from mbrl_lab.sweep.jobs import Job, Sweep
from mbrl_lab.sweep.parallel import run_parallel
from mbrl_lab.sweep.slurm import submit
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.lock import Lock
from mbrl_lab.tracking.provenance import shell_command

LOCK = ".lock"
"""The lock in a sweep's folder that the command which starts its runs holds."""


class SweepFailed(ValueError):
    """Some runs of a sweep failed; the others finished."""


def start(sweep: Sweep, jobs: Sequence[Job], skipped: int = 0) -> None:
    """Run or submit these jobs. Raises SweepFailed once all have finished, if some failed."""
    print(f"sweep     {sweep.path}: {len(jobs)} to run, {skipped} skipped", flush=True)
    if not jobs:
        return

    settings = {key: value for key, value in sweep.launcher.items() if key != "kind"}
    if sweep.launcher["kind"] == "slurm":
        if not submit(sweep, jobs, **settings):
            return
    else:
        alone(sweep, lambda: run_parallel(sweep, jobs, **settings))

    # Results are read from the runs' folders, since exit codes are lost on a cluster.
    wrong = [job for job in jobs if RunFolder(job.folder).status().get("state") != "done"]
    if wrong:
        where = ", ".join(job.folder.name for job in wrong[:10])
        command = f"{shell_command('sweep')} status {shlex.quote(str(sweep.path))}"
        raise SweepFailed(f"{len(wrong)} of {len(jobs)} runs are not done ({where}): {command}")


def alone(sweep: Sweep, work: Callable[[], None]) -> None:
    """Call `work` while holding the sweep's lock. ConfigError if another command is starting runs of this sweep."""
    sweep.path.mkdir(parents=True, exist_ok=True)
    lock = Lock(sweep.path / LOCK)
    if not lock.take():
        raise ConfigError(f"another command is still starting the runs of {sweep.path}: wait for it, or stop it")
    try:
        work()
    finally:
        lock.release()
