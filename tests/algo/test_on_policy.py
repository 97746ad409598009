"""When it learns, and that it learns from every transition once."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from mbrl_lab.algo import OnPolicy
from mbrl_lab.config import ConfigError, check, compose_config
from mbrl_lab.protocols import Policy
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step

SPEC = EnvSpec((2,), torch.float32, 5, True)


class Student(Policy):
    """Takes action 4 where it explores and 3 where not; remembers what it learned from."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.seen: list[Step] = []
        self.chosen: list[list[list[bool]]] = []

    def act(self, features: Tensor, explore: bool) -> Tensor:
        return torch.full((len(features),), 4 if explore else 3)

    def update_on_policy(self, steps: Step, chosen: Tensor) -> Metrics:
        self.seen.append(steps)
        self.chosen.append(chosen.tolist())
        return {"policy/loss": float(len(self.seen))}


def row(batch: int, now: int) -> Step:
    """Both numbers of an observation are its time and its environment."""
    zero = torch.zeros(batch)
    obs = torch.stack([torch.full((batch,), float(now)), torch.arange(batch).float()], -1)
    return Step(zero.long(), obs, zero, zero.bool(), torch.full((batch,), now == 0))


def played(horizon: int, num_envs: int, rounds: int, capacity: int = 10_000) -> tuple[list[int], list[Step]]:
    """After which rounds of the loop it learned, and from what."""
    algo: Any = OnPolicy(SPEC, Student, horizon, 0.0)
    replay, learned = Replay(SPEC, capacity, num_envs, seed=0), []
    replay.add(row(num_envs, 0))
    for now in range(1, rounds + 1):
        algo.act(row(num_envs, now - 1), None, explore=True)
        replay.add(row(num_envs, now))
        if algo.learn(replay, (now - 1) * num_envs, now * num_envs):
            learned.append(now)
    return learned, algo.policy.seen


@pytest.mark.parametrize("num_envs", [1, 3, 8])
def test_on_policy_updates_every_horizon_steps(num_envs: int) -> None:
    assert played(5, num_envs, 23)[0] == [5, 10, 15, 20]


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("spare", [0, 2, 1000], ids=["a full ring", "a ring's seam", "room"])
def test_every_transition_is_learned_from_once(num_envs: int, spare: int) -> None:
    _, seen = played(5, num_envs, 43, capacity=(6 + spare) * num_envs)
    pairs: Counter[tuple[float, ...]] = Counter()
    for steps in seen:
        t = steps.transitions()
        pairs.update(map(tuple, torch.cat([t.obs, t.next_obs], -1).flatten(0, 1).tolist()))
    expected = [(float(now), float(env), now + 1.0, float(env)) for now in range(40) for env in range(num_envs)]
    assert pairs == Counter(expected)


def test_actions_replaced_by_the_environment_are_marked_as_not_chosen() -> None:
    """The policy chooses 4; the second environment acts in its place at the third step. A resume lies between."""
    algo: Any = OnPolicy(SPEC, Student, 4, 0.0)
    replay = Replay(SPEC, 100, 2, seed=0)
    replay.add(row(2, 0))
    for now in range(1, 9):
        if now in (3, 4):
            resumed: Any = OnPolicy(SPEC, lambda spec, policy=algo.policy: policy, 4, 0.0)
            resumed.set_extra_state(algo.get_extra_state())
            algo = resumed
        action = algo.act(row(2, now - 1), None, explore=True)[0]
        algo.act(row(2, now - 1), None, explore=False)
        replay.add(row(2, now)._replace(action=torch.tensor([4, 0]) if now == 3 else action))
        algo.learn(replay, 2 * now - 2, 2 * now)
    assert algo.policy.chosen == [[[True, True], [True, True], [True, False], [True, True]], [[True, True]] * 4]


def test_on_policy_acts_by_the_policy_from_the_first_step() -> None:
    algo = OnPolicy(SPEC, Student, 5, 0.0)
    carry = object()
    assert algo.act(row(3, 0), carry, explore=True)[0].tolist() == [4, 4, 4]
    action, same = algo.act(row(3, 0), carry, explore=False)
    assert action.tolist() == [3, 3, 3] and same is carry


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["algo.horizon=0"], "algo.horizon is 0; it must be a whole number from 1"),
        (["algo.horizon=2.5"], "algo.horizon is 2.5; it must be a whole number from 1"),
        (
            ["env.num=8", "replay.capacity=208", "algo.horizon=26"],
            "algo.horizon is 26; with env.num=8 and replay.capacity=208 it must be at most 25",
        ),
        (["steps=200", "env.num=4", "algo.horizon=51"], "algo.horizon is 51; with env.num=4 and steps=200 it must be"),
    ],
)
def test_refusals(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(compose_config(["algo=ppo", "preset=none", *settings]))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("settings", [["replay.capacity=208", "algo.horizon=25"], ["steps=208", "algo.horizon=26"]])
def test_the_longest_horizon_is_allowed(settings: list[str]) -> None:
    check(compose_config(["algo=ppo", "preset=none", "env.num=8", *settings]))
