"""The state of a sweep's runs, read from their folders."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mbrl_lab.config import ConfigError
from mbrl_lab.report.curves import read_metrics
from mbrl_lab.report.tables import Row
from mbrl_lab.sweep.jobs import Job, Sweep, read_sweep
from mbrl_lab.sweep.slurm import queued
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.folder import RunFolder, headline
from mbrl_lab.tracking.settings import MAY_CHANGE

TO_RETRY = ("failed", "preempted", "killed", "waiting")


class RunState(NamedTuple):
    """The state of a run, read from its folder.

    state: done, running, preempted, failed, killed (its process is gone), queued (SLURM has it) or waiting
    (it never started).
    """

    name: str
    state: str
    step: int
    total: int | None
    ret: float | None
    speed: float | None  # steps per second, in the last interval of the log
    error: str | None
    rows: list[Row]

    @property
    def left(self) -> float | None:
        """Remaining seconds of a running one."""
        if self.state != "running" or not self.speed or self.total is None:
            return None
        return (self.total - self.step) / self.speed


def open_sweep(path: Path, script: Path) -> Sweep:
    """The sweep that a launcher stored; otherwise the runs below `path`, with `script`. ConfigError if none exists."""
    path = path.resolve()
    sweep = read_sweep(path)
    if sweep is None:
        runs = sorted(found.parent for found in path.rglob("status.json"))
        jobs = {run.relative_to(path).as_posix(): found_job(run) for run in runs}
        sweep = Sweep(path, str(script), str(Path.cwd()), {"kind": "parallel", "workers": None, "per_gpu": 1}, jobs)
    if not sweep.jobs:
        raise ConfigError(f"{path} holds no sweep: there are no runs in it")
    return sweep


def found_job(run: Path) -> Job:
    """The job that would start this run again."""
    folder = RunFolder(run)
    runtime = folder.config().get("runtime", {})
    return Job(run, tuple(folder.overrides()), (), runtime.get("threads", 1), runtime.get("device", "auto"))


def run_states(sweep: Sweep) -> list[RunState]:
    """Every run, in the order of the jobs."""
    # One call of squeue for all jobs: it takes a second on a busy cluster.
    in_queue = queued(list(sweep.submitted.values()))
    return [run_state(name, job.folder, sweep.submitted.get(name) in in_queue) for name, job in sweep.jobs.items()]


def not_started(sweep: Sweep) -> dict[str, str]:
    """The jobs that have no run yet, with their states: waiting, or queued by SLURM."""
    jobs = {name: job for name, job in sweep.jobs.items() if not (job.folder / "config.yaml").exists()}
    in_queue = queued([sweep.submitted[name] for name in jobs if name in sweep.submitted])
    states = {
        name: state_of(RunFolder(job.folder), {}, sweep.submitted.get(name) in in_queue) for name, job in jobs.items()
    }
    return {name: state for name, state in states.items() if state != "running"}


def run_state(name: str, path: Path, in_queue: bool) -> RunState:
    """One run."""
    folder = RunFolder(path)
    status = folder.status()
    rows = read_metrics(folder.metrics)
    step = max([status.get("step", 0), *(int(row["step"]) for row in rows[-1:])])
    total = folder.config().get("steps")
    return RunState(
        name, state_of(folder, status, in_queue), step, total, latest(rows), speed(rows), status.get("error"), rows
    )


def state_of(folder: RunFolder, status: Mapping[str, Any], in_queue: bool) -> str:
    """The state of a run's folder, or `queued` if SLURM has its job and it does not run yet."""
    state = folder.state(status)
    return "queued" if in_queue and state not in ("running", "done") else state


def latest(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The last logged mean return, of the final policy, of an evaluation, or of training."""
    keys = ("final/return", "eval/return", "train/return")
    return next((row[k] for row in reversed(rows) for k in keys if row.get(k) is not None), None)


def speed(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Steps per second between the last two rows of this attempt."""
    if len(rows) < 2:
        return None
    steps, seconds = (float(rows[-1][k]) - float(rows[-2][k]) for k in ("step", "time/seconds"))
    return steps / seconds if steps > 0 and seconds > 0 else None


def table(runs: Sequence[RunState]) -> str:
    """For a terminal: one line per run, and the number of runs in each state."""
    lines = [("run", "state", "step", "of", "return", "steps/s", "left", "reason")]
    lines += [
        (
            s.name,
            s.state,
            f"{s.step:,}",
            "?" if s.total is None else f"{s.total:,}",
            "" if s.ret is None else f"{s.ret:.1f}",
            "" if s.speed is None or s.state != "running" else f"{s.speed:,.1f}",
            "" if s.left is None else str(datetime.timedelta(seconds=round(s.left))),
            headline(s.error)[:120] if s.error else "",
        )
        for s in runs
    ]

    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    right = (2, 3, 4, 5, 6)
    padded = [
        "  ".join(x.rjust(w) if k in right else x.ljust(w) for k, (x, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]

    states = [s.state for s in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return "\n".join([*(line.rstrip() for line in padded), counts])


def collect(sweep: Sweep, out: Path) -> int:
    """One CSV file: a line for each row of metrics of each run, with its overrides. Returns the number of lines."""
    rows: list[Row] = []
    for run in run_states(sweep):
        head = {"run": run.name, "state": run.state} | settings(sweep.jobs[run.name])
        rows += [head | row for row in run.rows]
    if not rows:
        raise ConfigError(f"{sweep.path} has no results yet: none of its runs has written a row of metrics")

    # Runs of other algorithms have other metrics: the columns are those of all rows, in the order of appearance.
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out, text.getvalue())
    return len(rows)


def settings(job: Job) -> dict[str, str]:
    """Its overrides, without those that may change in a resumed run."""
    pairs = [o.lstrip("+~").partition("=") for o in job.overrides]
    return {key: value for key, _, value in pairs if key.partition(".")[0] not in MAY_CHANGE}
