"""Algorithms: what chooses the actions, and when each part learns."""

from mbrl_lab.algo.dreamer import Dreamer
from mbrl_lab.algo.learner import OffPolicy
from mbrl_lab.algo.mbpo import MBPO
from mbrl_lab.algo.mpc import MPC
from mbrl_lab.algo.on_policy import OnPolicy
from mbrl_lab.algo.random import Random
from mbrl_lab.algo.tdmpc import TDMPC
from mbrl_lab.algo.value import Value

__all__ = ["MBPO", "MPC", "TDMPC", "Dreamer", "OffPolicy", "OnPolicy", "Random", "Value"]
