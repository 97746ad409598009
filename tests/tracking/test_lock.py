"""Locks: one process at a time, and none once that process is gone."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from other_process import held, said, taker

from mbrl_lab.tracking.folder import AlreadyRunning, RunFolder
from mbrl_lab.tracking.lock import HELD, Lock


def test_one_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "lock")
    assert not lock.held_elsewhere() and not lock.path.exists(), "to ask leaves nothing behind"
    with held(lock.path) as other:
        assert lock.held_elsewhere() and not lock.take()
        other.kill()
        other.wait()
        assert not lock.held_elsewhere() and lock.take()


def test_of_many_that_want_it_in_the_same_instant_one_gets_it(tmp_path: Path) -> None:
    crowd = [taker(tmp_path / "lock") for _ in range(5)]
    heard = [said(process) for process in crowd]
    for process in crowd:
        process.kill()
        process.communicate()
    assert sorted(heard) == ["held"] + ["refused"] * 4


def test_a_process_may_hold_it_twice_and_keeps_it_until_both_let_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, two = Lock(path), Lock(path)
    assert one.take() and two.take() and one.take() and not two.held_elsewhere()
    one.release()
    one.release()
    with taker(path) as process:
        assert said(process) == "refused"
        process.kill()
    del two
    gc.collect()
    assert path not in HELD
    with held(path):
        assert one.held_elsewhere()


def test_a_locked_run_is_rejected_even_without_a_status(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with held(folder.lock.path):
        assert folder.running({})
        with pytest.raises(AlreadyRunning, match="already running just now"):
            folder.open({"steps": 1}, [])
    assert not folder.status() and not folder.config()
