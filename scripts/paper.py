"""Paper: python scripts/paper.py outputs/compare/pendulum --out outputs/paper writes a draft as Markdown and LaTeX."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("paper")(sys.argv[1:]))
