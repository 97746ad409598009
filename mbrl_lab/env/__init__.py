"""Environments: gymnasium's vector environments that return Steps, with episodes that are functions of their seed."""

from mbrl_lab.env.atari import AtariVector, make_atari
from mbrl_lab.env.envs import Envs, Episode, episode_seed
from mbrl_lab.env.gym import make_gym, make_gym_with
from mbrl_lab.env.minatar import MinAtar, MinAtarVector

__all__ = [
    "AtariVector",
    "Envs",
    "Episode",
    "MinAtar",
    "MinAtarVector",
    "episode_seed",
    "make_atari",
    "make_gym",
    "make_gym_with",
]
