"""No bound of a test within the spread: tests that learn or compare numbers, with other seeds and instruction sets.

python benchmarks/bounds.py                                  # ten seeds, native, AVX2 and SSE4; an hour
python benchmarks/bounds.py --seeds 3 --only AVX2 -- tests/dynamics/test_latent.py -m "slow or not slow"
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter

from processors import AVX2, ROOT, SSE

SETS: dict[str, dict[str, str]] = {"native": {}, "AVX2": AVX2, "SSE4": SSE}
FOLDERS = [f"tests/{name}" for name in ("algo", "dynamics", "nets", "planner", "policy")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", nargs="*", default=FOLDERS, help="what pytest is to run, after --")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed; 0 is that of the suite")
    parser.add_argument("--only", choices=SETS, action="append")
    args = parser.parse_args()
    failed: Counter[str] = Counter()
    for seed in range(args.first, args.first + args.seeds):
        for name in args.only or SETS:
            environment = os.environ | SETS[name] | {"OMP_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "--seed-offset", str(seed), "-p"]
            command += ["no:cacheprovider", *args.tests]
            said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True).stdout
            names = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, re.M)
            failed.update(names)
            print(
                f"seed {seed}, {name}: {(said.splitlines() or ['nothing was said'])[-1]}",
                *names,
                sep="\n    ",
                flush=True,
            )
    print(
        f"{len(failed)} tests failed at least once", *(f"{n} times {name}" for name, n in failed.items()), sep="\n    "
    )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
