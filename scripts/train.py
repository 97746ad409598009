"""Train: python scripts/train.py algo=mpc env=cartpole (see conf/ for every setting, README.md for how)."""

from mbrl_lab.cli.__main__ import load

if __name__ == "__main__":
    load("train")()
