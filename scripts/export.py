"""Export: python scripts/export.py outputs/mine writes the policy as files that do not need this package."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("export")(sys.argv[1:]))
