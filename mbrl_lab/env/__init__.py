"""Environments: gymnasium's vector environments, spoken to in Steps, with episodes that are functions of their seed."""

from mbrl_lab.env.envs import Envs, Episode, episode_seed
from mbrl_lab.env.gym import make_gym

__all__ = ["Envs", "Episode", "episode_seed", "make_gym"]
