"""When Dreamer learns what, where its rollouts begin, and that it brings a point to its goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_mpc import final_return
from torch import Tensor

from mbrl_lab import make_run
from mbrl_lab.algo import Dreamer
from mbrl_lab.algo.learner import Updates
from mbrl_lab.config import ConfigError, check, compose_config
from mbrl_lab.dynamics import SequenceTrainer
from mbrl_lab.dynamics.optim import AnnealedOptim
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.protocols import Policy
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

SPEC = EnvSpec((2,), torch.float32, 1, discrete=False)


class Model(SequenceModel):
    """Notes what it learns from; its state is the observation, doubled."""

    def __init__(self, spec: EnvSpec, trainer: SequenceTrainer) -> None:
        super().__init__(spec, 2, 3, AnnealedOptim(lr=1e-3, clip=0.0, anneal_updates=0), trainer)
        self.weight = torch.nn.Parameter(torch.zeros(()))  # a model has some, and so a device
        self.tape: list[str] = []
        self.steps: list[Step] = []
        self.carried: list[Tree | None] = []

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        self.carried.append(state)
        return 2 * step.obs

    def features(self, state: Tree) -> Tensor:
        return state

    def update(self, steps: Step, start: Tree | None = None, parts: int = 1) -> tuple[Tree, Metrics]:
        self.tape.append(f"model {parts}")
        self.steps.append(steps)
        return 2 * steps.obs.flatten(0, 1), {}


class Student(Policy):
    """Notes where its rollouts begin, and the real rows it gets."""

    learns_in_imagination = True

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec, self.tape, self.begun, self.rows = spec, [], [], []  # type: ignore[var-annotated]
        self.updates = 0

    def act(self, features: Tensor, explore: bool) -> Tensor:
        return features[:, :1] / 1000

    def learn_in(self, model: Any, state: Tree, horizon: int) -> Metrics:
        self.tape.append(f"imagine {horizon}")
        self.begun.append(state)
        self.updates += 1
        return {}

    def update_critic(self, steps: Step) -> Metrics:
        self.tape.append("real")
        self.rows.append(steps)
        return {}


def dreamer(updates: int = 1, **settings: Any) -> Any:
    loop: dict[str, Any] = {
        "warmup": 6, "pretrain": 2, "update": Updates(40, updates, every=3), "horizon": 7, "hybrid": 0,
    }  # fmt: skip
    windows: dict[str, Any] = {
        "batch": 5, "max_updates": 0, "terminal_fraction": 0.0, "accumulate": 1, "latents": "recomputed",
    }  # fmt: skip
    trainer = SequenceTrainer(**(windows | {k: v for k, v in settings.items() if k in windows}))
    others = loop | {k: v for k, v in settings.items() if k in loop}
    return Dreamer(SPEC, lambda spec: Model(spec, trainer), Student, **others)  # type: ignore[arg-type, return-value]


def run(algo: Any, steps: int) -> Replay:
    """Episodes of four rows, the last of which is an end; the first number of a row is its time."""
    replay = Replay(SPEC, 1000, 1, seed=0)
    algo.model.tape = algo.policy.tape = tape = []
    for now in range(steps + 1):
        flags = torch.tensor([now % 4 == 3]), torch.tensor([now % 4 == 0])
        replay.add(Step(torch.zeros(1, 1), torch.tensor([[now, 1.0]]), torch.tensor([float(now)]), *flags))
        if now:
            tape.append(str(now))
            algo.learn(replay, now - 1, now)
    return replay


def test_the_order_of_learning() -> None:
    algo = dreamer(updates=2)
    run(algo, 9)
    once = ["model 1", "imagine 7"]
    learned = ["6", "model 1", "model 1", "7", "8", "9", *once, *once]
    assert algo.model.tape == ["1", "2", "3", "4", "5", *learned]
    assert [len(s.first) for s in algo.model.steps] == [3] * 4 and algo.model.steps[0].first.shape[1] == 5


def test_imagined_rollouts_start_in_states_that_are_not_terminal() -> None:
    algo = dreamer()
    run(algo, 30)
    begun = torch.cat(algo.policy.begun)
    assert begun.shape == (8 * 40, 2) and (begun[:, 1] == 2).all(), "states, not observations"
    times = begun[:, 0] / 2
    assert not (times % 4 == 3).any() and len(times.unique()) > 10


def test_a_fraction_of_windows_leads_to_a_termination() -> None:
    algo = dreamer(terminal_fraction=0.5)
    run(algo, 30)
    last = torch.cat([s.terminal[-1, :2] for s in algo.model.steps])
    assert last.all() and not all(s.terminal[-1, 2:].all() for s in algo.model.steps)
    assert {int(s.obs[-1, 0, 0]) % 4 for s in algo.model.steps} == {3}


def test_the_hybrid_learns_from_real_steps_as_features_of_the_model() -> None:
    algo = dreamer(hybrid=2)
    run(algo, 21)
    assert algo.policy.tape.count("real") == 2 and algo.policy.tape.count("imagine 7") == 5
    rows, seen = algo.policy.rows[-1], algo.model.steps[-2]
    assert torch.equal(rows.obs, 2 * seen.obs) and torch.equal(rows.reward, seen.reward)


def test_it_acts_at_random_in_the_warmup_and_carries_its_belief() -> None:
    algo = dreamer()
    row = Step(torch.zeros(1, 1), torch.ones(1, 2), *torch.zeros(1, 1), *torch.zeros(2, 1, dtype=torch.bool))
    action, carry = algo.act(row, None, explore=True)
    assert action.item() != pytest.approx(0.002)
    assert algo.act(row, None, explore=False)[0].item() == pytest.approx(0.002)
    run(algo, 6)
    assert algo.act(row, carry, explore=True)[0].item() == pytest.approx(0.002)
    assert [c is None for c in algo.model.carried] == [True, True, False] and algo.model.carried[2] is carry


@pytest.mark.parametrize("part", ["policy=ppo"])
def test_parts_that_it_cannot_learn_with_are_rejected(part: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^algo=dreamer cannot learn with policy=ppo; it must be policy=actor_critic"):
        make_run("dreamer", "cartpole", part, "preset=none", folder=tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dynamics.length=300"], "dynamics.length is 300; with algo.warmup=250 and env.num=1 it must be at most 251"),
        (
            ["dynamics.length=9", "replay.capacity=400", "env.num=50"],
            "dynamics.length is 9; with algo.warmup=250 and env.num=50 it must be at most 6",
        ),
        (["dynamics.state.size=0"], "dynamics.state.size is 0; it must be a whole number from 1 to 65536"),
        (["algo.horizon=0"], "algo.horizon is 0; it must be a whole number from 1"),
        (["dynamics.bins=4"], "dynamics.bins is 4; it must be 0 or an odd whole number from 3 to 9999"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose_config(["algo=dreamer", *words]))
    assert str(caught.value) == said


def test_windows_that_exceed_memory_are_rejected() -> None:
    with pytest.raises(
        ValueError,
        match=r"^dynamics.trainer.batch=\d+ windows of dynamics.length=3 steps need .* make one of them smaller",
    ):
        dreamer(batch=10**12).allocate_memory()


QUICK = ["policy.gradient=dynamics", "policy.gamma=0.9", "algo.horizon=6", "algo.warmup=120", "algo.pretrain=200"]
RATES = ["dynamics.optim.lr=3e-3", "policy.optim.actor_lr=1e-3", "policy.optim.critic_lr=3e-3", "algo.update.batch=32"]


@pytest.mark.parametrize("hybrid", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_it_brings_a_point_to_its_goal(hybrid: int, tmp_path: Path) -> None:
    """Going straight there costs about 1, acting at random about 8; with half the warm-up some seeds ran away."""
    words = [*QUICK, *RATES, f"algo.hybrid={hybrid}", "preset=none"]
    assert final_return("dreamer", 0, tmp_path, *words, "algo.update.every=1", steps=350) > -2.5


@pytest.mark.parametrize("gradient", ["dynamics", pytest.param("reinforce", marks=pytest.mark.slow)])
def test_rollouts_of_an_ensemble_bring_it_there(gradient: str, tmp_path: Path) -> None:
    """Value gradients go through the elites."""
    words = [*QUICK[1:], *RATES, f"policy.gradient={gradient}", "dynamics=ensemble", "dynamics.trainer.batch=64"]
    assert final_return("dreamer", 0, tmp_path, *words, "algo.update.every=1", "preset=none", steps=250) > -2.5


@pytest.mark.slow
def test_a_planner_in_a_recurrent_model_brings_it_there(tmp_path: Path) -> None:
    """PlaNet, on the toy."""
    model = [
        "dynamics=rssm_xs",
        "dynamics.state.units=32",
        "dynamics.state.groups=4",
        "dynamics.state.classes=8",
        "dynamics.width=32",
    ]
    learn = [
        "dynamics.length=8",
        "dynamics.optim.lr=1e-2",
        "dynamics.bins=41",
        "algo.warmup=150",
        "dynamics.trainer.max_updates=150",
    ]
    search = ["planner=cem", "planner.population=64", "planner.elites=8", "planner.horizon=6", "planner.iterations=2"]
    words = [*model, *learn, *search, "preset=none", "algo.every=50", "dynamics.trainer.batch=16"]
    assert final_return("mpc", 0, tmp_path, *words, steps=250) > -4


@pytest.mark.slow
def test_rollouts_of_a_latent_model_teach_a_policy_to_bring_it_there(tmp_path: Path) -> None:
    """MBPO in latent space, on the toy."""
    model = [
        "dynamics=latent",
        "preset=none",
        "dynamics.optim.lr=3e-3",
        "algo.warmup=60",
        "dynamics.trainer.max_updates=60",
    ]
    rollouts = [
        "algo.rollouts.starts=100",
        "algo.rollouts.length=[3,3,0,1]",
        "algo.update.number=4",
        "algo.update.batch=64",
        "algo.real_ratio=0.2",
    ]
    rates = [
        "policy.optim.actor_lr=3e-3",
        "policy.optim.critic_lr=3e-3",
        "policy.temperature.alpha=0.1",
        "policy.gamma=0.9",
        "policy.width=32",
    ]
    words = [*model, *rollouts, *rates, "algo.every=30", "algo.rollouts.epoch=30"]
    assert final_return("mbpo", 0, tmp_path, *words, steps=220) > -3


def test_a_model_that_measures_no_disagreement_rejects_its_settings() -> None:
    with pytest.raises(
        ValueError,
        match=r"^algo.uncertainty.bonus is 1; with dynamics=latent, which measures no disagreement, it must be 0",
    ):
        make_run("mbpo", "pendulum", "dynamics=latent", "preset=none", "algo.uncertainty.bonus=1", folder="/nowhere")
