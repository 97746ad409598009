"""What a sweep with launcher=parallel costs beside its runs: 12 of them on two cores against one alone.

python benchmarks/sweep.py --runs 12 --workers 2       (on a shared machine processor seconds say more than the clock)
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
WORDS = ["algo=mpc", "env=cartpole", "eval.every=0", "eval.final_episodes=2", "video.final=0"]


def timed(words: list[str], cwd: str) -> tuple[float, float]:
    """Wall and processor seconds of a command and its children."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, str(TRAIN), *WORDS, *words], cwd=cwd, check=True, capture_output=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, cpu


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=12)
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--workers", type=int, default=2)
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as place:
        print(f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        alone, cpu = timed([f"steps={args.steps}", "seed=0"], place)
        print(f"one run alone   {alone:7.1f} s  {cpu:7.1f} s of a processor", flush=True)
        seeds = ",".join(map(str, range(args.runs)))
        launcher = ["launcher=parallel", f"launcher.workers={args.workers}"]
        wall, all_cpu = timed([f"steps={args.steps}", f"seed={seeds}", *launcher], place)
        print(f"{args.runs} runs         {wall:7.1f} s  {all_cpu:7.1f} s of a processor")
        ratio = wall / (args.runs / args.workers * alone)
        print(
            f"clock: {ratio:.2f} of {args.runs} / {args.workers} times one; processor: {all_cpu / args.runs / cpu:.2f}"
        )


if __name__ == "__main__":
    main()
