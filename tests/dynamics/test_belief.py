"""Beliefs: what a model with a memory infers from real steps, and that MBPO acts, learns and imagines with it."""

from __future__ import annotations

from typing import Any

import torch
from test_rssm import rssm
from torch import Tensor

from mbrl_lab.algo import MBPO
from mbrl_lab.algo.learner import Updates
from mbrl_lab.algo.mbpo import Rollouts, Uncertainty
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step, Tree

SPEC = EnvSpec((1,), torch.float32, 1, discrete=False)


class Sum(WorldModel):
    """Its belief is the sum of all observations of the episode; a policy sees it, and a 7 beside it."""

    recurrent, context_length = True, 4

    def __init__(self, spec: EnvSpec = SPEC) -> None:
        super().__init__(spec, spec.of_features(2))
        self.starts: list[Tree] = []

    def observe(self, state: Tree | None, step: Step) -> Tree:
        before = torch.zeros_like(step.obs) if state is None else state["sum"]
        return {"sum": torch.where(step.first[:, None], 0.0, before) + step.obs}

    def features(self, state: Tree) -> Tensor:
        return torch.cat([state["sum"], torch.full_like(state["sum"], 7.0)], -1)

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        self.starts.append(state["sum"])
        ones = torch.ones(len(action))
        return {"sum": state["sum"] + 1000}, Outcome(ones, ones)

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        return FitResult({})

    def start_states(self, replay: Replay, count: int) -> Tree:
        return {"sum": torch.full((count, 1), 50.0)}


class Echo(Policy):
    """Acts by the first feature; remembers what it learned from."""

    window = 2

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec, self.seen = spec, []  # type: ignore[var-annotated]

    def act(self, features: Tensor, explore: bool) -> Tensor:
        return features[:, :1]

    def update(self, steps: Step) -> Metrics:
        self.seen.append(steps)
        return {}


def row(now: int) -> Step:
    """Observations of 1; every tenth step begins an episode."""
    no = torch.zeros(1, dtype=torch.bool)
    return Step(torch.zeros(1, 1), torch.ones(1, 1), torch.zeros(1), no, no | (now % 10 == 0))


def replay_of(steps: int) -> Replay:
    replay = Replay(SPEC, 1000, 1, seed=0)
    for now in range(steps):
        replay.add(row(now))
    return replay


def test_features_of_real_steps_know_of_the_steps_before() -> None:
    model, replay = Sum(), replay_of(100)
    steps = model.sample_features(replay, 500, 2, 1)
    assert steps.obs.shape == (2, 500, 2) and (steps.obs[..., 1] == 7).all()
    earlier, later = steps.obs[..., 0]
    goes_on = ~steps.first[1]
    assert torch.equal(later[goes_on], earlier[goes_on] + 1) and (later[~goes_on] == 1).all()
    assert set(earlier.int().tolist()) == {1, 2, 3}, "from the context, or from the episode's beginning"


def mbpo() -> Any:
    algo = MBPO(
        SPEC, Sum, Echo, warmup=6, every=5, real_ratio=0.5, update=Updates(40, 1, 1),
        reward_clip=0.0, rollouts=Rollouts(8, [2, 2, 0, 1], 10, 1, False), uncertainty=Uncertainty(0.0, 0.0),
    )  # fmt: skip
    algo.allocate_memory()
    return algo


def test_mbpo_acts_on_a_belief_that_the_caller_carries() -> None:
    algo, carry, acted = mbpo(), None, []
    for now in range(13):
        action, carry = algo.act(row(now), carry, explore=False)
        acted.append(float(action))
    assert acted == [*range(1, 11), 1, 2, 3]


def test_mbpo_imagines_from_start_states_and_learns_from_features() -> None:
    algo, replay, carry = mbpo(), Replay(SPEC, 1000, 1, seed=0), None
    replay.add(row(0))
    for now in range(1, 9):
        _, carry = algo.act(row(now - 1), carry, explore=True)
        replay.add(row(now))
        algo.learn(replay, now - 1, now)
    assert [x.unique().tolist() for x in algo.model.starts] == [[50.0], [1050.0]]
    steps = algo.policy.seen[-1]
    assert algo.policy.spec.obs_shape == (2,) and steps.obs.shape == (2, 40, 2)
    real, imagined = steps.obs[:, :20, 0], steps.obs[:, 20:, 0]
    assert real.max() <= 9 and set(imagined.flatten().tolist()) == {50.0, 1050.0, 2050.0}


def test_start_states_of_an_rssm_are_posteriors_of_windows_and_no_terminations() -> None:
    model = rssm(EnvSpec((1,), torch.float32, 1, discrete=False))
    replay = Replay(model.spec, 1000, 1, seed=0)
    for now in range(200):
        terminal = torch.tensor([now % 10 == 9])
        replay.add(row(now)._replace(obs=torch.tensor([[100.0 if now % 10 == 9 else 1.0]]), terminal=terminal))
    inferred: list[Tree] = []
    infer = model.infer
    model.infer = lambda steps: inferred.append((steps, infer(steps))) or inferred[-1][1]  # type: ignore
    states = model.start_states(replay, 300)
    steps, all_states = inferred[0]
    half = model.length // 2
    alive = ~steps.terminal[half:]
    allowed = {tuple(x.tolist()) for x in all_states["deter"][half:][alive]}
    ended = {tuple(x.tolist()) for x in all_states["deter"][half:][~alive]}
    drawn = {tuple(x.tolist()) for x in states["deter"]}
    assert len(states["deter"]) == 300 and drawn <= allowed and not drawn & ended and ended
    assert states["deter"].abs().sum(-1).min() > 0
