"""Publish: python scripts/publish.py outputs/mine --repo USER/NAME puts the agent on the Hugging Face Hub."""

import sys

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    raise SystemExit(load("publish")(sys.argv[1:]))
