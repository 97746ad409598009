"""Planning where the model is the truth: whatever fails here is the planner's own fault."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrl_lab.dynamics.analytic import Analytic
from mbrl_lab.env import physics
from mbrl_lab.planner import CEM, ICEM, MPPI, RandomShooting
from mbrl_lab.planner.search import Search
from mbrl_lab.protocols import PlanContext
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

CARTPOLE = Analytic(
    EnvSpec((4,), torch.float32, 2, discrete=True),
    physics.cartpole_next_obs,
    physics.cartpole_reward,
    physics.cartpole_termination,
)
PENDULUM = Analytic(
    EnvSpec((3,), torch.float32, 1, discrete=False),
    physics.pendulum_next_obs,
    physics.pendulum_reward,
    physics.pendulum_termination,
)


def returns(planner: Search, model: Analytic, obs: Tensor, steps: int) -> Tensor:
    """[B] returns of one episode from each observation [B, D]."""
    plan = planner.start(model.spec, len(obs), "cpu")
    total, alive = torch.zeros(len(obs)), torch.ones(len(obs))
    for _ in range(steps):
        action, plan = planner.plan(model, obs, plan, PlanContext())
        obs, outcome = model.imagine(obs, action)
        total, alive = total + alive * outcome.reward, alive * outcome.cont
    return total


def small(planner: str) -> Search:
    common = {"particles": 1, "discount": 1.0}
    if planner == "mppi":
        return MPPI(horizon=15, population=600, elites=None, iterations=1, temperature=1.0, **common)
    if planner == "cem":
        return CEM(horizon=15, population=150, elites=20, iterations=3, **common)
    assert planner == "icem", planner
    return ICEM(horizon=15, population=150, elites=20, iterations=2, noise_beta=2.0, **common)


def test_a_vote_holds_the_cartpole_for_500_steps_where_the_best_of_many_ties_drops_it() -> None:
    obs = torch.rand(4, 4) * 0.1 - 0.05
    vote = RandomShooting(horizon=15, population=500, particles=1, discount=1.0, vote=1.0)
    assert returns(vote, CARTPOLE, obs, 500).tolist() == [500.0] * 4
    argmax = RandomShooting(horizon=15, population=100, particles=1, discount=1.0, vote=None)
    assert returns(argmax, CARTPOLE, obs, 500).mean() < 400


def test_mppi_holds_the_cartpole_for_500_steps() -> None:
    score = returns(small("mppi"), CARTPOLE, torch.rand(4, 4) * 0.1 - 0.05, 500)
    assert score.mean() > 450 and (score == 500).sum() >= 2, "one of four may fall with some seeds"


@pytest.mark.parametrize("name", ["cem", *(pytest.param(name, marks=pytest.mark.slow) for name in ("icem", "mppi"))])
def test_pendulums_swing_up_and_stay(name: str) -> None:
    angle, velocity = torch.linspace(-3.1, 3.1, 8), torch.linspace(1, -1, 8)
    score = returns(small(name), PENDULUM, torch.stack([angle.cos(), angle.sin(), velocity], -1), 200)
    assert score.mean() > -240 and score.min() > -400


def test_there_is_nothing_to_learn() -> None:
    spec, no = CARTPOLE.spec, torch.zeros(1, dtype=torch.bool)
    replay = Replay(spec, 100, 1, seed=0)
    for now in range(6):
        replay.add(Step(torch.zeros(1).long(), torch.full((1, 4), float(now)), torch.zeros(1), no, no | (now == 0)))
    assert CARTPOLE.fit(replay).metrics == {}
    states = CARTPOLE.start_states(replay, 50)
    assert set(states[:, 0].tolist()) == {0, 1, 2, 3, 4}, "those that something follows"
    assert CARTPOLE.features(states).equal(states)
