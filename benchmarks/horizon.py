"""How far ahead MPPI must look on CartPole's true equations: share alive after 200 steps, by horizon and population.

Starts: calm, as the environment's own, and gliding outwards, |x| up to 1.9 at up to 0.9 m/s.

    python benchmarks/horizon.py --horizons 15 40 --populations 256 1000
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from mbrl_lab.dynamics import Analytic
from mbrl_lab.env.physics import cartpole_next_obs, cartpole_reward, cartpole_termination
from mbrl_lab.planner import MPPI
from mbrl_lab.protocols import PlanContext
from mbrl_lab.types import EnvSpec

SPEC = EnvSpec((4,), torch.float32, 2, discrete=True)
MODEL = Analytic(SPEC, cartpole_next_obs, cartpole_reward, cartpole_termination)


def calm(count: int) -> Tensor:
    """[count, 4] starts as CartPole-v1 draws them."""
    return torch.empty(count, 4).uniform_(-0.05, 0.05)


def gliding(count: int) -> Tensor:
    """[count, 4] starts that move towards the nearer edge."""
    start = calm(count)
    start[:, 0] = torch.empty(count).uniform_(-1.9, 1.9)
    start[:, 1] = start[:, 0].sign() * 0.9 * torch.rand(count)
    return start


def survival(planner: MPPI, obs: Tensor, steps: int) -> float:
    """The share of starts [B, 4] from which the planner lasts `steps`."""
    plan = planner.start(SPEC, len(obs), "cpu")
    alive = torch.ones(len(obs), dtype=torch.bool)
    for _ in range(steps):
        action, plan = planner.plan(MODEL, obs, plan, PlanContext())
        after = cartpole_next_obs(obs, action)
        alive &= ~cartpole_termination(obs, action, after)
        obs = after.where(alive.unsqueeze(-1), 0.0)
    return alive.float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--horizons", type=int, nargs="+", default=[15, 25, 40])
    parser.add_argument("--populations", type=int, nargs="+", default=[256])
    parser.add_argument("--starts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("horizon  population   calm  gliding  ms a plan")
    for horizon in given.horizons:
        for population in given.populations:
            planner = MPPI(horizon, population, None, 1, 1, 1.0, 1.0)
            torch.manual_seed(0)
            began = time.perf_counter()
            shares = [survival(planner, starts(given.starts), given.steps) for starts in (calm, gliding)]
            cost = (time.perf_counter() - began) / (2 * given.starts * given.steps) * 1e3
            print(f"{horizon:7}  {population:10}  {shares[0]:5.2f}  {shares[1]:7.2f}  {cost:9.2f}", flush=True)


if __name__ == "__main__":
    main()
