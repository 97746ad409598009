"""Tune: python scripts/tune.py mpc_cartpole --trials 20 searches settings (conf/tune); many may share a study."""

import sys
from pathlib import Path

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("tune")(sys.argv[1:], Path(__file__).resolve().with_name("train.py")))
