"""Train: python scripts/train.py algo=mpc env=cartpole (see conf/ for every setting, README.md for how)."""

import hydra
from omegaconf import DictConfig

from mbrl_lab import app


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def train(cfg: DictConfig) -> None:
    app.train(cfg)


if __name__ == "__main__":
    app.main(train)
