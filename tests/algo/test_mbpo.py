"""When MBPO fits, imagines and learns, from what, and how long it keeps it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from test_mpc import final_return
from torch import Tensor

from mbrl_lab import make_run
from mbrl_lab.algo import MBPO
from mbrl_lab.algo.imagined import Imagined, mix
from mbrl_lab.algo.learner import Updates
from mbrl_lab.algo.mbpo import Rollouts, Uncertainty, check_gradients
from mbrl_lab.config import compose_config
from mbrl_lab.dynamics import Analytic
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step, Tree

SPEC = EnvSpec((2,), torch.float32, 1, discrete=False)
IMAGINED = 1000.0
"""The first number of an observation is that much more if it was imagined."""


class World(WorldModel):
    """Adds IMAGINED to the first number at its first step, and 1 to the second at each; the rest is given."""

    measures_disagreement = True

    def __init__(self, spec: EnvSpec, going_on: float = 1.0, disagreement: float = 0.0, reward: float = 0.0) -> None:
        super().__init__(spec)
        self.going_on, self.uncertainty, self.reward, self.asked = going_on, disagreement, reward, 0
        self.sizes: list[int] = []
        self.trusted = iter([0, 3, 9])

    def observe(self, state: Tree | None, step: Step) -> Tree:
        return step.obs

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        self.sizes.append(len(replay))
        return FitResult({"model/train/loss": 0.0}, next(self.trusted, None))

    def features(self, state: Tree) -> Tensor:
        return state

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        self.asked += 1
        obs = torch.stack([state[:, 0] % IMAGINED + IMAGINED, state[:, 1] + 1], -1)
        return obs, Outcome(torch.full((len(obs),), self.reward), torch.full((len(obs),), self.going_on))

    def disagreement(self, state: Tree, action: Tensor) -> Tensor:
        return torch.full((len(state),), self.uncertainty)


class Student(Policy):
    """Remembers what it learned from; `window` rows each."""

    window = 2

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.seen: list[Step] = []

    def act(self, features: Tensor, explore: bool) -> Tensor:
        return torch.full((len(features), 1), 0.5)

    def update(self, steps: Step) -> Metrics:
        self.seen.append(steps)
        return {}


class OnPolicyStudent(Student):
    """Has no window: it learns from what it did itself."""

    window = None  # type: ignore[assignment]


def mbpo(
    world: dict[str, float] | None = None, student: type[Student] = Student, batch: int = 40, **settings: Any
) -> Any:
    loop: dict[str, Any] = {
        "warmup": 10, "every": 5, "real_ratio": 0.25, "update": Updates(batch, number=3, every=1), "reward_clip": 0.0
    }  # fmt: skip
    rollouts: dict[str, Any] = {"starts": 8, "length": [1, 1, 0, 1], "epoch": 10, "keep": 1, "adaptive": False}
    uncertainty = {"max": 0.0, "bonus": 0.0}
    for group in (loop, rollouts, uncertainty):
        group |= {key: settings.pop(key) for key in list(settings) if key in group}
    assert not settings, settings
    parts = Rollouts(**rollouts), Uncertainty(**uncertainty)
    algo = MBPO(
        SPEC, lambda spec: World(spec, **(world or {})), student, rollouts=parts[0], uncertainty=parts[1], **loop
    )
    algo.allocate_memory()
    return algo


def run(algo: Any, steps: int, replay: Replay | None = None) -> list[Metrics]:
    """Real rows whose first number is their time; one episode."""
    replay = Replay(SPEC, 1000, 1, seed=0) if replay is None else replay
    out = []
    for now in range(steps + 1):
        obs = torch.tensor([[float(now), 0.0]])
        no = torch.zeros(1, dtype=torch.bool)
        replay.add(Step(torch.zeros(1, 1), obs, torch.ones(1), no, no | (now == 0)))
        if now:
            out.append(algo.learn(replay, now - 1, now))
    return out


def test_it_fits_after_the_warmup_at_intervals_and_learns_at_every_step_since() -> None:
    algo = mbpo()
    run(algo, 22)
    assert algo.model.sizes == [11, 16, 21]
    assert len(algo.policy.seen) == 3 * 12


def test_the_policy_acts_from_the_first_fit_on() -> None:
    algo = mbpo()
    row = Step(torch.zeros(1, 1), torch.zeros(1, 2), *torch.zeros(1, 1), *torch.zeros(2, 1, dtype=torch.bool))
    acts = {float(algo.act(row, None, explore=True)[0]) for _ in range(5)}
    assert len(acts) == 5 and float(algo.act(row, None, explore=False)[0]) == 0.5
    run(algo, 10)
    assert float(algo.act(row, None, explore=True)[0]) == 0.5


@pytest.mark.parametrize(("ratio", "real"), [(0.0, 0), (0.25, 10), (1.0, 40), (None, 2), (0.04, 1)])
def test_the_real_ratio_is_that_of_the_setting(ratio: float | None, real: int) -> None:
    algo = mbpo(real_ratio=ratio)
    run(algo, 30)
    for steps in algo.policy.seen:
        assert int((steps.obs[1, :, 0] < IMAGINED).sum()) == real
        assert len(steps.first[0]) == 40 and steps.transitions().valid[:, real:].all()


def test_with_real_steps_alone_nothing_is_fitted_or_imagined() -> None:
    algo = mbpo(real_ratio=1.0)
    run(algo, 30)
    assert not algo.model.sizes and not algo.model.asked


def test_imagined_steps_are_kept_for_the_set_number_of_epochs() -> None:
    """A peer's bug: what was imagined went at every fit."""
    algo = mbpo(real_ratio=0.0, keep=2, batch=400)
    run(algo, 40)
    begun = [set((steps.obs[0, :, 0] % IMAGINED).int().tolist()) for steps in algo.policy.seen[-3:]]
    kept = algo.imagined.replay.latest(8).obs[::2, :, 0]  # starts of the newest four fits: 2 epochs of 10, one each 5
    assert set().union(*begun) == set(kept.flatten().int().tolist())
    assert algo.imagined.lengths == [2, 2, 2, 2]


def test_rollouts_begin_in_real_states_that_something_follows() -> None:
    algo = mbpo(starts=500, real_ratio=0.0)
    run(algo, 12)
    starts = Counter(algo.imagined.replay.latest(2).obs[0, :, 0].int().tolist())
    assert set(starts) == set(range(10)) and min(starts.values()) > 20


def test_start_states_are_drawn_without_listing_all_of_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """An update of SVG draws some, and must not take longer as replay fills."""
    algo, replay = mbpo(), Replay(SPEC, 1000, 1, seed=0)
    run(algo, 30, replay)
    monkeypatch.setattr(replay, "transitions", lambda: pytest.fail("all of replay is listed"))
    assert algo.model.start_states(replay, 8).shape == (8, 2)


@pytest.mark.parametrize(
    ("step", "length"), [(100, 1), (119, 1), (120, 1), (130, 3), (139, 3), (140, 5), (160, 9), (500, 9)]
)
def test_lengths_grow_between_two_epochs_after_the_warm_up(step: int, length: int) -> None:
    algo = mbpo(warmup=100, epoch=10, length=[1, 9, 2, 6])
    assert algo.length(step) == length


def test_long_rollouts_are_learned_from_at_each_of_their_steps() -> None:
    algo = mbpo(real_ratio=0.0, length=[3, 3, 0, 1], batch=300)
    run(algo, 11)
    t = algo.policy.seen[-1].transitions()
    assert t.valid.all()
    assert set(t.obs[0, :, 1].int().tolist()) == {0, 1, 2} and (t.next_obs[..., 1] - t.obs[..., 1] == 1).all()


def test_after_an_imagined_termination_nothing_is_learned() -> None:
    algo = mbpo({"going_on": 0.0}, real_ratio=0.0, length=[3, 3, 0, 1])
    rows = run(algo, 11)[:-1]
    t = algo.policy.seen[-1].transitions()
    assert t.valid.all() and t.terminal.all() and (t.obs[0, :, 1] == 0).all()
    assert float(rows[-1]["model/rollout/continue"]) == 1.0


def test_where_the_elites_disagree_too_much_nothing_is_imagined() -> None:
    run(mbpo({"disagreement": 0.5}, max=0.6), 10)
    with pytest.raises(ValueError, match=r"algo\.uncertainty\.max is 0\.4"):
        run(mbpo({"disagreement": 0.5}, max=0.4), 10)


def test_disagreement_can_be_worth_something() -> None:
    algo = mbpo({"disagreement": 0.5, "reward": 1.0}, real_ratio=0.0, bonus=2.0)
    metrics = run(algo, 11)[-2]
    assert (algo.policy.seen[-1].reward[1] == 2.0).all()
    assert float(metrics["model/rollout/disagreement"]) == 0.5


def test_a_model_that_imagines_no_numbers_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match="prediction of the model is not finite at step 10"):
        run(mbpo({"reward": float("nan")}), 10)


def test_a_policy_that_learns_from_its_own_acts_gets_fresh_rollouts() -> None:
    algo = mbpo(student=OnPolicyStudent, length=[4, 4, 0, 1], real_ratio=None, batch=6)
    run(algo, 11)
    assert [tuple(s.first.shape) for s in algo.policy.seen] == [(5, 6)] * 3
    assert all(s.first[0].all() and (s.obs[1:, :, 0] >= IMAGINED).all() for s in algo.policy.seen)
    with pytest.raises(ValueError, match=r"algo\.real_ratio is 0\.05; with a policy that learns from its own rollouts"):
        mbpo(student=OnPolicyStudent, real_ratio=0.05)


def test_epochs_do_not_cut_episodes(tmp_path: Path) -> None:
    """A peer's bug: the environment was reset where an epoch began."""
    words = ["debug=smoke", "algo.rollouts.epoch=50", "algo.every=50", "video.final=0", "eval.every=0", "steps=420"]
    runner = make_run("mbpo", "pendulum", *words, folder=tmp_path)
    runner.run()
    runner.envs.close()
    lengths = [json.loads(line)["length"] for line in runner.folder.episodes.read_text().splitlines()]
    assert lengths[:2] == [200, 200]


def test_the_rules_of_a_game_can_stand_in_for_a_model(tmp_path: Path) -> None:
    """An upper bound for what a learned model of grids could give."""
    words = ["preset=none", "dynamics=analytic", "steps=40", "algo.warmup=32", "algo.every=8", "algo.update.batch=8"]
    more = [
        "algo.rollouts.starts=20",
        "algo.rollouts.length=[3,3,0,1]",
        "replay.capacity=100",
        "eval.every=0",
        "eval.final_episodes=1",
    ]
    runner = make_run("mbpo", "minatar_breakout", *words, *more, "video.final=0", folder=tmp_path)
    runner.run()
    runner.envs.close()
    assert isinstance(runner.algo, MBPO)
    rows = runner.algo.imagined_steps().sample(100, 2)
    ball, trail = rows.obs[0, :, 1], rows.obs[1, :, 2]
    assert torch.equal(trail[~rows.first[1]], ball[~rows.first[1]])


def test_windows_do_not_run_past_the_newest_step() -> None:
    kept = Imagined(SPEC, keep=2, starts=3, longest=2, device="cpu")
    for now in range(3):
        no = torch.zeros(3, 3, dtype=torch.bool)
        first = no.clone()
        first[0] = True
        kept.add(Step(torch.zeros(3, 3, 1), torch.full((3, 3, 2), float(now)), torch.zeros(3, 3), no, first))
    steps = kept.sample(200, 4)
    assert set(steps.obs[0, :, 0].int().tolist()) == {1, 2}
    reached = (~steps.first[1:]).cumprod(0).bool()
    assert reached[0].all() and not reached[2].any()
    assert (steps.obs[1:, :, 0] == steps.obs[0, :, 0])[reached].all()
    twins = mix(steps, steps)
    assert twins.obs.shape == (4, 400, 2) and torch.equal(twins.reward[:, :200], twins.reward[:, 200:])


def test_what_it_imagined_can_be_put_back() -> None:
    one, other = mbpo(length=[1, 3, 0, 2]), mbpo(length=[1, 3, 0, 2])
    run(one, 31)
    other.set_extra_state(one.get_extra_state())
    assert other.imagined.lengths == one.imagined.lengths and torch.equal(other.imagined.indices, one.imagined.indices)
    torch.manual_seed(3)
    a = one.imagined.sample(50, 2)
    torch.manual_seed(3)
    b = other.imagined.sample(50, 2)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_settings_that_exceed_memory_are_rejected_before_anything_runs() -> None:
    with pytest.raises(ValueError, match=r"algo\.rollouts\.starts=10{12} for 2 times up to 1 imagined steps needs"):
        mbpo(starts=10**12)


QUICK = [
    "policy.width=64",
    "policy.gamma=0.9",
    "algo.warmup=50",
    "algo.every=25",
    "algo.rollouts.starts=500",
    "algo.rollouts.epoch=50",
]
QUICK += [
    "algo.update.batch=64",
    "algo.update.number=4",
    "dynamics.trainer.batch=32",
    "dynamics.trainer.max_updates=200",
    "dynamics.optim.lr=3e-3",
]
SAC = [
    "policy.optim.actor_lr=3e-3",
    "policy.optim.critic_lr=3e-3",
    "policy.optim.alpha_lr=3e-3",
    "policy.temperature.alpha=0.1",
    "policy.tau=0.02",
]
PPO = [
    "preset=none",
    "policy=ppo",
    "policy.optim.minibatches=4",
    "policy.optim.lr=3e-3",
    "algo.rollouts.length=[10,10,0,1]",
    "algo.update.every=10",
]


@pytest.mark.parametrize(
    "words",
    [pytest.param(SAC, id="sac"), pytest.param([*PPO, "algo.real_ratio=0"], id="ppo", marks=pytest.mark.slow)],
)
def test_it_brings_a_point_to_its_goal(words: list[str], tmp_path: Path) -> None:
    """Going straight there costs about 1, acting at random about 8."""
    assert final_return("mbpo", 0, tmp_path, *QUICK, *words, steps=160) > -2.5


def stacked_rollouts(starts: int, length: int, shade: int) -> Step:
    """[length + 1, starts] rows of stacks of 3, each frame of its own grey: rollout n goes from 10 n + shade on."""
    grey = shade + 10 * torch.arange(starts) + torch.arange(length + 1).unsqueeze(-1)
    obs = torch.stack([grey, grey + 1, grey + 2], -1)[..., None, None].expand(-1, -1, -1, 4, 4).byte()
    no = torch.zeros(length + 1, starts, dtype=torch.bool)
    first = no.clone()
    first[0] = True
    return Step(no.long(), obs, grey.float(), no, first)


def test_imagined_stacks_are_those_that_were_imagined() -> None:
    spec = EnvSpec((3, 4, 4), torch.uint8, 2, discrete=True, stack=3)
    rows = Imagined(spec, keep=2, starts=2, longest=3, device="cpu")
    for length, shade in ((3, 0), (1, 40), (2, 80)):
        rows.add(stacked_rollouts(2, length, shade))
    assert len(rows.indices) == 2 * (1 + 2), "a transition for each imagined step of the two newest"
    assert rows.replay.store.obs.shape[2:] == (4, 4), "a frame a row"
    windows = rows.sample(500, 3)
    obs, grey = windows.obs[..., 0, 0].long(), windows.reward.long()
    assert not windows.first[0].any()
    for t in range(3):
        there = ~windows.first[: t + 1].any(0)
        assert torch.equal(obs[t, there], grey[t, there, None] + torch.arange(3))
    reached = {(int(g[0]), bool(~f[1]), bool(~f[1] & ~f[2])) for g, f in zip(grey.T, windows.first.T, strict=True)}
    assert reached == {(g, True, False) for g in (40, 50, 81, 91)} | {(80, True, True), (90, True, True)}
    again = Imagined(spec, keep=2, starts=2, longest=3, device="cpu")
    again.set_extra_state(rows.get_extra_state())
    torch.manual_seed(0)
    one = rows.sample(50, 3)
    torch.manual_seed(0)
    other = again.sample(50, 3)
    assert torch.equal(one.first, other.first) and torch.equal(one.obs[~one.first], other.obs[~one.first])


def test_rollouts_are_as_long_as_the_model_is_trusted() -> None:
    algo = mbpo(length=[4, 4, 0, 1], adaptive=True)
    lengths = [m["model/rollout/length"] for m in run(algo, 20) if "model/rollout/length" in m]
    assert lengths == [0, 3, 4]
    other = mbpo(length=[4, 4, 0, 1], adaptive=True)
    other.set_extra_state(algo.get_extra_state())
    assert other.length(20) == 4 and mbpo(length=[4, 4, 0, 1]).length(20) == 4


def test_while_no_step_of_the_model_is_trusted_the_policy_learns_from_real_steps_alone() -> None:
    algo = mbpo(adaptive=True)
    run(algo, 20)
    imagined = [int((steps.obs[1, :, 0] >= IMAGINED).sum()) for steps in algo.policy.seen]
    assert imagined == [0] * 3 * 4 + [30] * 3 * 6, "the second fit, at step 15, is trusted"
    assert all(len(steps.first[0]) == 40 for steps in algo.policy.seen)


def test_a_policy_that_learns_from_its_own_rollouts_has_one_step_while_none_is_trusted() -> None:
    algo = mbpo(student=OnPolicyStudent, real_ratio=None, length=[4, 4, 0, 1], adaptive=True)
    lengths = [m["model/rollout/length"] for m in run(algo, 20) if "model/rollout/length" in m]
    assert lengths == [1, 3, 4]


class ThroughModel(Student):
    """Learns from rollouts that it makes itself; remembers the states they begin in."""

    window, learns_through_model = None, True  # type: ignore[assignment]

    def learn_through(self, model: WorldModel, state: Tree) -> Metrics:
        self.seen.append(state)
        return {}


class Blocks(World):
    """Each half of the batch is another member's."""

    differentiable, batch_blocks = True, 2  # type: ignore[assignment]


def through_model(real_ratio: float) -> Any:
    update, rollouts = Updates(40, number=3, every=1), Rollouts(8, [1, 1, 0, 1], 10, 1, False)
    algo = MBPO(SPEC, Blocks, ThroughModel, 10, 5, rollouts, Uncertainty(0.0, 0.0), real_ratio, update, 0.0)
    algo.allocate_memory()
    return algo


def test_real_start_states_meet_every_member() -> None:
    algo, replay = through_model(real_ratio=0.1), Replay(SPEC, 1000, 1, seed=0)
    run(algo, 20, replay)
    algo.model.start_states = lambda replay, count: torch.full((count, 2), -1.0)
    real = torch.stack([algo.sample_starts(replay, 20)[:, 0] == -1 for _ in range(30)])
    assert (real.sum(1) == 4).all() and real[:, :20].sum() > 20 and real[:, 20:].sum() > 20


def test_the_length_of_rollouts_is_logged_only_where_there_are_some() -> None:
    def logged(algo: Any) -> bool:
        return any("model/rollout/length" in metrics for metrics in run(algo, 12))

    assert logged(mbpo()) and logged(mbpo(student=OnPolicyStudent, real_ratio=0.0)) and logged(through_model(0.1))
    assert not logged(through_model(1.0))


def test_a_member_is_drawn_at_each_step_by_default() -> None:
    """TS1, as in MBPO's paper, also where no preset names it; MPC plans with TS-infinity."""
    words = ["algo=mbpo", "env=gym", "env.id=MountainCarContinuous-v0"]
    for policy in ("sac", "svg"):
        assert compose_config([*words, f"policy={policy}"]).dynamics.imagination.propagation == "ts1"
    assert compose_config(["algo=mpc", *words[1:]]).dynamics.imagination.propagation == "ts_inf"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["env=cartpole"], "must be continuous: try policy=sac"),
        (["env=pendulum", "algo.reward_clip=1"], "algo.reward_clip is 1; with policy=svg it must be 0"),
        (["env=pendulum", "algo.uncertainty.bonus=0.5"], "algo.uncertainty.bonus is 0.5; with policy=svg it must be 0"),
        (
            ["env=pendulum", "dynamics=latent", "algo.real_ratio=0.5"],
            "algo.real_ratio is 0.5; with policy=svg it must be 1",
        ),
    ],
    ids=["discrete", "clipped", "bonus", "features"],
)
def test_what_value_gradients_cannot_follow_is_rejected(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_run("mbpo", words[0].removeprefix("env="), *words[1:], "policy=svg", "debug=smoke", folder=tmp_path)


class NoGradients(Analytic):
    differentiable = False


def test_a_model_without_gradients_is_rejected() -> None:
    check_gradients(Analytic(SPEC, *[lambda *x: x[0]] * 3), Policy(), 1.0, 0.0, Uncertainty(0.0, 0.0))  # type: ignore[list-item]
    with pytest.raises(ValueError, match="NoGradients has none: dynamics=ensemble"):
        check_gradients(NoGradients(SPEC, *[lambda *x: x[0]] * 3), Policy(), 1.0, 0.0, Uncertainty(0.0, 0.0))  # type: ignore[list-item]
