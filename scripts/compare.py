"""Compare: python scripts/compare.py --env pendulum --seeds 3 trains and draws; with folders of runs it only draws."""

import sys

from mbrl_lab.cli.compare import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
