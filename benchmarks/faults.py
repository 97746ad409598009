"""What becomes of a run when things go wrong: each fault is brought about, the run resumed, and the end compared.

python benchmarks/faults.py --out docs/results/faults.csv      (as root on Linux; what cannot be done here is said)

A run that survived leaves the metrics (times apart), episodes, actions and weights of an undisturbed one, bit for bit.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder

TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
SETTINGS = [
    *("debug=smoke", "steps=800", "log_every=10", "checkpoint.every=3", "eval.every=150", "video.final=0"),
    *("planner.horizon=8", "planner.population=64"),
]
NAME = "state.pt"


class Skipped(Exception):
    """This machine cannot bring the fault about."""


def start(folder: Path, *more: str, before: tuple[str, ...] = (), **env: str) -> subprocess.Popen[str]:
    """The run, or another with more settings, in a process of its own."""
    command = [*before, sys.executable, str(TRAIN), *SETTINGS, *more, f"hydra.run.dir={folder}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env={**os.environ, **env}, preexec_fn=heed_interrupts
    )


def heed_interrupts() -> None:
    """What is started in the background of a shell ignores SIGINT, and so would the run."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(folder: Path, *more: str, **how: Any) -> tuple[int, str]:
    """Exit code, and what it said that is not progress."""
    process = start(folder, *more, **how)
    _, said = process.communicate(timeout=300)
    return process.returncode, "\n".join(line for line in said.splitlines() if "steps/s" not in line)


def saved(folder: Path) -> int:
    return int(RunFolder(folder).status().get("step", 0))


def run_until(folder: Path, step: int, *more: str) -> subprocess.Popen[str]:
    """Started, and so far that it has saved a later step."""
    process = start(folder, *more)
    while saved(folder) <= step and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    return process


def same(one: Path, other: Path) -> bool:
    """Whether two runs came to the same."""

    def rows(folder: Path) -> list[dict[str, Any]]:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]

    def weights(folder: Path) -> dict[str, torch.Tensor]:
        loaded = Checkpoint(RunFolder(folder).last).load()
        assert loaded is not None
        return dict(loaded.state["algo"]["weights"])

    files = ("episodes.jsonl", "actions.bin")
    a, b = weights(one), weights(other)
    return (
        rows(one) == rows(other)
        and all((one / f).read_bytes() == (other / f).read_bytes() for f in files)
        and a.keys() == b.keys()
        and all(torch.equal(a[k], b[k]) for k in a)
    )


def goes_on(folder: Path, calm: Path, **how: Any) -> str:
    """Run to the end; "" if it came to what the undisturbed one did, else what went wrong."""
    code, said = run(folder, **how)
    return (said or f"exit code {code}") if code else "" if same(folder, calm) else "the end differs"


def refused(said: str, code: int, expected: str) -> str:
    """ "" if this was one line with these words."""
    fine = code not in (0, None) and expected in said and "Traceback" not in said
    return "" if fine and len(said.splitlines()) <= 2 else f"exit code {code}: {said}"


def killed(place: Path, calm: Path, kills: int) -> Iterator[tuple[str, str]]:
    """SIGKILL again and again: mostly at moments between two saves or in one, some while it starts or resumes."""
    random.seed(0)
    folder, unfinished = place / "killed", 0
    for k in range(kills):
        if k % 5 == 4:
            process = start(folder)
            time.sleep(random.uniform(0.2, 6))
        else:
            process = run_until(folder, saved(folder) + random.randrange(3, 14))
            time.sleep(random.uniform(0, 0.1))
        process.kill()
        process.communicate()
        unfinished += any(folder.rglob("*.tmp"))
    wrong = goes_on(folder, calm)
    yield f"SIGKILL at {kills} random moments of one run, {unfinished} of them while a file was being written", wrong


def signalled(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """Asked to stop: it saves, and goes on from that step."""
    for name, numbers, code in (
        ("SIGTERM", [signal.SIGTERM], 143),
        ("SIGUSR2", [signal.SIGUSR2], 140),
        ("SIGINT", [signal.SIGINT], 130),
        ("SIGINT twice", [signal.SIGINT, signal.SIGINT], 130),
    ):
        folder = place / name.replace(" ", "-")
        process = run_until(folder, 100)
        for number in numbers:
            process.send_signal(number)
        process.communicate(timeout=60)
        wrong = "" if process.returncode == code else f"exit code {process.returncode}, not {code}"
        yield f"{name} in the middle", wrong or goes_on(folder, calm)


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own."""
    disk = Path(tempfile.mkdtemp(prefix="disk", dir=place))
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        raise Skipped("needs the right to mount a tmpfs")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def full_disk(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """The disk is full all of a sudden, and later it is not."""
    with small_disk(place, 64) as disk:
        folder = disk / "run"
        process = run_until(folder, 60)
        with (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(4096))
                except OSError:
                    break
        _, said = process.communicate(timeout=60)
        said = "\n".join(line for line in said.splitlines() if "steps/s" not in line)
        wrong = refused(said, process.returncode, "No space left on device")
        (disk / "filler").unlink(missing_ok=True)
        yield "a full disk", wrong or goes_on(folder, calm)


def read_only(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """A folder that cannot be written."""
    with small_disk(place / "..", 8) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, said = run(disk / "run")
        yield "a folder that can only be read", refused(said, code, "Read-only file system")


def two_at_once(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """Two processes for one folder in the same instant, and a third later."""
    folder = place / "two"
    both = [start(folder) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    codes = [process.returncode for process in both]
    wrong = f"exit codes {codes}" if sorted(codes) != [0, 2] else ""
    loser = said[codes.index(2)] if not wrong else ""
    wrong = wrong or refused(loser.strip(), 2, "already running")
    yield "two processes on one folder at the same time", wrong or ("" if same(folder, calm) else "the end differs")


def half_way(place: Path, name: str) -> tuple[Path, Path]:
    """A run that was stopped in the middle, and its checkpoint."""
    folder = place / name
    process = run_until(folder, 200)
    process.terminate()
    process.communicate(timeout=60)
    return folder, folder / "checkpoints" / "last" / NAME


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


class Malice:
    """Unpickled by a loader that runs code, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def damaged(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """Checkpoints that are not what was saved."""
    stopped, _ = half_way(place, "stopped")

    def copy(name: str) -> tuple[Path, Path]:
        folder = place / name
        shutil.copytree(stopped, folder)
        return folder, folder / "checkpoints" / "last" / NAME

    folder, state = copy("cut")
    os.truncate(state, state.stat().st_size // 2)
    yield "a checkpoint cut short", goes_on(folder, calm)

    folder, state = copy("flipped")
    flip(state)
    yield "a checkpoint with one bit flipped", goes_on(folder, calm)

    folder, state = copy("rows")
    flip(max(state.parent.glob("rows-*.pt"), key=lambda path: path.stat().st_mtime_ns))
    yield "the newest rows of replay with one bit flipped", goes_on(folder, calm)

    for what, word in {"a deeper model": "dynamics.depth=3", "a smaller model": "dynamics.width=16"}.items():
        folder, state = copy(what.replace(" ", "-"))
        other = place / f"{folder.name}-other"
        code, said = run(other, word, "steps=200")
        assert code == 0, said
        shutil.rmtree(state.parent)
        shutil.copytree(other / "checkpoints" / "last", state.parent)
        code, said = run(folder)
        yield f"the checkpoint of {what}", refused(said, code, "the checkpoint is of another model")

    folder, state = copy("format")
    torch.save({"format": 99, "state": {}}, state)
    code, said = run(folder)
    yield "a checkpoint of an unknown format", refused(said, code, "has format 99")

    for name, write in {"pickle": pickle.dumps, "torch": None}.items():
        folder, state = copy(f"malice-{name}")
        harm, content = place / f"harm-{name}", {"format": 1, "state": Malice(place / f"harm-{name}")}
        if write:
            state.write_bytes(write(content))
            state.with_name("state.prev.pt").write_bytes(write(content))
        else:
            torch.save(content, state)
        code, said = run(folder)
        wrong = "its code was run" if harm.exists() else "" if "Traceback" not in said and code else f"{code}: {said}"
        yield f"a checkpoint that runs code when it is unpickled, written by {name}", wrong


def clock(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """The clock is a year behind when the run goes on."""
    if not shutil.which("faketime"):
        raise Skipped("needs faketime")
    folder, _ = half_way(place, "clock")
    how = {"before": ("faketime", "-f", "-365d"), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    yield "a clock set back by a year", goes_on(folder, calm, **how)


def same_second(place: Path, calm: Path) -> Iterator[tuple[str, str]]:
    """20 runs that are started together, each where it goes by default."""
    words = ["algo=random", "debug=smoke", "steps=20", "eval.every=0", "video.final=0", "name=crowd"]
    home = place / "crowd"
    home.mkdir()
    command = [sys.executable, str(TRAIN), *words]
    quiet = subprocess.DEVNULL
    crowd = [subprocess.Popen(command, cwd=home, stdout=quiet, stderr=quiet) for _ in range(20)]
    codes = [process.wait(timeout=600) for process in crowd]
    folders = [path.parent for path in home.rglob("status.json")]
    done = sum(RunFolder(folder).status()["state"] == "done" for folder in folders)
    fine = not any(codes) and len(folders) == done == 20
    yield "20 runs started in the same second, in 20 folders", "" if fine else f"{len(folders)} folders, {done} done"


FAULTS: dict[str, Callable[[Path, Path], Iterator[tuple[str, str]]]] = {
    "signals": signalled,
    "two": two_at_once,
    "damage": damaged,
    "disk": full_disk,
    "read_only": read_only,
    "clock": clock,
    "crowd": same_second,
}


def kept_rows(out: Path | None, only: str | None) -> list[dict[str, str]]:
    """What the file says of the other groups, where one alone is tried again."""
    if out is None or only is None or not out.exists():
        return []
    with out.open() as file:
        return [row for row in csv.DictReader(file) if row["group"] != only]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=50)
    p.add_argument("--only", choices=["kills", *FAULTS], help="one group of faults")
    p.add_argument("--out", type=Path, help="a CSV file")
    args = p.parse_args()
    rows, began = kept_rows(args.out, args.only), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        calm = place / "calm"
        assert run(calm)[0] == 0
        groups = {"kills": lambda a, b: killed(a, b, args.kills)} | FAULTS
        for group, bring_about in groups.items():
            if args.only in (None, group):
                (place / group).mkdir()
                try:
                    for fault, wrong in bring_about(place / group, calm):
                        result = wrong.replace("\n", " ") or "as it should be"
                        rows.append({"group": group, "fault": fault, "result": result})
                        print(f"{time.monotonic() - began:6.0f} s  {fault}: {result}", flush=True)
                except Skipped as why:
                    print(f"{group}: skipped, {why}", flush=True)
    if args.out:
        with args.out.open("w") as file:
            writer = csv.DictWriter(file, ["group", "fault", "result"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return int(any(row["result"] != "as it should be" for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
