"""Evaluate: python scripts/evaluate.py RUN plays whole episodes with a run's weights (--help says what else)."""

import sys

from mbrl_lab.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
