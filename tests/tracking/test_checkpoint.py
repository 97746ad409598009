"""Checkpoints: whole or not at all, cheap to save, harmless to open, and forgiving of one damaged file."""

from __future__ import annotations

import errno
import logging
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mbrl_lab.tracking import checkpoint as checkpoint_module
from mbrl_lab.tracking.checkpoint import Checkpoint, Damaged, Loaded, check_plain, read
from mbrl_lab.types import Step


class Ring:
    """Rows whose observation is their own number, in a ring."""

    def __init__(self, capacity: int, added: int = 0) -> None:
        self.slots, self.added = capacity, added
        self.asked: list[tuple[int, int]] = []
        self.store = torch.zeros(capacity, 2, 3)

    def steps(self, start: int, stop: int) -> Step:
        assert max(0, self.added - self.slots) <= start < stop <= self.added, (start, stop)
        self.asked.append((start, stop))
        number = torch.arange(start, stop)
        self.store[number % self.slots] = number[:, None, None].float()
        flag = torch.zeros(stop - start, 2, dtype=torch.bool)
        obs = torch.stack([self.store[n % self.slots] for n in number])
        return Step(number[:, None].expand(-1, 2), obs, flag.float(), flag, flag)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "last")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_module, "CHUNK_BYTES", 52 * 100)  # a row is 52 bytes


def numbers(loaded: Loaded | None) -> list[int]:
    """The numbers of all loaded rows, after a look at whether each stands where it says."""
    assert loaded is not None
    found: list[int] = []
    for start, step in loaded.steps:
        values = step.obs[:, 0, 0].int().tolist()
        assert values == list(range(start, start + len(values))) == step.action[:, 0].tolist()
        found += values
    return found


def files(checkpoint: Checkpoint) -> set[str]:
    return {path.name for path in checkpoint.directory.iterdir()}


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_nothing_saved_is_nothing_loaded(checkpoint: Checkpoint) -> None:
    assert checkpoint.load() is None


def test_what_is_saved_is_loaded(checkpoint: Checkpoint) -> None:
    weights = OrderedDict(w=torch.randn(3), b=torch.arange(2, dtype=torch.uint8))
    state = {"step": 5, "big": 2**100, "x": float("inf"), "name": None, "deep": [(1, "a", True), {3: weights}]}
    checkpoint.save(state)
    loaded = Checkpoint(checkpoint.directory).load()
    assert loaded is not None and list(loaded.steps) == []
    found = loaded.state["deep"][1][3]
    assert torch.equal(found["w"], weights["w"]) and torch.equal(found["b"], weights["b"])
    assert {k: v for k, v in loaded.state.items() if k != "deep"} == {k: v for k, v in state.items() if k != "deep"}
    assert loaded.state["deep"][0] == (1, "a", True)
    assert files(checkpoint) == {"state.pt"}


def test_a_save_writes_what_is_new_and_drops_what_fell_out(checkpoint: Checkpoint) -> None:
    ring = Ring(capacity=250)
    for added in (250, 330, 420):
        ring.added, ring.asked = added, []
        checkpoint.save({}, ring)
    assert [span for span in ring.asked if span[1] - span[0] > 1] == [(300, 400), (400, 420)]
    assert numbers(Checkpoint(checkpoint.directory).load()) == list(range(170, 420))
    named = {"rows-100-200.pt", "rows-200-300.pt", "rows-300-400.pt", "rows-400-420.pt"}
    before = {"rows-0-100.pt", "rows-200-300.pt", "rows-300-330.pt"} | named
    assert files(checkpoint) == {"state.pt", "state.prev.pt"} | before
    ring.added = 700
    checkpoint.save({}, ring)
    checkpoint.save({}, ring)
    assert numbers(Checkpoint(checkpoint.directory).load()) == list(range(450, 700))
    assert all(int(name.split("-")[2][:-3]) > 450 for name in files(checkpoint) if name.startswith("rows"))


def test_a_ring_smaller_than_a_chunk_reads_no_step_that_is_gone(checkpoint: Checkpoint) -> None:
    ring = Ring(capacity=50)
    for added in (30, 60, 70, 200):
        ring.added = added
        checkpoint.save({}, ring)
        assert numbers(Checkpoint(checkpoint.directory).load()) == list(range(max(0, added - 50), added))
    assert files(checkpoint) == {"state.pt", "state.prev.pt", "rows-20-70.pt", "rows-150-200.pt"}


def test_without_hard_links_a_crash_between_the_renames_loses_one_save(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save({"step": 1})
    replace = os.replace

    def no_links(*_: Any) -> None:
        raise PermissionError

    def crash(source: Path, target: Path) -> None:
        if target == checkpoint.newest:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"step": 2})
    monkeypatch.undo()
    loaded = Checkpoint(checkpoint.directory).load()
    assert loaded is not None and loaded.state == {"step": 1}
    assert "is missing" in caplog.text


def test_many_small_saves_leave_few_files(checkpoint: Checkpoint) -> None:
    ring = Ring(capacity=100_000)
    for added in range(1, 40):
        ring.added = added * 10
        checkpoint.save({}, ring)
    assert len([name for name in files(checkpoint) if name.startswith("rows")]) <= 5
    assert max(p.stat().st_size for p in checkpoint.directory.glob("rows-*")) < 20_000
    assert numbers(Checkpoint(checkpoint.directory).load()) == list(range(390))


def test_a_view_is_saved_alone(checkpoint: Checkpoint) -> None:
    store = torch.zeros(100_000, 1, 3)

    class Views(Ring):
        def steps(self, start: int, stop: int) -> Step:
            rest = super().steps(start, stop)
            return rest._replace(obs=store[start:stop])

    checkpoint.save({}, Views(capacity=10, added=10))
    assert (checkpoint.directory / "rows-0-10.pt").stat().st_size < 10_000


@pytest.mark.parametrize("victim", ["state.pt", "rows-"])
def test_a_crash_while_saving_keeps_the_checkpoint_before(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    ring = Ring(capacity=1000, added=150)
    checkpoint.save({"step": 1}, ring)
    ring.added = 290
    replace = os.replace

    def crash(source: Path, target: Path) -> None:
        if target.name.startswith(victim):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"step": 2}, ring)
    monkeypatch.undo()
    resumed = Checkpoint(checkpoint.directory)
    loaded = resumed.load()
    assert loaded is not None and loaded.state == {"step": 1}
    assert numbers(loaded) == list(range(150))
    resumed.save({"step": 3}, ring)
    assert "state.pt.tmp" not in files(resumed)
    assert numbers(Checkpoint(checkpoint.directory).load()) == list(range(290))


def test_a_crash_after_the_chunks_leaves_no_files_behind(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Ring(capacity=1000, added=150)
    checkpoint.save({"step": 1}, ring)
    (checkpoint.directory / "rows-100-290.pt").write_bytes(b"of a process that was killed")
    (checkpoint.directory / "state.pt.tmp").write_bytes(b"likewise")
    resumed = Checkpoint(checkpoint.directory)
    assert numbers(resumed.load()) == list(range(150))
    ring.added = 260
    resumed.save({"step": 2}, ring)
    assert not {"rows-100-290.pt", "state.pt.tmp"} & files(resumed)


@pytest.mark.parametrize(
    "damage", ["cut state", "altered state", "empty state", "lost state", "cut rows", "lost rows", "altered rows"]
)
def test_a_damaged_newest_file_falls_back_to_the_one_before(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    ring = Ring(capacity=1000, added=150)
    checkpoint.save({"step": 1, "w": torch.zeros(100)}, ring)
    ring.added = 290
    checkpoint.save({"step": 2, "w": torch.ones(100)}, ring)
    how, what = damage.split()
    path = checkpoint.directory / ("state.pt" if what == "state" else "rows-100-200.pt")
    if how == "lost":
        path.unlink()
    elif how == "altered":
        flip(path, path.read_bytes().index(np.float32(1.0 if what == "state" else 150.0).tobytes()))
    else:
        path.write_bytes(path.read_bytes()[: 0 if how == "empty" else -100])
    resumed = Checkpoint(checkpoint.directory)
    loaded = resumed.load()
    assert loaded is not None and loaded.state["step"] == 1
    assert numbers(loaded) == list(range(150))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and path.name in record.message and "\n" not in record.message
    ring.added = 170
    resumed.save({"step": 3, "w": torch.zeros(100)}, ring)
    content = read(resumed.older[0])
    assert content["state"]["step"] == 1, "the damaged one must not take the place of the good one"
    again = Checkpoint(checkpoint.directory).load()
    assert again is not None and again.state["step"] == 3 and numbers(again) == list(range(170))


def test_as_many_are_kept_as_asked_for_and_each_is_whole(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "last", keep=3)
    ring = Ring(capacity=150)
    for step in range(1, 7):
        ring.added = 90 * step
        if step == 4:
            kept = Checkpoint(tmp_path / "last", keep=3)
            kept.load()
        kept.save({"step": step}, ring)
    assert {p.name for p in kept.directory.glob("state*")} == {"state.pt", "state.prev.pt", "state.prev2.pt"}
    for path, step in ((kept.newest, 6), (kept.older[0], 5), (kept.older[1], 4)):
        loaded = Checkpoint(kept.directory, keep=3).load()
        assert loaded is not None and loaded.state["step"] == step
        assert numbers(loaded) == list(range(90 * step - 150, 90 * step))
        path.write_bytes(b"")
    alone = Checkpoint(tmp_path / "alone", keep=1)
    for step in (1, 2):
        alone.save({"step": step}, ring)
    assert {p.name for p in alone.directory.glob("state*")} == {"state.pt"}


def test_with_nothing_to_fall_back_to_damage_is_one_line(checkpoint: Checkpoint) -> None:
    checkpoint.save({"step": 1})
    checkpoint.newest.write_bytes(checkpoint.newest.read_bytes()[:-50])
    with pytest.raises(Damaged, match=r"state\.pt is damaged"):
        Checkpoint(checkpoint.directory).load()


def test_an_unknown_format_is_rejected_and_not_worked_around(checkpoint: Checkpoint) -> None:
    checkpoint.save({"step": 1})
    checkpoint.save({"step": 2})
    torch.save({"format": 2, "state": {}}, checkpoint.newest)
    with pytest.raises(ValueError, match=r"state\.pt has format 2; this version of mbrl_lab reads format 1") as refusal:
        Checkpoint(checkpoint.directory).load()
    assert not isinstance(refusal.value, Damaged)


class Malice:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_file_that_would_run_code_is_not_opened(checkpoint: Checkpoint, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    checkpoint.save({"step": 1})
    torch.save({"format": 1, "state": Malice(harm), "chunks": [], "first": 0}, checkpoint.newest)
    with pytest.raises(ValueError, match="more than tensors and plain values"):
        Checkpoint(checkpoint.directory).load()
    checkpoint.newest.write_bytes(pickle.dumps(Malice(harm)))
    with pytest.raises(Damaged):
        Checkpoint(checkpoint.directory).load()
    assert not harm.exists()
    pickle.loads(checkpoint.newest.read_bytes())
    assert harm.exists(), "it could have done harm"


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(2), {1, 2}, torch.float32, Path("x"), Step(*[0] * 5)])
def test_what_could_not_be_loaded_is_not_saved(checkpoint: Checkpoint, value: Any) -> None:
    checkpoint.save({"step": 1})
    with pytest.raises(TypeError, match=r"^state\.algo\.0\.x is a "):
        checkpoint.save({"algo": [{"x": value}]})
    loaded = checkpoint.load()
    assert loaded is not None and loaded.state == {"step": 1}


def test_keys_are_checked_too() -> None:
    with pytest.raises(TypeError, match="key"):
        check_plain({np.int64(1): 1})


def test_steps_are_not_saved_over_steps_that_were_not_loaded(checkpoint: Checkpoint) -> None:
    ring = Ring(capacity=10, added=5)
    checkpoint.save({}, ring)
    with pytest.raises(AssertionError, match="load"):
        Checkpoint(checkpoint.directory).save({}, ring)


def test_saving_the_same_steps_again_writes_none(checkpoint: Checkpoint) -> None:
    ring = Ring(capacity=10)
    checkpoint.save({}, ring)
    assert numbers(Checkpoint(checkpoint.directory).load()) == []
    ring.added = 5
    checkpoint.save({}, ring)
    ring.asked = []
    checkpoint.save({"step": 2}, ring)
    assert ring.asked == []
    assert numbers(Checkpoint(checkpoint.directory).load()) == list(range(5))


@pytest.mark.gpu
def test_a_checkpoint_of_a_gpu_loads_on_the_cpu(checkpoint: Checkpoint) -> None:
    checkpoint.save({"w": torch.ones(3, device="cuda")})
    loaded = Checkpoint(checkpoint.directory).load()
    assert loaded is not None and loaded.state["w"].device.type == "cpu"


def test_a_full_disk_is_named_though_torch_hides_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"step": 1})

    def full(*_: object) -> None:
        error = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
        error.__context__ = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"^\[Errno 28\] No space left on device: '.*state.pt'$"):
        checkpoint.save({"step": 2})
    loaded = checkpoint.load()
    assert loaded is not None and loaded.state == {"step": 1}
