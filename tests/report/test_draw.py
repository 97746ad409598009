"""A whole run's pictures: what is written, numbers of the true dynamics, and that training goes on unmoved."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mbrl_lab import make_run
from mbrl_lab.algo import MPC
from mbrl_lab.dynamics import Analytic, Ensemble
from mbrl_lab.env import physics
from mbrl_lab.planner import CEM
from mbrl_lab.report import draw
from mbrl_lab.report.diagnosis import diagnose, numbers
from mbrl_lab.runner import Runner

TINY = {"planner.horizon": 4, "planner.population": 24, "planner.iterations": 1, "planner.elites": 4}

MakeRunner = Callable[..., Runner]


@pytest.fixture
def make(tmp_path: Path) -> MakeRunner:
    """A run that has not begun, its planner small and its model taken as fitted."""

    def make(algo: str = "mpc", env: str = "cartpole", *overrides: str, **settings: Any) -> Runner:
        runner = make_run(algo, env, *overrides, folder=tmp_path / "run", **settings)
        if isinstance(runner.algo, MPC):
            runner.algo.ready.fill_(True)
        return runner

    return make


@pytest.mark.parametrize("env", ["cartpole", "pendulum"])
def test_a_run_that_plans_has_every_picture(make: MakeRunner, env: str) -> None:
    runner = make("mpc", env, "planner=cem", **TINY)
    runner.folder.metrics.write_text('{"step": 5, "model/train/loss": 0.1}\n')
    paths = draw(runner)
    assert [p.name for p in paths] == [
        "curves.png",
        "predicted.png",
        "scatter.png",
        "errors.png",
        "calibration.png",
        "planned.png",
        "dimensions.csv",
        "horizon.csv",
        "model.json",
    ]
    assert all(p.parent == runner.folder.diagnostics and p.stat().st_size > 0 for p in paths)
    values = json.loads(paths[-1].read_text())
    assert all(v is None or isinstance(v, float) for v in values.values())
    assert values["model/openloop/obs/error_1"] > 0.1


def test_nothing_is_drawn_of_a_model_that_was_never_fitted(make: MakeRunner) -> None:
    runner = make()
    assert isinstance(runner.algo, MPC)
    runner.algo.ready.fill_(False)
    assert draw(runner) == []


def test_nothing_is_drawn_without_a_model(make: MakeRunner) -> None:
    assert draw(make("random")) == []


def test_the_true_dynamics_make_no_error_and_predict_the_achieved_return(make: MakeRunner) -> None:
    runner = make()
    truth = partial(
        Analytic,
        next_obs=physics.cartpole_next_obs,
        reward_fn=physics.cartpole_reward,
        termination_fn=physics.cartpole_termination,
    )
    planner = CEM(4, 24, 4, 1, 1, discount=1.0)
    algo = MPC(runner.envs.spec, truth, planner, warmup=1, every=1)
    algo.ready.fill_(True)
    seen = diagnose(runner, algo, num=2, steps=60)
    values = numbers(seen)
    assert values["model/holdout/obs/rmse"] < 1e-3 and values["model/holdout/std"] < 1e-3 and not seen.held_out
    assert seen.seconds > 0 and seen.validation.quantile.isnan().all(), "true equations have no uncertainty"
    assert values["model/openloop/obs/error_1"] < 1e-3 and values["model/openloop/obs/error_10"] < 1e-2
    assert values["model/openloop/reward/rmse"] == 0
    assert (values["model/openloop/termination/at_terminations"], values["model/openloop/termination/elsewhere"]) == (
        1,
        0,
    )
    assert values["planner/predicted"] == pytest.approx(values["planner/achieved"], abs=0.1)


def test_the_runner_does_not_notice(make: MakeRunner) -> None:
    runner = make("mpc", "cartpole", "planner=cem", **TINY)
    assert isinstance(runner.algo, MPC)
    runner.reset()
    before = torch.get_rng_state(), runner.envs.state_dict(), [p.clone() for p in runner.algo.parameters()]
    first = numbers(diagnose(runner, runner.algo, steps=20))
    assert torch.equal(before[0], torch.get_rng_state())
    assert str(before[1]) == str(runner.envs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(before[2], runner.algo.parameters(), strict=True))
    assert runner.carry is None and runner.replay.added == 1 and runner.metrics.sums == {}
    torch.rand(1)
    again = numbers(diagnose(runner, runner.algo, steps=20))
    assert str(first) == str(again)


def test_a_model_is_validated_on_its_hold_out(make: MakeRunner) -> None:
    """Transitions in replay whose numbers put them there, and none of them in what is fitted on."""
    runner = make("mpc", "cartpole", "planner=cem", **TINY)
    assert isinstance(runner.algo, MPC) and isinstance(runner.algo.model, Ensemble)
    runner.replay.add(runner.envs.reset())
    for _ in range(100):
        runner.replay.add(runner.envs.step(runner.envs.spec.sample(1)))
    seen = diagnose(runner, runner.algo, steps=20)
    train, test = runner.algo.model.trainer.split(runner.replay.transitions())
    assert seen.held_out and len(seen.validation.true) == len(test) > 0
    assert not set(train.tolist()) & set(test.tolist())
    assert len(train) + len(test) == len(runner.replay.transitions())


@pytest.mark.parametrize(("scale", "checkpoint"), [(1e30, "last"), (float("nan"), "best")])
def test_a_model_that_explodes_can_be_drawn_and_another_checkpoints_pictures_lie_beside(
    make: MakeRunner, scale: float, checkpoint: str
) -> None:
    runner = make("mpc", "cartpole", "planner=cem", **TINY)
    assert isinstance(runner.algo, MPC) and isinstance(runner.algo.model, Ensemble)
    runner.algo.model.targets.scale.fill_(scale)
    paths = draw(runner, checkpoint)
    values = json.loads(paths[-1].read_text())
    assert values["model/openloop/obs/error_10"] is None
    folder = runner.folder.diagnostics
    assert {p.parent for p in paths} == {folder / "best" if checkpoint == "best" else folder}
    assert bool(list(folder.glob("*.png"))) == (checkpoint == "last")
