"""Every planner as an optimizer of toys whose best plan is known, and its manners."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils._pytree import tree_map
from worlds import Lock, Toy, Track

from mbrl_lab import planner as planners
from mbrl_lab.planner.proposal import Adaptive
from mbrl_lab.planner.search import Search
from mbrl_lab.protocols import Candidates, PlanContext, Policy
from mbrl_lab.types import EnvSpec, Outcome, Tree

CONF = Path(__file__).parents[2] / "conf" / "planner"
NAMES = {"random_shooting": "RandomShooting", "cem": "CEM", "icem": "ICEM", "mppi": "MPPI"}
every_planner = pytest.mark.parametrize("name", NAMES)


def settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def make(name: str, **changes: Any) -> Search:
    """The planner of conf/planner/<name>.yaml, with changes to those of its settings that it has."""
    given = settings(name)
    given.pop("_target_")
    return getattr(planners, NAMES[name])(**given | {k: v for k, v in changes.items() if k in given})


@every_planner
def test_the_file_names_the_class_and_all_its_settings(name: str) -> None:
    keys = settings(name)
    assert keys.pop("_target_") == f"mbrl_lab.planner.{NAMES[name]}"
    assert list(keys) == list(inspect.signature(getattr(planners, NAMES[name])).parameters)


BUDGET = {"population": 400, "elites": 20, "iterations": 8, "temperature": 0.02, "particles": 2}


@pytest.mark.parametrize(("name", "error"), [("cem", 0.1), ("icem", 0.1), ("mppi", 0.1), ("random_shooting", 0.8)])
def test_continuous_plans_track_the_target_of_each_environment(name: str, error: float) -> None:
    horizon = 1 if name == "random_shooting" else 5
    model, target = Track(), torch.rand(3, horizon, 2) * 1.6 - 0.8
    planner = make(name, horizon=horizon, noise_beta=0.0, **BUDGET | {"iterations": 15})
    action, plan = planner.plan(model, model.begin(target), planner.start(model.spec, 3, "cpu"), PlanContext())
    torch.testing.assert_close(action, target[:, 0], atol=error / 2, rtol=0)
    torch.testing.assert_close(plan["mean"], target, atol=error, rtol=0)
    assert plan["predicted_return"].shape == (3,) and (plan["predicted_return"] > -0.5).all()


@every_planner
def test_discrete_plans_find_the_one_code_of_each_environment(name: str) -> None:
    """One of 81 codes; random shooting, which refines nothing, draws enough to miss it once in a million times."""
    model, code = Lock(actions=3), torch.tensor([[2, 0, 1, 1], [0, 1, 2, 2], [1, 1, 1, 0]])
    budget = BUDGET | ({"population": 1_200} if name == "random_shooting" else {})
    planner = make(name, horizon=4, vote=0.1, noise_beta=0.5, **budget)
    action, plan = planner.plan(model, model.begin(code), planner.start(model.spec, 3, "cpu"), PlanContext())
    assert action.tolist() == code[:, 0].tolist() and action.dtype == torch.int64
    assert plan["mean"].argmax(-1).tolist() == code.tolist()
    torch.testing.assert_close(plan["mean"].sum(-1), torch.ones(3, 4))


class Trap(Toy):
    """The best action is 1; any action below -0.9, or action 0, is said to be NaN."""

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        value = action.float() if self.spec.discrete else action[:, 0]
        bad = action == 0 if self.spec.discrete else value < -0.9
        reward = torch.where(bad, torch.nan, -(value - 1).abs())
        return state, Outcome(reward, torch.ones_like(reward))


@every_planner
@pytest.mark.parametrize("discrete", [True, False])
def test_nan_is_the_worst_there_is(name: str, discrete: bool) -> None:
    model = Trap(EnvSpec((1,), torch.float32, 3 if discrete else 1, discrete))
    planner = make(name, horizon=2, **BUDGET)
    action, plan = planner.plan(model, {"time": torch.zeros(2)}, planner.start(model.spec, 2, "cpu"), PlanContext())
    assert all(x.isfinite().all() for x in plan.values())
    assert (action == 1).all() if discrete else (action > 0.5).all()


class Hopeless(Toy):
    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        nothing = torch.full((len(action),), torch.nan)
        return state, Outcome(nothing, nothing)


@every_planner
@pytest.mark.parametrize("discrete", [True, False])
def test_a_plan_of_nothing_but_nan_is_still_a_plan_and_promises_nothing(name: str, discrete: bool) -> None:
    model = Hopeless(EnvSpec((1,), torch.float32, 3, discrete))
    planner = make(name, horizon=2, **BUDGET)
    action, plan = planner.plan(model, {"time": torch.zeros(2)}, planner.start(model.spec, 2, "cpu"), PlanContext())
    assert action.isfinite().all() and plan["mean"].isfinite().all()
    assert plan["predicted_return"].tolist() == [-torch.inf] * 2


class Noise(Toy):
    """Pays a coin toss of -1 or 1, plus a tenth of the action."""

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        reward = torch.randint(2, (len(action),)) * 2 - 1 + 0.1 * action[:, 0]
        return state, Outcome(reward, torch.ones_like(reward))


def test_particles_average_the_noise_away() -> None:
    model, seen = Noise(EnvSpec((1,), torch.float32, 1, discrete=False)), []
    for particles in (1, 100):
        planner = make("random_shooting", horizon=1, population=500, particles=particles)
        planner.on_candidates = seen.append
        planner.plan(model, {"time": torch.zeros(1)}, planner.start(model.spec, 1, "cpu"), PlanContext())
    error = [(c.scores - 0.1 * c.sequences[:, :, 0, 0]).std().item() for c in seen]
    assert error == pytest.approx([1.0, 0.1], rel=0.15)


@every_planner
@pytest.mark.parametrize("model", [Track(), Lock()], ids=["continuous", "discrete"])
def test_the_same_seed_plans_the_same_and_start_has_the_shape_of_a_plan(name: str, model: Track | Lock) -> None:
    goal = torch.zeros(2, 4, 2) if isinstance(model, Track) else torch.zeros(2, 4, dtype=torch.int64)
    planner = make(name, horizon=4, population=30, elites=5)
    start = planner.start(model.spec, 2, "cpu")
    plans = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        plans.append(planner.plan(model, model.begin(goal), start, PlanContext())[1])
    assert all(plans[0][k].equal(plans[1][k]) for k in start)
    assert any(not plans[0][k].equal(plans[2][k]) for k in start)
    assert tree_map(lambda x: (x.shape, x.dtype), start) == tree_map(lambda x: (x.shape, x.dtype), plans[0])


@every_planner
@pytest.mark.parametrize("model", [Track(), Lock()], ids=["continuous", "discrete"])
def test_under_autocast_the_search_itself_stays_exact(name: str, model: Track | Lock) -> None:
    goal = torch.zeros(2, 4, 2) if isinstance(model, Track) else torch.zeros(2, 4, dtype=torch.int64)
    planner = make(name, horizon=4, population=100, elites=10)
    plans = []
    for autocast in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plans.append(planner.plan(model, model.begin(goal), planner.start(model.spec, 2, "cpu"), PlanContext())[1])
    for key in plans[0]:
        torch.testing.assert_close(plans[0][key], plans[1][key])


@every_planner
@pytest.mark.parametrize("model", [Track(), Lock()], ids=["continuous", "discrete"])
def test_watch_sees_every_candidate_of_every_iteration(name: str, model: Track | Lock) -> None:
    goal = torch.zeros(2, 4, 2) if isinstance(model, Track) else torch.zeros(2, 4, dtype=torch.int64)
    planner = make(name, horizon=4, population=100, elites=10, iterations=2)
    seen: list[Candidates] = []
    planner.on_candidates = seen.append
    planner.plan(model, model.begin(goal), planner.start(model.spec, 2, "cpu"), PlanContext())
    counts = {"icem": [103, 80 + 3 + 1], "random_shooting": [100]}.get(name, [100, 100])
    assert [c.iteration for c in seen] == list(range(len(counts)))
    assert [c.scores.shape for c in seen] == [(2, n) for n in counts]
    assert [c.sequences.shape[:3] for c in seen] == [(2, n, 4) for n in counts]


def test_the_plan_before_is_where_the_next_search_begins() -> None:
    model, target = Track(), torch.rand(2, 6, 2) - 0.5
    planner = make("cem", horizon=5, population=4, elites=2)
    planner.proposal = Adaptive(init_std=1e-6, min_std=0.0)
    previous = {"mean": target[:, :5], "std": torch.full((2, 5, 2), 1e-6), "predicted_return": torch.zeros(2)}
    action, plan = planner.plan(model, model.begin(target[:, 1:]), previous, PlanContext())
    torch.testing.assert_close(action, target[:, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(plan["mean"][:, :4], target[:, 1:5], atol=1e-4, rtol=0)
    torch.testing.assert_close(plan["mean"][:, 4], torch.zeros(2, 2), atol=1e-4, rtol=0)


def test_mppi_counts_all_sequences_or_only_its_elites() -> None:
    scores, spec = torch.tensor([[3.0, 2.0, 1.0], [-torch.inf] * 3]), Lock().spec
    every = make("mppi", temperature=1.0).weigh(scores, spec)
    torch.testing.assert_close(every, torch.stack([scores[0].softmax(0), torch.ones(3) / 3]))
    best = make("mppi", temperature=1.0, elites=2).weigh(scores, spec)
    torch.testing.assert_close(
        best, torch.stack([torch.cat([scores[0, :2].softmax(0), torch.zeros(1)]), torch.ones(3) / 3])
    )


def test_icem_tries_its_elites_again_one_step_on() -> None:
    model, code = Lock(), torch.tensor([[2, 0, 1, 1]])
    planner = make("icem", horizon=4, population=50, elites=10)
    seen: list[Candidates] = []
    planner.on_candidates = seen.append
    previous = planner.start(model.spec, 1, "cpu")
    previous["elites"] = torch.tensor(
        [[[0, 2, 1, 2], [1, 1, 1, 1], [2, 2, 2, 2], [0, 1, 0, 1], [1, 0, 1, 0], [2, 0, 2, 0]]]
    )
    planner.plan(model, model.begin(code), previous, PlanContext())
    tried = {tuple(s) for s in seen[0].sequences[0, :, :3].tolist()}
    assert {tuple(s) for s in previous["elites"][0, :, 1:].tolist()} <= tried


def test_icem_never_forgets_its_best_sequence() -> None:
    model, target = Track(), torch.rand(3, 5, 2) * 2 - 1
    planner = make("icem", horizon=5, population=40, elites=5, iterations=6)
    best: list[Tensor] = []
    planner.on_candidates = lambda c: best.append(c.scores.amax(1))
    action, plan = planner.plan(model, model.begin(target), planner.start(model.spec, 3, "cpu"), PlanContext())
    rises = torch.stack(best).diff(dim=0)
    assert (rises >= -1e-5).all() and (rises > 0).any()
    assert action.equal(plan["elites"][:, 0, 0])


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *((name, key, 0) for name in NAMES for key in ("horizon", "population", "particles", "discount")),
        *((name, "discount", 1.1) for name in NAMES),
        *((name, key, value) for name in ("cem", "icem") for key, value in [("elites", 201), ("elites", 0)]),
        *((name, "iterations", 0) for name in ("cem", "icem", "mppi")),
        ("icem", "noise_beta", -1),
        *(("mppi", key, value) for key, value in [("temperature", 0), ("elites", 0), ("elites", 1001)]),
        ("random_shooting", "vote", -1),
    ],
)
def test_settings_out_of_range_are_rejected_by_name(name: str, key: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"planner\.{key} is {value}; it must be"):
        make(name, **{key: value})


class Planted(Policy):
    """Knows the target of a Track's step, from its clock."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target  # [H, A], of all environments

    def act(self, features: Tensor, explore: bool) -> Tensor:
        return self.target[features[:, 0].long()]


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_planted_policy_s_plan_is_found_in_one_iteration(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    monkeypatch.setattr(Track, "batch_blocks", blocks)
    model, target = Track(), torch.rand(5, 2) * 1.6 - 0.8
    given: dict[str, Any] = {"horizon": 5, "population": 40, "elites": 3, "temperature": 0.01}
    planner, alone = make("mppi", proposals=4, **given), make("mppi", **given)
    seen: list[Candidates] = []
    planner.on_candidates = seen.append
    state = model.begin(target.expand(2, 5, 2))
    start = planner.start(model.spec, 2, "cpu")
    action, plan = planner.plan(model, state, start, PlanContext(Planted(target)))
    torch.testing.assert_close(plan["mean"], target.expand(2, 5, 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(action, target[:1].expand(2, 2), atol=1e-3, rtol=0)

    # They are among the population, and without them one iteration is not enough.
    assert seen[0].sequences.shape == (2, 40, 5, 2) and ((seen[0].scores > -1e-6).sum(1) == 4).all()
    assert (alone.plan(model, state, start, PlanContext())[1]["predicted_return"] < -0.1).all()


class Either(Policy):
    """Proposes -0.9 and 0.9 in turn."""

    def act(self, features: Tensor, explore: bool) -> Tensor:
        sign = torch.where(torch.arange(len(features)) % 2 == 0, 1.0, -1.0)
        return 0.9 * sign.unsqueeze(1)


def test_of_two_good_plans_one_is_followed_and_not_their_mean() -> None:
    """Both directions pay equally, standing still pays nothing: as where a pendulum hangs straight down."""

    class Fork(Track):
        def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
            state, outcome = super().imagine(state, action)
            return state, outcome._replace(reward=10 * action[:, 0].abs())

    torch.manual_seed(0)
    model, batch = Fork(1), 63  # odd, so that the proposals of each of them alternate
    state = model.begin(torch.zeros(batch, 2, 1))
    planner = make("mppi", horizon=2, population=40, elites=8, temperature=1.0, proposals=8, iterations=1)
    action, plan = planner.plan(model, state, planner.start(model.spec, batch, "cpu"), PlanContext(Either()))
    assert (action.abs() > 0.5).all() and 16 < int((action > 0).sum()) < 48
    assert plan["mean"][:, 0].abs().mean() < 0.5


def test_a_value_at_the_horizon_decides_where_no_step_pays() -> None:
    """A lock that has not opened by the horizon: 7 is what is left if both digits were right, discounted twice."""
    model = Lock(2)
    state = model.begin(torch.tensor([[0, 1, 1]]))
    planner = make("mppi", horizon=2, population=64, iterations=3, temperature=0.1, discount=0.5)
    plan = planner.start(model.spec, 1, "cpu")
    context = PlanContext(value=lambda s: 7.0 * s["right"].float())
    action, plan = planner.plan(model, state, plan, context)
    assert action.tolist() == [0] and plan["mean"].argmax(-1).tolist() == [[0, 1]]
    assert plan["predicted_return"].tolist() == pytest.approx([7 * 0.25], abs=1e-3)
