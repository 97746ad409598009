"""Evaluate: python scripts/evaluate.py RUN plays whole episodes with a run's weights (--help says what else)."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("evaluate")(sys.argv[1:]))
