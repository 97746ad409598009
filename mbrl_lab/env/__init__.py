"""Environments: gymnasium's vector environments, spoken to in Steps, with episodes that are functions of their seed."""

from mbrl_lab.env.envs import Envs, Episode, episode_seed
from mbrl_lab.env.gym import make_gym
from mbrl_lab.env.minatar import MinAtar, MinAtarVector

__all__ = ["Envs", "Episode", "MinAtar", "MinAtarVector", "episode_seed", "make_gym"]
