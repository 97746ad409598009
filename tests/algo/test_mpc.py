"""When MPC plans, when it fits, what it carries, and that it learns toys with a known answer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_lab import make_run
from mbrl_lab.algo import MPC, Value
from mbrl_lab.algo.learner import Updates
from mbrl_lab.protocols import PlanContext, Policy, WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Step, Tree

SPEC = EnvSpec((1,), torch.float32, 5, True)


class Model(WorldModel):
    """Remembers every observation since an episode began, summed; counts fits."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.fits: list[Any] = []

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        before = torch.zeros_like(step.obs[:, 0]) if state is None else state
        return torch.where(step.first, torch.zeros_like(before), before) + step.obs[:, 0]

    def fit(self, replay: Any, updates: int | None = None) -> FitResult:
        self.fits.append(replay)
        return FitResult({"model/train/loss": 1.0})


class Planner:
    proposals = 0
    """Always takes action 4; its plan counts the steps since it started."""

    on_candidates = None

    def __init__(self) -> None:
        self.seen: list[tuple[list[float], list[float]]] = []

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Tree:
        return {"mean": torch.zeros(batch, 3, 2), "predicted_return": torch.zeros(batch)}

    def plan(self, model: Any, state: Tensor, previous: Tree, context: PlanContext) -> tuple[Tensor, Tree]:
        self.seen.append((state.tolist(), previous["predicted_return"].tolist()))
        return torch.full((len(state),), 4), {
            "mean": previous["mean"],
            "predicted_return": previous["predicted_return"] + 1,
        }


def row(obs: list[float], first: list[bool]) -> Step:
    zero = torch.zeros(len(obs))
    return Step(zero.long(), torch.tensor(obs)[:, None], zero, zero.bool(), torch.tensor(first))


def mpc(warmup: int = 10, every: int = 4) -> tuple[MPC, Planner, list[Any]]:
    model, planner = Model(SPEC), Planner()
    return MPC(SPEC, lambda spec: model, planner, warmup=warmup, every=every), planner, model.fits


@pytest.mark.parametrize("num_envs", [1, 3])
def test_it_fits_at_the_end_of_warmup_and_every_so_often_after(num_envs: int) -> None:
    algo, _, fits = mpc(warmup=10, every=4)
    for before in range(0, 30, num_envs):
        replay: Any = before + num_envs
        metrics = algo.learn(replay, before, before + num_envs)
        assert ("model/train/loss" in metrics) == (before + num_envs in fits)
    assert fits == ([10, 14, 18, 22, 26, 30] if num_envs == 1 else [12, 15, 18, 24, 27, 30])


def test_it_acts_at_random_until_the_first_fit_and_plans_from_then_on() -> None:
    algo, planner, _ = mpc()
    drawn = [algo.act(row([0.0] * 50, [True] * 50), None, explore=True)[0] for _ in range(4)]
    assert set(torch.cat(drawn).tolist()) == {0, 1, 2, 3, 4} and not planner.seen
    algo.learn(None, 9, 10)  # type: ignore[arg-type]
    action, _ = algo.act(row([0.0] * 50, [True] * 50), None, explore=True)
    assert set(action.tolist()) == {4} and len(planner.seen) == 1


def test_being_ready_is_saved() -> None:
    algo, _, _ = mpc()
    algo.learn(None, 9, 10)  # type: ignore[arg-type]
    other, planner, _ = mpc()
    other.load_state_dict(algo.state_dict())
    other.act(row([0.0], [True]), None, explore=False)
    assert len(planner.seen) == 1


def test_beliefs_go_on_and_plans_begin_afresh_with_an_episode() -> None:
    algo, planner, _ = mpc()
    algo.learn(None, 9, 10)  # type: ignore[arg-type]
    carry = None
    for obs, first in (
        ([1, 10], [True, True]),
        ([2, 20], [False, False]),
        ([3, 30], [True, False]),
        ([4, 40], [False] * 2),
    ):
        _, carry = algo.act(row([float(x) for x in obs], first), carry, explore=True)
    states, plans = zip(*planner.seen, strict=True)
    assert states == ([1, 10], [3, 30], [3, 60], [7, 100])
    assert plans == ([0, 0], [1, 1], [0, 2], [1, 3])


def test_the_caller_owns_the_carry() -> None:
    algo, planner, _ = mpc()
    algo.learn(None, 9, 10)  # type: ignore[arg-type]
    _, carry = algo.act(row([1.0], [True]), None, explore=True)
    for _ in range(2):
        algo.act(row([5.0], [False]), carry, explore=False)
    assert planner.seen[1] == planner.seen[2] == ([6.0], [1.0])


POINT = ["env.make._target_=counting.Point", "~env.make.id", "debug=smoke", "video.final=0", "log_every=100"]
LEARN = [
    "planner.horizon=6",
    "dynamics.optim.lr=3e-3",
    "dynamics.trainer.patience=60",
    "dynamics.trainer.max_updates=150",
    "algo.every=50",
]
CEM = ["planner.population=64", "planner.elites=8", "planner.iterations=2"]


def final_return(algo: str, seed: int, folder: Path, *words: str, steps: int = 160) -> float:
    settings = {"steps": steps, "seed": seed, "eval.every": 0, "eval.final_episodes": 10}
    runner = make_run(algo, "pendulum", *POINT, *words, folder=folder, **settings)
    runner.run()
    runner.envs.close()
    return float(json.loads(runner.folder.metrics.read_text().splitlines()[-1])["final/return"])


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_it_brings_a_point_to_its_goal(seed: int, tmp_path: Path) -> None:
    """Going straight there costs about 1, acting at random about 8."""
    random = final_return("random", seed, tmp_path / "random")
    assert random < -4.5
    assert final_return("mpc", seed, tmp_path / "mpc", *LEARN, *CEM) > -2.2


@pytest.mark.parametrize(
    "words",
    [
        ["planner=icem", "planner.population=64", "planner.elites=8"],
        ["planner=mppi", "planner.population=128", "planner.temperature=0.1"],
        ["planner=random_shooting", "planner.population=256"],
    ],
    ids=["icem", "mppi", "random_shooting"],
)
def test_every_planner_brings_it_there(words: list[str], tmp_path: Path) -> None:
    assert final_return("mpc", 0, tmp_path, *LEARN, *words) > -3.5


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_particles_of_a_probabilistic_ensemble_bring_it_there(seed: int, tmp_path: Path) -> None:
    """At LEARN's rate a Gaussian model is not yet fitted: three of ten seeds came to -5."""
    words = [
        *CEM,
        "dynamics.regression.gaussian=true",
        "dynamics.imagination.propagation=ts1",
        "planner.particles=5",
        "dynamics.optim.lr=1e-2",
    ]
    assert final_return("mpc", seed, tmp_path, *LEARN, *words, "algo.warmup=200", steps=300) > -2.2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_cartpole(seed: int, tmp_path: Path) -> None:
    """Random actions keep the pole up for about 22 steps."""
    runner = make_run("mpc", "cartpole", "video.final=0", "eval.every=0", folder=tmp_path, steps=1500, seed=seed)
    runner.run()
    runner.envs.close()
    returns = [e.ret for e in runner.evaluate(5)]
    assert sum(returns) / 5 > 150


class Critic(Policy):
    """Says what it saw; counts its updates."""

    window = 2
    estimates_value = True

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.updates: list[tuple[int, float]] = []

    def value(self, features: Tensor) -> Tensor:
        return 7 * features

    def update(self, steps: Step) -> Metrics:
        self.updates.append((steps.reward.shape[1], float(steps.reward.max())))
        return {"policy/loss": 0.0}


class Shown(Model):
    def features(self, state: Tree) -> Tensor:
        return state


def test_with_a_value_planners_see_what_comes_after_and_it_learns_after_the_warm_up() -> None:
    seen: list[Any] = []

    class Asking(Planner):
        def plan(self, model: Any, state: Tensor, previous: Tree, context: PlanContext) -> tuple[Tensor, Tree]:
            assert context.value is not None
            seen.append((context.value(state).tolist(), context.policy, context.explore, context.steps))
            return super().plan(model, state, previous, context)

    value = partial(Value, policy=Critic, update=Updates(5, 2, 3), reward_clip=1.0)  # type: ignore[arg-type]
    algo = MPC(SPEC, Shown, Asking(), warmup=4, every=4, value=value)
    replay = Replay(SPEC, 100, 1, 0)
    for step in range(10):
        replay.add(row([float(step)], [step == 0])._replace(reward=torch.full((1,), 3.0)))
        if step:
            algo.learn(replay, step - 1, step)
    assert algo.value is not None
    critic: Any = algo.value.policy
    assert critic.updates == [(5, 1.0)] * 4, "at steps 6 and 9"
    algo.act(row([2.0], [True]), None, explore=True)
    assert seen == [([14.0], critic, True, 9)]


def test_a_value_needs_a_policy_that_has_one() -> None:
    with pytest.raises(
        ValueError, match=r"value\.policy is Policy, which estimates no values: try value=ddqn, or value=sac"
    ):
        Value(SPEC, lambda spec: Policy(), Updates(1, 1, 1), 0.0)
