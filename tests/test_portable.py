"""What differs on macOS and Windows, by replacing what the system answers: it was never tried on one of them."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from other_process import forked

from mbrl_lab.nets import speed
from mbrl_lab.replay import free_memory
from mbrl_lab.sweep import parallel
from mbrl_lab.tracking import lock, provenance
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.provenance import alive, born, cores, hardware
from mbrl_lab.tracking.signals import Signals


def import_without_posix() -> None:
    """Import the package as if for the first time; other packages look after themselves."""
    for name in ("gymnasium", "hydra", "matplotlib.figure", "optuna", "psutil", "submitit", "torch"):
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mbrl_lab"]:
        del sys.modules[name]
    for name in ("fcntl", "resource", "pwd", "grp", "termios"):
        sys.modules[name] = None  # type: ignore[assignment]
    for name in ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP"):
        delattr(signal, name)
    for name in ("sched_getaffinity", "sysconf", "killpg", "getuid", "setsid", "uname"):
        delattr(os, name)
    package = importlib.import_module("mbrl_lab")
    for module in pkgutil.walk_packages(package.__path__, "mbrl_lab."):
        importlib.import_module(module.name)
    print("imported")


def test_nothing_that_only_posix_has_is_needed_to_import_it(tmp_path: Path) -> None:
    forked(import_without_posix, tmp_path).join()
    assert (tmp_path / "out").read_text() == "imported\n", (tmp_path / "err").read_text()[-2000:]


class Elsewhere:
    """A process as another system describes it."""

    born = 1000.0
    state = psutil.STATUS_RUNNING
    error: Exception | None = None

    def __init__(self, pid: int | None = None) -> None:
        if self.error is not None:
            raise self.error

    def status(self) -> str:
        return self.state

    def create_time(self) -> float:
        return self.born


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> type[Elsewhere]:
    class Mine(Elsewhere):
        pass

    monkeypatch.setattr(psutil, "Process", Mine)
    return Mine


def test_a_process_is_known_by_when_it_started(elsewhere: type[Elsewhere]) -> None:
    assert born(7) == "1000.00" and alive(7, "1000.00") and alive(7, None)
    elsewhere.born = 1001.5
    assert alive(7, "1000.00"), "the clock was set a little"
    elsewhere.born = 1060.0
    assert not alive(7, "1000.00"), "another process has its number now"
    elsewhere.state = psutil.STATUS_ZOMBIE
    assert born(7) == "" and not alive(7, "1060.00")
    elsewhere.error = psutil.NoSuchProcess(7)
    assert born(7) == "" and not alive(7, None)
    elsewhere.error = psutil.AccessDenied(7)
    assert born(7) is None and alive(7, "1000.00"), "somebody else's, which the system tells nothing about"


def test_cores_where_no_process_is_bound_to_some(elsewhere: type[Elsewhere], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert cores() == 10  # macOS
    elsewhere.cpu_affinity = lambda self: [0, 2, 5]  # type: ignore[attr-defined]
    assert cores() == 3


def test_free_memory_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        total, available = 48 * 2**30, 5 * 2**30

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.setattr(provenance, "Path", lambda _: Path("/nowhere/cpuinfo"))
    seen = hardware()
    assert free_memory(torch.device("cpu")) == 5 * 2**30
    assert seen["memory_gib"] == 48.0 and seen["cores"] >= 1 and seen["cpu"]


def test_signals_that_are_not_there_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGUSR2")
    with Signals() as signals:
        assert set(signals.previous) <= {signal.SIGTERM, signal.SIGINT} and signal.SIGTERM in signals.previous


def test_without_posix_locks_the_process_number_guards_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    folder = RunFolder(tmp_path)
    assert folder.open({"steps": 1}, []) == "fresh"
    assert RunFolder(tmp_path).running(folder.status())
    assert not folder.running(folder.status() | {"born": "1.00"})
    folder.mark("done")


def test_a_folder_that_cannot_be_opened_as_a_file_keeps_what_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    really = os.open

    def open_as_windows(path: Any, *flags: Any, **how: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return really(path, *flags, **how)

    monkeypatch.setattr(os, "open", open_as_windows)
    write_text(tmp_path / "é.txt", "ü")
    assert (tmp_path / "é.txt").read_text(encoding="utf-8") == "ü"


def test_memory_is_left_to_other_systems_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("Windows has no library of no name"))
    speed.keep_freed_memory()


def test_a_job_killed_by_windows_reports_its_exit_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(signal, "SIGKILL")
    (tmp_path / "output.log").write_text("run x\nerror: two lines\n  of it\n")
    assert parallel.reason(1, tmp_path / "output.log") == "error: two lines"
    (tmp_path / "output.log").write_text("")
    assert parallel.reason(3221225786, tmp_path / "output.log") == "exit code 3221225786"


def test_psutil_is_here() -> None:
    assert importlib.util.find_spec("psutil") is not None and alive(os.getpid(), born(os.getpid()))
