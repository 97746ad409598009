"""The quick tests as on other processors: instruction sets, threads and Pythons, a line and a CSV row for each.

    python benchmarks/processors.py                              # all of ENVIRONMENTS with this Python
    python benchmarks/processors.py AVX2 --python .venv313/bin/python --python .venv/bin/python

A processor can only do less than it can: a set of instructions that it lacks is asked for in vain.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "results" / "processors.csv"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SSE = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
ENVIRONMENTS: dict[str, tuple[dict[str, str], int]] = {
    "native": ({}, 1),
    "AVX2": (AVX2, 1),
    "SSE4": (SSE, 1),
    "AVX2, 2 threads": (AVX2, 2),
}
"""Which instructions torch, oneDNN and MKL may use, and with how many threads."""
COLUMNS = ("environment", "python", "torch", "passed", "failed", "skipped", "processor_seconds", "processor")
ASK = """
import json, platform, torch
from mbrl_lab.tracking.provenance import cpu_model
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "processor": cpu_model()}))
"""


def tested(name: str, python: str, more: list[str]) -> tuple[dict[str, str], list[str]]:
    """A row of the table, and the names of the tests that failed."""
    caps, threads = ENVIRONMENTS[name]
    environment = os.environ | caps | {"TEST_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    asked = subprocess.run([python, "-c", ASK], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    before = spent()
    # Two cores: workers of two threads each would wait for one another.
    workers = str(2 // threads)
    command = [python, "-m", "pytest", "-n", workers, "--dist", "worksteal", "-q", "-p", "no:cacheprovider", *more]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
    counts = dict.fromkeys(("passed", "failed", "skipped"), "0")
    last = said.splitlines()[-1] if said else "nothing was said"
    for number, kind in re.findall(r"(\d+) (passed|failed|skipped|error)", last):
        kind = "failed" if kind == "error" else kind
        counts[kind] = str(int(counts[kind]) + int(number))
    if not any(map(int, counts.values())):
        raise SystemExit(f"error: no test ran with {python}: {last}")
    row = {"environment": name, **json.loads(asked.stdout), **counts, "processor_seconds": f"{spent() - before:.0f}"}
    return row, re.findall(r"^(?:FAILED|ERROR) (.*)$", said, re.M)


def spent() -> float:
    """Seconds of a processor that child processes took, those of the system too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write(rows: list[dict[str, str]]) -> None:
    """Rows in the CSV, in the place of older ones of the same environment, Python and processor."""
    key = ("environment", "python", "processor")
    old = list(csv.DictReader(OUT.open())) if OUT.exists() else []
    new = {tuple(row[k] for k in key) for row in rows}
    kept = [row for row in old if tuple(row[k] for k in key) not in new]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="*", help=f"of {', '.join(ENVIRONMENTS)}; none: all")
    parser.add_argument("--python", action="append", help="an interpreter with the packages; may be given repeatedly")
    parser.add_argument("--tests", nargs="+", default=[], help="files or other arguments for pytest")
    args = parser.parse_args()
    unknown = sorted(set(args.environments) - set(ENVIRONMENTS))
    if unknown:
        parser.error(f"{unknown[0]!r} is not an environment; it can be {', '.join(ENVIRONMENTS)}")
    failed = 0
    print("{:16} {:8} {:14} {:>6} {:>6} {:>7} {:>9}".format(*COLUMNS[:6], "seconds"))
    for python in args.python or [sys.executable]:
        for name in args.environments or ENVIRONMENTS:
            row, names = tested(name, python, args.tests)
            print("{:16} {:8} {:14} {:>6} {:>6} {:>7} {:>9}".format(*(row[k] for k in COLUMNS[:7])), flush=True)
            print("".join(f"    {name}\n" for name in names), end="")
            failed += int(row["failed"])
            if not args.tests:
                write([row])
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
