"""Where a run comes from: the code's git commit, package versions, the machine, and the process itself."""

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

import torch

from mbrl_lab.hardware import multiplies_bf16

PACKAGE = Path(__file__).resolve().parent.parent


def provenance() -> dict[str, Any]:
    """What `env.json` holds, as plain values."""
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
    """{commit, dirty} of the repository that tracks `directory`; both None where none does or git is missing."""
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


@cache  # half a second, and it stays so while the process runs
def packages() -> dict[str, str]:
    """Every installed distribution and its version, by name."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def hardware() -> dict[str, Any]:
    """{host, system, cpu, cores, memory_gib, bf16, gpus, cuda}.

    Cores are those this process may use; bf16 is whether the processor multiplies it.
    """
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "bf16": multiplies_bf16(torch.device("cpu")),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def born(pid: int) -> str | None:
    """When the kernel started `pid`, in ticks since boot; "" for one that is gone; None where /proc is missing."""
    if not Path("/proc/self/stat").exists():
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    state, *fields = stat.rpartition(")")[2].split()
    return "" if state == "Z" else fields[18]


def alive(pid: int, birth: str | None) -> bool:
    """Whether the process `pid` that started at `birth` still runs; a later one with the same number is not it."""
    seen = born(pid)
    if seen is not None:
        return seen != "" and birth in (None, seen)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
