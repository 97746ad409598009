"""Data: python scripts/data.py export outputs/mine --out outputs/mine_data writes what is in a run's replay."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("data")(sys.argv[1:]))
