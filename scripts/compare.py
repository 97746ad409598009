"""Compare: python scripts/compare.py --env pendulum --seeds 3 trains and draws; with folders of runs it only draws."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("compare")(sys.argv[1:]))
