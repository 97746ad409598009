"""Report: python scripts/report.py outputs/compare/pendulum writes one HTML file that opens offline."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("report")(sys.argv[1:]))
