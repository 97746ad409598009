"""The origin of a run: the code's git commit, package versions, the machine, and the process itself."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from mbrl_lab.hardware import supports_bf16

PACKAGE = Path(__file__).resolve().parent.parent

CLOCK = 5.0
"""Tolerance in seconds for the start time of a process, which moves when the system's clock is set."""


def shell_command(name: str) -> str:
    """How a command is called from the current folder: scripts/NAME.py in the repository, elsewhere `mbrl-lab NAME`."""
    script = Path("scripts", f"{name}.py")
    here = script.is_file() and script.resolve() == PACKAGE.parent / script
    return f"python {script}" if here else f"mbrl-lab {name}"


def provenance() -> dict[str, Any]:
    """The content of `env.json`, as plain values."""
    return {
        "started": now(),
        "git": git(PACKAGE),
        "python": platform.python_version(),
        "packages": packages(),
        "hardware": hardware(),
    }


def now() -> str:
    """The time, UTC, ISO 8601 with microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def git(directory: Path) -> dict[str, Any]:
    """{commit, dirty} of the repository that tracks `directory`; both None if there is none or git is missing."""
    # The package may be installed inside of another repository, whose commit has nothing to do with it.
    if _git(directory, "ls-files", "--error-unmatch", "__init__.py") is None:
        return {"commit": None, "dirty": None}
    status = _git(directory, "status", "--porcelain")
    commit = _git(directory, "rev-parse", "--verify", "HEAD")
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(directory: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", *args], cwd=directory, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache  # reads some hundred files, which do not change while the process runs
def packages() -> dict[str, str]:
    """Every installed distribution and its version, by name."""
    # `metadata` reads and parses a file at every access.
    described = [d.metadata for d in importlib.metadata.distributions()]
    found = {x["Name"]: x["Version"] for x in described if x["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def hardware() -> dict[str, Any]:
    """{host, system, cpu, cores, memory_gib, bf16, gpus, cuda}.

    Cores are those this process may use; bf16 is whether the processor has bf16 matrix products in hardware.
    """
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "bf16": supports_bf16(torch.device("cpu")),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def cpu_model() -> str:
    """The processor's name, as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """The number of cores that this process may use."""
    process = psutil.Process()
    allowed = len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else 0  # macOS has no such thing
    return allowed or os.cpu_count() or 1


def born(pid: int) -> str | None:
    """Start of the process `pid` in seconds since 1970; "" if it is gone; None if the system does not reveal it."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
    except psutil.AccessDenied:
        return None


def alive(pid: int, birth: str | None) -> bool:
    """Whether the process `pid` that started at `birth` still runs, and not a later one with the same number."""
    now_there = born(pid)
    if not now_there or not birth:
        return now_there != ""

    # Process numbers are reused; the start time distinguishes processes of the same number.
    return abs(float(now_there) - float(birth)) < CLOCK
