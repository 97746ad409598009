"""Algorithms: who acts and when to learn."""

from mbrl_lab.algo.mpc import MPC
from mbrl_lab.algo.random import Random

__all__ = ["MPC", "Random"]
