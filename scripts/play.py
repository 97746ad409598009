"""Play in a learned model by keyboard: python scripts/play.py outputs/demo serves a page on this machine."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("play")(sys.argv[1:]))
