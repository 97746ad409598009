"""When it acts at random, when it learns, and from what."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_lab.algo import OffPolicy
from mbrl_lab.algo.learner import Updates
from mbrl_lab.protocols import Policy
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step

SPEC = EnvSpec((2,), torch.float32, 5, True)


class Student(Policy):
    """Always takes action 4; remembers what it learned from."""

    window = 3

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.seen: list[Step] = []

    def act(self, features: Tensor, explore: bool) -> Tensor:
        return torch.full((len(features),), 4)

    def update(self, steps: Step) -> Metrics:
        self.seen.append(steps)
        return {"policy/loss": float(len(self.seen))}


class Weighted(Student):
    """The error of a window is 10 at the rows 0, 10, 20, ... and 0 elsewhere."""

    learns_by_priority = True

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__(spec)
        self.weights: list[Tensor] = []

    def update_weighted(self, steps: Step, weight: Tensor) -> tuple[Metrics, Tensor]:
        self.weights.append(weight)
        return self.update(steps), 10.0 * (steps.obs[0, :, 0] % 10 == 0)


def off_policy(batch: int = 6, every: int = 1, updates: int = 1, **settings: float) -> tuple[OffPolicy, list[Step]]:
    loop: dict[str, Any] = {"warmup": 10, "update": Updates(batch, updates, every), "reward_clip": 0.0}
    draws = {"priority_exponent": 0, "importance_exponent": 1, "importance_steps": 0}
    algo: Any = OffPolicy(SPEC, Weighted, **(loop | draws | settings))
    return algo, algo.policy.seen


def row(batch: int, now: int = 0) -> Step:
    """Both numbers of an observation are its time and its environment."""
    zero = torch.zeros(batch)
    obs = torch.stack([torch.full((batch,), float(now)), torch.arange(batch).float()], -1)
    return Step(zero.long(), obs, zero, zero.bool(), zero.bool())


def filled(rows: int, batch: int = 1) -> Replay:
    replay = Replay(SPEC, 1000, batch, seed=0)
    for now in range(rows):
        replay.add(row(batch, now))
    return replay


def learned(algo: OffPolicy, seen: list[Step], num_envs: int, steps: int) -> list[int]:
    """After which counts of steps gradient steps were taken, each as often as they were."""
    replay, counts = filled(8, num_envs), []
    for before in range(0, steps, num_envs):
        already = len(seen)
        algo.learn(replay, before, before + num_envs)
        counts += [before + num_envs] * (len(seen) - already)
    return counts


def test_updates_are_due_at_every_multiple_after_warmup() -> None:
    assert learned(*off_policy(), 1, 14) == [11, 12, 13, 14]
    assert learned(*off_policy(every=4), 1, 25) == [12, 16, 20, 24]
    assert learned(*off_policy(every=4, updates=3), 1, 17) == [12, 12, 12, 16, 16, 16]


@pytest.mark.parametrize("num_envs", [2, 3, 8, 64])
def test_the_number_of_environments_does_not_change_the_number_of_updates(num_envs: int) -> None:
    steps = 192
    assert len(learned(*off_policy(), num_envs, steps)) == steps - 10
    assert len(learned(*off_policy(every=16, updates=2), num_envs, steps)) == 2 * steps // 16


def test_updates_of_the_warmup_are_not_made_up_for() -> None:
    assert learned(*off_policy(), 8, 24) == [16] * 6 + [24] * 8


def test_random_actions_until_warmup_and_then_the_policy() -> None:
    algo, _ = off_policy()
    replay = filled(8)
    for before in range(9):
        algo.learn(replay, before, before + 1)
        action, _ = algo.act(row(400), None, explore=True)
        assert set(action.tolist()) == {0, 1, 2, 3, 4}
    algo.learn(replay, 9, 10)
    action, _ = algo.act(row(400), None, explore=True)
    assert set(action.tolist()) == {4}


def test_evaluations_use_the_policy_during_warmup() -> None:
    algo, _ = off_policy()
    assert set(algo.act(row(400), None, explore=False)[0].tolist()) == {4}


def test_end_of_warmup_is_saved() -> None:
    algo, _ = off_policy()
    algo.learn(filled(8, 3), 8, 11)
    other, _ = off_policy()
    other.load_state_dict(algo.state_dict())
    assert set(other.act(row(400), None, explore=True)[0].tolist()) == {4}


@pytest.mark.parametrize("priority_exponent", [0.0, 0.5])
def test_it_learns_from_windows_of_the_policys_length_with_two_observations(priority_exponent: float) -> None:
    algo, seen = off_policy(updates=2, priority_exponent=priority_exponent)
    metrics = algo.learn(filled(20, 3), 30, 31)
    assert metrics["policy/loss"] == 1.5 and len(seen) == 2
    assert not torch.equal(seen[0].obs, seen[1].obs)
    for steps in seen:
        time, env = steps.obs.unbind(-1)
        assert steps.reward.shape == (3, 6) and time.shape == (2, 6)
        assert torch.equal(time[1], time[0] + 2) and torch.equal(env[0], env[1])


def test_windows_are_drawn_by_priority_with_importance_weights() -> None:
    """Ten windows begin at rows 0..9. Once all were seen, that at 0 has sqrt(10) of sqrt(10) + 9 / 1000 to come."""
    algo, seen = off_policy(priority_exponent=0.5, batch=4000, updates=2)
    policy: Any = algo.policy
    metrics = algo.learn(filled(12), 30, 31)
    assert policy.weights[0].tolist() == [1.0] * 4000 and policy.weights[0].dtype == torch.float32
    times = [steps.obs[0, :, 0].long().bincount(minlength=10) for steps in seen]
    assert times[0].tolist() == pytest.approx([400] * 10, abs=1)
    small, large = 1e-3, (10 + 1e-6) ** 0.5
    share = small / (large + 9 * small)
    assert times[1].tolist() == pytest.approx([4000 * (1 - 9 * share), *[4000 * share] * 9], abs=1)
    weight = policy.weights[1][seen[1].obs[0, :, 0] == 0]
    assert weight.tolist() == pytest.approx([small / large] * len(weight), rel=1e-4)
    mean = torch.cat(policy.weights).mean().item()
    assert policy.weights[1].max() == 1 and metrics["replay/weight"] == pytest.approx(mean), "of both gradient steps"


def test_importance_exponent_beta_is_annealed_to_one() -> None:
    algo, _ = off_policy(priority_exponent=1.0, importance_exponent=0.5, importance_steps=100)
    assert [algo.beta(n) for n in (0, 50, 100, 400)] == [0.5, 0.75, 1.0, 1.0]
    algo, _ = off_policy(priority_exponent=0.25, importance_exponent=0.5, batch=4000, updates=2)
    algo.learn(filled(12), 30, 31)
    policy: Any = algo.policy
    assert policy.weights[1].max() == 1
    assert policy.weights[1].min() == pytest.approx((1e-6 / 10) ** 0.125, rel=1e-4)


def test_priorities_need_a_policy_that_learns_by_priority() -> None:
    with pytest.raises(ValueError, match=r"algo\.priority_exponent is 0\.5; it must be 0 with Student"):
        OffPolicy(SPEC, Student, 10, Updates(6, 1, 1), 0.0, 0.5, 0.4, 0)
