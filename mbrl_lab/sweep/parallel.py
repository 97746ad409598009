"""Jobs as processes on this machine: each in one of a fixed number of places, with its own threads and GPU."""

from __future__ import annotations

import datetime
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from mbrl_lab.sweep.jobs import Job, Sweep
from mbrl_lab.tracking.folder import RunFolder, headline
from mbrl_lab.tracking.provenance import cores, shell_command
from mbrl_lab.tracking.signals import Signals

OUTPUT = "output.log"
"""The file with the output of a job's process, in its run's folder."""

PAUSE = 0.05


class Place(NamedTuple):
    """A place for one job at a time: a number, and the GPU that is visible there, if any."""

    number: int
    gpu: str | None


class Running(NamedTuple):
    """A job's process."""

    job: Job
    place: Place
    process: subprocess.Popen[bytes]
    began: float


def run_parallel(sweep: Sweep, jobs: Sequence[Job], workers: int | None, per_gpu: int) -> None:
    """Run each job in its own process, `workers` at a time; the failure of one does not affect the others.

    The status of a job that was killed gets the reason. SIGINT, SIGTERM and SIGUSR2 are passed on as SIGTERM, so that
    every run saves; then SystemExit. A second SIGINT kills them.
    """
    places = choose_places(jobs, workers, per_gpu)
    waiting, running, finished = list(jobs), list[Running](), 0
    stopping = False
    with Signals() as signals:
        try:
            while running or (waiting and not signals.received):
                while waiting and not signals.received and (free := free_place(places, running)):
                    running.append(begin(sweep, waiting.pop(0), free))

                if signals.received and not stopping:
                    stopping = True
                    print(f"sweep     {signals.received}: {len(running)} runs save and stop", flush=True)
                    for each in running:
                        # SIGTERM for any signal: a run saves when it gets one.
                        each.process.terminate()

                time.sleep(PAUSE)
                # Polled instead of waited for, so that signals are noticed too.
                for each in [r for r in running if r.process.poll() is not None]:
                    running.remove(each)
                    finished += 1
                    print(f"sweep     {finished}/{len(jobs)}  {conclude(each, stopping)}", flush=True)
        except BaseException:
            # A second SIGINT, or a bug: no run may outlive this command unnoticed.
            for each in running:
                each.process.kill()
                each.process.wait()
                conclude(each, stopping=False)
            raise
        if signals.received:
            print(
                f"stopped: {shell_command('sweep')} retry {shlex.quote(str(sweep.path))} resumes them",
                file=sys.stderr,
            )
            raise SystemExit(128 + signal.Signals[signals.received])


def choose_places(jobs: Sequence[Job], workers: int | None, per_gpu: int) -> list[Place]:
    """`workers` places; by default `per_gpu` for each GPU, or by the number of cores. GPUs are assigned in turn."""
    gpus = [] if all(job.device == "cpu" for job in jobs) else visible_gpus()
    most = len(gpus) * per_gpu if gpus else max(1, cores() // max(job.threads for job in jobs))
    return [Place(k, gpus[k % len(gpus)] if gpus else None) for k in range(workers or most)]


def visible_gpus() -> list[str]:
    """The names of the visible GPUs, as CUDA_VISIBLE_DEVICES has them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def free_place(places: Sequence[Place], running: Sequence[Running]) -> Place | None:
    """The first place without a job."""
    taken = {each.place for each in running}
    return next((place for place in places if place not in taken), None)


def begin(sweep: Sweep, job: Job, place: Place) -> Running:
    """Start a job's process in its own session, so that signals of the terminal reach it only through us."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / OUTPUT).open("ab") as output:
        # Its output goes to a file, since the process may outlive this command.
        process = subprocess.Popen(
            sweep.command(job),
            cwd=sweep.cwd,
            env=environment(job, place),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(job, place, process, time.monotonic())


def environment(job: Job, place: Place) -> dict[str, str]:
    """Our environment variables, with libraries limited to the run's number of threads, and one visible GPU."""
    threads = {f"{name}_NUM_THREADS": str(job.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    gpu = {} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}
    return {**os.environ, **threads, **gpu}


def conclude(finished: Running, stopping: bool) -> str:
    """One line about a finished job. If it could not write the reason into its status, that is done here."""
    # Killed by SIGKILL, or failed while importing: the run itself wrote nothing.
    code, folder = finished.process.returncode, RunFolder(finished.job.folder)
    if code and not stopping:
        folder.bury(reason(code, finished.job.folder / OUTPUT))
    status = folder.status()
    state = status.get("state", "not started")
    why = f": {headline(status['error'])}" if status.get("error") else ""
    seconds = datetime.timedelta(seconds=round(time.monotonic() - finished.began))
    return f"{finished.job.folder.name}  {' '.join(finished.job.overrides)}  {state}{why}  {seconds}"


def reason(code: int, output: Path) -> str:
    """Why a process exited with this code, which is not 0."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (": by a user, or by the system for lack of memory" if name == "SIGKILL" else "")
    # The last line that begins with "error: ", or of a traceback its last line.
    lines = [line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit code {code}"])[-1]
