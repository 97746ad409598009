"""On a real SLURM: runs that are requeued, signalled and killed half-way end as an undisturbed one, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import metrics

from mbrl_lab.cli.sweep import to_retry
from mbrl_lab.config import ConfigError
from mbrl_lab.sweep.jobs import Job, Sweep, read_sweep
from mbrl_lab.sweep.slurm import queued, submit
from mbrl_lab.sweep.start import start
from mbrl_lab.sweep.table import run_states
from mbrl_lab.tracking.folder import RunFolder

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
SETTINGS = [
    *("debug=smoke", "steps=2000", "log_every=10", "checkpoint.every=20", "eval.every=100", "video.final=0"),
    *("planner.horizon=8", "planner.population=64"),
]
FILES = ("episodes.jsonl", "actions.bin")


def test_where_there_is_no_slurm_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch, which is not installed; launcher=parallel"):
        submit(Sweep(tmp_path, "x", ".", {}, {}), [], wait=False, requeues=1)


def wait_for(happened: Callable[[], bool], what: str, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"{what}: it never came"
        time.sleep(0.1)


def saved(folder: Path) -> int:
    return int(RunFolder(folder).status().get("step", 0))


def attempts(folder: Path) -> int:
    return int(RunFolder(folder).status().get("attempt", 0))


@pytest.mark.slurm
def test_requeued_signalled_and_killed_jobs_leave_no_trace(tmp_path: Path) -> None:
    command = [sys.executable, str(TRAIN), *SETTINGS]
    subprocess.run([*command, f"hydra.run.dir={tmp_path / 'calm'}"], check=True, capture_output=True)
    settings = ["launcher=slurm", "launcher.wait=false", "launcher.minutes=15", "launcher.memory_gb=null"]
    four = "name=signalled,requeued,killed,left"  # one config and one seed: the name changes nothing
    subprocess.run([*command, *settings, four, "sweep_name=x"], check=True, cwd=tmp_path, capture_output=True)
    path = tmp_path / "outputs" / "sweeps" / "x"
    sweep = read_sweep(path)
    assert sweep is not None and len(sweep.submitted) == 4
    signalled, requeued, killed, left = (path / k for k in "0123")

    wait_for(lambda: saved(signalled) > 0, "a save of the first")
    # scancel sends again and again to a job that is being requeued, and would hit its next attempt
    sent = subprocess.Popen(["timeout", "2", "scancel", "--signal=USR2", sweep.submitted["0"]])
    wait_for(lambda: saved(requeued) > 0, "a save of the second")
    subprocess.run(["scontrol", "requeue", sweep.submitted["1"]], check=True)
    sent.wait()
    wait_for(lambda: saved(killed) > 80, "a save of the third")
    os.kill(RunFolder(killed).status()["pid"], signal.SIGKILL)

    wait_for(lambda: not queued(list(sweep.submitted.values())), "the end of the jobs")
    assert [seen.state for seen in run_states(sweep)] == ["done", "done", "killed", "done"]
    assert [attempts(f) for f in (signalled, requeued, killed, left)] == [2, 2, 1, 1]
    jobs = to_retry(sweep, [])
    assert [job.folder for job in jobs] == [killed]
    start(Sweep(path, sweep.script, sweep.cwd, {**sweep.launcher, "wait": True}, sweep.jobs, sweep.submitted), jobs)
    assert attempts(killed) == 2
    for folder in (signalled, requeued, killed, left):
        assert metrics(folder) == metrics(tmp_path / "calm")
        assert all((folder / f).read_bytes() == (tmp_path / "calm" / f).read_bytes() for f in FILES)


@pytest.mark.slurm
def test_what_slurm_rejects_is_one_line(tmp_path: Path) -> None:
    words = ["launcher=slurm", "launcher.partition=nowhere", "launcher.wait=false", *SETTINGS, "sweep_name=y"]
    done = subprocess.run([sys.executable, str(TRAIN), *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert (
        "invalid partition specified: nowhere (launcher" in done.stderr and "launcher.partition=nowhere" in done.stderr
    )
    assert not (tmp_path / "outputs" / "sweeps" / "y" / "0").exists()


def test_jobs_know_their_place(tmp_path: Path) -> None:
    """Names with a slash, from hydra.sweep.subdir, are folders in folders."""
    job = Job(tmp_path / "a" / "b", ("seed=1",))
    sweep = Sweep(tmp_path, "x.py", ".", {}, {"a/b": job}, {"a/b": "1_0"})
    sweep.write()
    assert read_sweep(tmp_path) == sweep
