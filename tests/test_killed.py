"""A run that is killed again and again leaves what an undisturbed one leaves."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import metrics

from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder

SCRIPT = Path(__file__).parents[1] / "scripts" / "train.py"
SETTINGS = [
    "debug=smoke",
    "steps=800",
    "log_every=10",
    "checkpoint.every=3",
    "planner.horizon=8",
    "planner.population=64",
    "eval.every=150",
    "video.final=0",
]
KILLS = 10


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(SCRIPT), *SETTINGS, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def saved_step(folder: Path) -> int:
    return int(RunFolder(folder).status().get("step", 0))


def kill_after(folder: Path, step: int) -> None:
    """Start the run, wait until it has saved a later step, and kill it at some moment after."""
    process = start(folder)
    while saved_step(folder) <= step and process.poll() is None:
        time.sleep(0.02)
    time.sleep(random.random() * 0.1)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded = Checkpoint(RunFolder(folder).last).load()
    assert loaded is not None
    return loaded.state["algo"]["weights"]


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path: Path) -> None:
    random.seed(0)
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    assert start(calm).wait() == 0
    for k in range(KILLS):
        kill_after(killed, saved_step(killed) + random.randrange(5, 30) if k else 0)
    assert start(killed).wait() == 0
    assert RunFolder(killed).status()["attempt"] == KILLS + 1
    assert metrics(killed) == metrics(calm)
    assert (killed / "episodes.jsonl").read_bytes() == (calm / "episodes.jsonl").read_bytes()
    assert (killed / "actions.bin").read_bytes() == (calm / "actions.bin").read_bytes()
    before, after = weights(calm), weights(killed)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
