"""How long a save and a resume of a large Atari replay take, and what a later save writes.

python benchmarks/replay_resume.py --frames 1_000_000      (7 GB of memory, and as much disk under --place)
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from mbrl_lab.replay import Replay
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((4, 84, 84), torch.uint8, 4, discrete=True, stack=4)
ENVS = 8


def fill(replay: Replay, rows: int) -> None:
    """So many rows of noise, which no file system makes smaller."""
    noise = torch.randint(0, 256, (64, ENVS, 4, 84, 84), dtype=torch.uint8)
    zero = torch.zeros(ENVS)
    for k in range(rows):
        replay.add(Step(zero.long(), noise[k % 64], zero, zero.bool(), torch.full((ENVS,), k == 0)))


def size(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir())


def save(place: Path, frames: int, more: int) -> None:
    """Fill a replay, save it, add some and save again."""
    replay, checkpoint = Replay(SPEC, frames, ENVS, 0), Checkpoint(place)
    fill(replay, frames // ENVS)
    began = time.monotonic()
    checkpoint.save({"replay": replay.state_dict()}, replay)
    print(f"first save   {time.monotonic() - began:6.1f} s  {size(place) / 1e9:.2f} GB", flush=True)
    fill(replay, more // ENVS)
    before = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    began = time.monotonic()
    checkpoint.save({"replay": replay.state_dict()}, replay)
    seconds = time.monotonic() - began
    written = sum(p.stat().st_size for p in place.iterdir() if before.get(p) != p.stat().st_mtime_ns)
    print(f"second save  {seconds:6.1f} s  {written / 1e9:.2f} GB, after {more:,} new frames", flush=True)


def load(place: Path, frames: int) -> None:
    """As a resumed run does."""
    began, cpu = time.monotonic(), time.process_time()
    loaded = Checkpoint(place).load()
    assert loaded is not None
    checked = time.monotonic()
    replay = Replay(SPEC, frames, ENVS, 0)
    replay.load_state_dict(loaded.state["replay"])
    for start, rows in loaded.steps:
        replay.restore(start, rows)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"resume       {seconds:6.1f} s  of which checksums {checked - began:.1f} s, {cpu:.1f} s of a processor")


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frames", type=int, default=1_000_000)
    p.add_argument("--more", type=int, default=10_000)
    p.add_argument("--place", type=Path, default=Path("outputs/replay_resume"))
    p.add_argument("--phase", choices=["save", "load"], help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.phase == "save":
        save(args.place, args.frames, args.more)
    elif args.phase == "load":
        load(args.place, args.frames)
    else:  # each in a process of its own, so that one replay is in memory at a time
        try:
            for phase in ("save", "load"):
                subprocess.run([sys.executable, __file__, *sys.argv[1:], "--phase", phase], check=True)
        finally:
            shutil.rmtree(args.place, ignore_errors=True)


if __name__ == "__main__":
    main()
