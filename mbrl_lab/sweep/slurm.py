"""Jobs of a SLURM cluster: submitted through submitit, requeued at their time limit or when they are preempted.

A job runs the same script as a local run, in submitit's process. So SIGUSR2, which SLURM sends before the time limit,
reaches the run: it saves and passes the signal on to submitit, which requeues the job.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from mbrl_lab.config import ConfigError
from mbrl_lab.sweep.jobs import Job, Sweep
from mbrl_lab.tracking.provenance import shell_command

LOGS = "slurm"
"""The folder for the jobs' output and submitit's own files, in the sweep's folder."""

PAUSE = 2.0


class Script:
    """A script called with arguments in this process. A requeued job calls it with the same ones, and resumes."""

    def __call__(self, cwd: str, script: str, arguments: list[str]) -> None:
        os.chdir(cwd)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")

    def checkpoint(self, *again: Any) -> submitit.helpers.DelayedSubmission:
        """Called by submitit to requeue. The run has saved by itself, so only the arguments are needed."""
        return submitit.helpers.DelayedSubmission(self, *again)


def submit(sweep: Sweep, jobs: Sequence[Job], wait: bool, requeues: int, **settings: Any) -> bool:
    """Submit these jobs as one array. With `wait`, wait until none is in the queue. Returns whether they have finished.

    Raises ConfigError, in one line, if there is no SLURM or it rejects the jobs.
    """
    if not shutil.which("sbatch"):
        raise ConfigError(
            "launcher=slurm needs sbatch, which is not installed; launcher=parallel runs jobs on this machine"
        )

    # submitit logs a line for each job.
    logging.getLogger("submitit").setLevel(logging.ERROR)
    executor = submitit.AutoExecutor(sweep.path / LOGS, cluster="slurm", slurm_max_num_timeout=requeues)
    executor.update_parameters(**parameters(max(job.threads for job in jobs), sweep.path.name, **settings))

    arguments = [job.arguments() for job in jobs]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # submitit repeats sbatch's errors there
            sent = executor.map_array(Script(), [sweep.cwd] * len(jobs), [sweep.script] * len(jobs), arguments)
    except FailedJobError as error:
        raise ConfigError(f"launcher=slurm: {refusal(error, settings)}") from None

    # Stored at once: `status` needs the ids, and this command may be stopped while it waits.
    numbers = {job.folder.relative_to(sweep.path).as_posix(): each.job_id for job, each in zip(jobs, sent, strict=True)}
    replace(sweep, submitted={**sweep.submitted, **numbers}).write()
    print(f"submitted {len(sent)} jobs, {sent[0].job_id} to {sent[-1].job_id}", flush=True)
    print(f"          {shell_command('sweep')} status {shlex.quote(str(sweep.path))}", flush=True)

    try:
        while wait and queued(list(numbers.values())):
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        print("sweep     no longer waiting; the jobs continue (scancel stops them)", file=sys.stderr)
        raise SystemExit(130) from None
    return wait


def parameters(
    threads: int,
    name: str,
    partition: str | None,
    minutes: int,
    memory_gb: int | None,
    cpus: int | None,
    gpus: int,
    at_once: int,
    signal_seconds: int,
    account: str | None,
    qos: str | None,
    constraint: str | None,
    setup: Sequence[str],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """submitit's names for the settings of conf/launcher/slurm.yaml; null means the cluster's default.

    Args:
        threads: threads of a run, the default of `cpus`.
        name: name of the job array.
    """
    ours = {
        "name": name,
        "timeout_min": minutes,
        "cpus_per_task": cpus or threads,
        "mem_gb": memory_gb,
        "slurm_partition": partition,
        "slurm_gpus_per_node": gpus or None,
        "slurm_account": account,
        "slurm_qos": qos,
        "slurm_constraint": constraint,
        "slurm_array_parallelism": at_once,
        "slurm_signal_delay_s": signal_seconds,
        "slurm_setup": [*(f"export {lib}_NUM_THREADS={threads}" for lib in ("OMP", "MKL", "OPENBLAS")), *setup],
        "slurm_additional_parameters": {"requeue": True, **extra},
    }
    return {key: value for key, value in ours.items() if value is not None}


REQUESTED = ("partition", "minutes", "memory_gb", "cpus", "gpus", "account", "qos", "constraint")
"""Settings that a cluster may reject."""


def refusal(error: FailedJobError, settings: Mapping[str, Any]) -> str:
    """sbatch's first error, and the settings that it may be about."""
    text = next((line for line in str(error).splitlines() if "sbatch: error: " in line), str(error).splitlines()[0])
    given = ", ".join(f"launcher.{k}={settings[k]}" for k in REQUESTED if settings[k])
    return f"{text.rpartition('sbatch: error: ')[2].strip()} ({given})"


def queued(numbers: Sequence[str]) -> set[str]:
    """Those of these jobs that are in SLURM's queue: waiting, running or requeued. Empty if there is no SLURM."""
    if not numbers or not shutil.which("squeue"):
        return set()
    done = subprocess.run(["squeue", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"squeue does not answer: {done.stderr.strip()}")
    return set(numbers) & set(done.stdout.split())
