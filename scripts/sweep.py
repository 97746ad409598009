"""Sweep: python scripts/sweep.py status|retry|collect SWEEP looks at runs, starts some again, gathers results."""

import sys
from pathlib import Path

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("sweep")(sys.argv[1:], Path(__file__).resolve().with_name("train.py")))
