"""Jobs as processes of this machine: each in one of a few places, with threads and a GPU of its own."""

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
from mbrl_lab.tracking.provenance import cores
from mbrl_lab.tracking.signals import Signals

OUTPUT = "output.log"
"""What a job's process prints, in its run's folder."""

PAUSE = 0.05


class Place(NamedTuple):
    """Where a job can run: a number, and the GPU that jobs there see, if any."""

    number: int
    gpu: str | None


class Running(NamedTuple):
    """A job's process."""

    job: Job
    place: Place
    process: subprocess.Popen[bytes]
    began: float


def run_parallel(sweep: Sweep, jobs: Sequence[Job], workers: int | None, per_gpu: int) -> None:
    """Run every job in a process of its own, `workers` at once; what one of them comes to does not touch the others.

    A job that is killed leaves its reason in its folder's status. SIGINT, SIGTERM and SIGUSR2 are passed on as SIGTERM,
    so that every run saves; then SystemExit. A second SIGINT kills them.
    """
    places = choose_places(jobs, workers, per_gpu)
    waiting, running, ended = list(jobs), list[Running](), 0
    told = False
    with Signals() as signals:
        try:
            while running or (waiting and not signals.received):
                while waiting and not signals.received and (free := free_place(places, running)):
                    running.append(begin(sweep, waiting.pop(0), free))
                if signals.received and not told:
                    told = True
                    print(f"sweep     {signals.received}: {len(running)} runs save and stop", flush=True)
                    for each in running:
                        each.process.terminate()
                time.sleep(PAUSE)
                for each in [r for r in running if r.process.poll() is not None]:
                    running.remove(each)
                    ended += 1
                    print(f"sweep     {ended}/{len(jobs)}  {conclude(each, told)}", flush=True)
        except BaseException:
            for each in running:
                each.process.kill()
                each.process.wait()
                conclude(each, told=False)
            raise
        if signals.received:
            print(
                f"stopped: python scripts/sweep.py retry {shlex.quote(str(sweep.path))} goes on with all of it",
                file=sys.stderr,
            )
            raise SystemExit(128 + signal.Signals[signals.received])


def choose_places(jobs: Sequence[Job], workers: int | None, per_gpu: int) -> list[Place]:
    """As many as asked for; else `per_gpu` for each GPU, or what the cores bear. GPUs are dealt in turn."""
    gpus = [] if all(job.device == "cpu" for job in jobs) else visible_gpus()
    most = len(gpus) * per_gpu if gpus else max(1, cores() // max(job.threads for job in jobs))
    return [Place(k, gpus[k % len(gpus)] if gpus else None) for k in range(workers or most)]


def visible_gpus() -> list[str]:
    """The names by which CUDA_VISIBLE_DEVICES knows them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(k) for k in range(torch.cuda.device_count())]
    return names[: torch.cuda.device_count()]


def free_place(places: Sequence[Place], running: Sequence[Running]) -> Place | None:
    """The first place where nobody is."""
    taken = {each.place for each in running}
    return next((place for place in places if place not in taken), None)


def begin(sweep: Sweep, job: Job, place: Place) -> Running:
    """Start a job's process: out of the terminal's reach, since its signals come through us."""
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / OUTPUT).open("ab") as output:
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
    """Ours, with libraries held to the run's own number of threads, and one GPU to see."""
    threads = {f"{name}_NUM_THREADS": str(job.threads) for name in ("OMP", "MKL", "OPENBLAS")}
    gpu = {} if place.gpu is None else {"CUDA_VISIBLE_DEVICES": place.gpu}
    return {**os.environ, **threads, **gpu}


def conclude(ended: Running, told: bool) -> str:
    """One line on a job that ended; a reason is left in its folder where it could not say one itself."""
    code, folder = ended.process.returncode, RunFolder(ended.job.folder)
    if code and not told:
        folder.bury(reason(code, ended.job.folder / OUTPUT))
    status = folder.status()
    state = status.get("state", "not started")
    why = f": {headline(status['error'])}" if status.get("error") else ""
    seconds = datetime.timedelta(seconds=round(time.monotonic() - ended.began))
    return f"{ended.job.folder.name}  {' '.join(ended.job.overrides)}  {state}{why}  {seconds}"


def reason(code: int, output: Path) -> str:
    """Why a process ended with this code, which is not 0."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (": by somebody, or by the system for want of memory" if name == "SIGKILL" else "")
    said = [line for line in output.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("error: ")]
    return (errors or said or [f"ended with exit code {code}"])[-1]
