"""Policies: learners of behaviour."""

from mbrl_lab.policy.actor_critic import ActorCritic
from mbrl_lab.policy.crossq import CrossQ
from mbrl_lab.policy.ddqn import DDQN
from mbrl_lab.policy.ppo import PPO
from mbrl_lab.policy.sac import SAC
from mbrl_lab.policy.svg import SVG

__all__ = ["DDQN", "PPO", "SAC", "SVG", "ActorCritic", "CrossQ"]
