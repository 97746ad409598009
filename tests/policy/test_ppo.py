"""PPO's targets, losses and gradients against known answers, and toys whose values and optima are known."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counting import Counting, Point
from torch import Tensor

from mbrl_lab import make_run
from mbrl_lab.algo import OnPolicy
from mbrl_lab.env import Envs
from mbrl_lab.nets.encoder import Vector
from mbrl_lab.policy import PPO
from mbrl_lab.policy.ppo import (
    Batch,
    MinibatchOptim,
    Normalise,
    Objective,
    explained_variance,
    standardised,
    surrogate_loss,
    value_loss,
)
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

DISCRETE = EnvSpec((2,), torch.float32, 3, True)
CONTINUOUS = EnvSpec((2,), torch.float32, 2, False)
LINE = EnvSpec((1,), torch.float32, 1, True)
BOTH = pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


def ppo(spec: EnvSpec, **changed: Any) -> PPO:
    """Small; `changed`: settings of PPO or of one of its groups, those of `Normalise` as `normalise_...`."""
    settings: dict[str, Any] = {
        "encoder": Vector,
        "width": 16,
        "depth": 1,
        "std": 0.8,
        "gamma": 0.9,
        "gae_lambda": 0.8,
        "normalise": Normalise(*(changed.pop(f"normalise_{name}", False) for name in ("advantage", "obs", "reward"))),
    }
    groups: dict[str, tuple[type, dict[str, Any]]] = {
        "objective": (Objective, {"ratio_clip": 0.2, "value_clip": 0.0, "value_coef": 0.5, "entropy_coef": 0.0}),
        "optim": (
            MinibatchOptim,
            {"lr": 1e-2, "anneal_updates": 0, "clip": 0.0, "epochs": 1, "minibatches": 1},
        ),
    }
    for name, (kind, default) in groups.items():
        settings[name] = kind(**{key: changed.pop(key, value) for key, value in default.items()})
    return PPO(spec, **settings | changed)


def played(policy: PPO, spec: EnvSpec, time: int = 6, batch: int = 8) -> Step:
    """[time + 1, batch] of an unbroken episode in which the policy acted on noise."""
    no = torch.zeros(time + 1, batch, dtype=torch.bool)
    obs = torch.randn(time + 1, batch, *spec.obs_shape)
    action = torch.stack([spec.zero_action(batch), *(policy.act(x, explore=True) for x in obs[:-1])])
    return Step(action, obs, torch.randn(time + 1, batch), no, no)


def test_gae_by_hand() -> None:
    """Three episodes in one window: the first ends in a terminal row, the second at a time limit, the third goes on."""
    policy = ppo(LINE, depth=0, gamma=0.5, gae_lambda=0.5)
    policy.critic[0].weight.data.fill_(1.0)  # the value is the observation
    rewards = torch.tensor([0.0, 10, 20, 0, 30, 40, 0, 50])
    steps = Step(
        action=torch.zeros(8, 1, dtype=torch.int64),
        obs=torch.arange(1.0, 9.0).view(8, 1, 1),
        reward=rewards.view(8, 1),
        terminal=torch.tensor([[i == 2] for i in range(8)]),
        first=torch.tensor([[i in (0, 3, 6)] for i in range(8)]),
    )
    batch = policy.targets(steps, torch.ones(7, 1, dtype=torch.bool))
    assert batch.valid.tolist() == [True, True, False, True, True, False, True]
    one_step = [10 + 0.5 * 2 - 1, 20 - 2, 0, 30 + 0.5 * 5 - 4, 40 + 0.5 * 6 - 5, 0, 50 + 0.5 * 8 - 7]
    by_hand = [one_step[0] + 0.25 * 18, 18, 0, one_step[3] + 0.25 * 38, 38, 0, 47]
    assert by_hand == [14.5, 18, 0, 38, 38, 0, 47]
    assert batch.advantage.tolist() == by_hand
    assert batch.returns[batch.valid].tolist() == [15.5, 20, 42, 43, 54]


def test_the_clipped_objective_by_hand() -> None:
    """Moving on in the good direction beyond the clip gains nothing; moving back from the wrong side does."""
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1]).requires_grad_()
    advantage = torch.tensor([2.0, 2.0, -2.0, -2.0, 2.0])
    loss = surrogate_loss(ratio, advantage, 0.2)
    torch.testing.assert_close(loss, torch.tensor([-2.4, -1.0, 3.0, 1.6, -2.2]))
    loss.sum().backward()
    assert ratio.grad is not None and ratio.grad.tolist() == [0, -2, 2, 0, -2]


def test_the_clipped_value_loss_by_hand() -> None:
    value, old = torch.tensor([3.0, 3.0, 1.2]).requires_grad_(), torch.ones(3)
    returns = torch.tensor([5.0, 0.0, 2.0])
    loss = value_loss(value, old, returns, 0.5)  # held at 1.5, at 1.5, not held
    torch.testing.assert_close(loss, torch.tensor([12.25, 9.0, 0.64]))
    loss.sum().backward()
    assert value.grad is not None
    torch.testing.assert_close(value.grad, torch.tensor([0.0, 6.0, -1.6]))
    torch.testing.assert_close(value_loss(value, old, returns, 0.0), (value - returns).square())


def test_standardised_by_hand() -> None:
    got = standardised(torch.tensor([1.0, 50.0, 3.0, 5.0]), torch.tensor([True, False, True, True]))
    torch.testing.assert_close(got[[0, 2, 3]], torch.tensor([-1.5, 0.0, 1.5]) / 1.5 * math.sqrt(1.5))
    assert standardised(torch.tensor([7.0, 1.0]), torch.tensor([True, False]))[0] == 0


@pytest.mark.parametrize(
    ("value", "returns", "expected"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 1.0),
        ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0.0),
        ([3.0, 2.0, 1.0], [1.0, 2.0, 3.0], -3.0),
        ([3.0, 2.0, 1.0], [2.0, 2.0, 2.0], 0.0),
    ],
    ids=["all", "nothing", "worse than nothing", "nothing to explain"],
)
def test_explained_variance(value: list[float], returns: list[float], expected: float) -> None:
    v, r = torch.tensor([*value, 9.0]), torch.tensor([*returns, -40.0])
    valid = torch.tensor([True, True, True, False])
    batch = Batch(obs=v, action=v, valid=valid, chosen=valid, log_prob=v, value=v, advantage=r - v, returns=r)
    assert explained_variance(batch).item() == pytest.approx(expected)


@BOTH
def test_the_first_gradient_is_the_policy_gradient(spec: EnvSpec) -> None:
    """Where the policy has not moved the ratio is 1 and nothing is clipped; row by row, and summed."""
    policy = ppo(spec, entropy_coef=0.3, value_coef=0.7, lr=1e-12)
    steps = played(policy, spec)
    batch, alone = policy.targets(steps, torch.ones(6, 8, dtype=torch.bool)), copy.deepcopy(policy)
    expected = [torch.zeros_like(p) for p in alone.parameters()]
    for obs, action, advantage, returns in zip(batch.obs, batch.action, batch.advantage, batch.returns, strict=True):
        distribution = alone.actor(obs[None])
        gain = advantage * distribution.log_prob(action[None]) + 0.3 * distribution.entropy()
        loss = (0.7 * (alone.v(obs[None]) - returns).square() - gain).sum() / len(batch.obs)
        for total, part in zip(expected, torch.autograd.grad(loss, list(alone.parameters())), strict=True):
            total += part
    policy.update(steps)
    torch.testing.assert_close([p.grad for p in policy.parameters()], expected, atol=1e-5, rtol=1e-4)


@BOTH
def test_ratio_is_one_before_the_first_step(spec: EnvSpec) -> None:
    policy = ppo(spec, std=3.0)
    steps = played(policy, spec)
    if not spec.discrete:
        assert (steps.action.abs() == 1).float().mean() > 0.4, "most were clipped"
    metrics = policy.update(steps)
    assert metrics["policy/kl"] == 0 and metrics["policy/clip_fraction"] == 0
    moved = policy.update(steps._replace(reward=steps.reward * 10))
    assert moved["policy/kl"] == 0, "nor does an earlier update show: probabilities are computed again"


@BOTH
def test_the_clip_limits_later_epochs(spec: EnvSpec) -> None:
    policy, still = ppo(spec, epochs=20, lr=0.05), ppo(spec, epochs=20, lr=0.05, ratio_clip=1e9)
    still.load_state_dict(policy.state_dict())
    steps = played(policy, spec)
    held, free = policy.update(steps), still.update(steps)
    assert held["policy/clip_fraction"] > 0.1 and free["policy/clip_fraction"] == 0
    assert float(held["policy/kl"]) < float(free["policy/kl"])


def loop(policy: PPO, envs: Envs, horizon: int, rounds: int) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities [num] as the policy acted, and as each of its updates found them."""
    algo, replay = OnPolicy(envs.spec, lambda spec: policy, horizon, 0.0), Replay(envs.spec, 4000, envs.num, 0)
    found: list[Tensor] = []
    targets = policy.targets

    def listen(steps: Step, chosen: Tensor) -> Batch:
        batch = targets(steps, chosen)
        found.extend(torch.where(batch.valid, batch.log_prob, 0).view(horizon, envs.num))
        return batch

    policy.targets = listen  # type: ignore[method-assign]
    row, acted = envs.reset(), []
    replay.add(row)
    for count in range(rounds):
        action, _ = algo.act(row, None, explore=True)
        with torch.no_grad():
            logp = policy.actor(policy.features(row.obs)).log_prob(action)
        row = envs.step(action)
        replay.add(row)
        acted.append(torch.where(row.first, 0, logp))
        algo.learn(replay, count * envs.num, (count + 1) * envs.num)
    return acted, found


@pytest.mark.parametrize("env", [Counting, Point])
@pytest.mark.parametrize("normalise", [False, True])
def test_update_recomputes_the_log_probabilities_of_acting(env: Callable[[], Any], normalise: bool) -> None:
    """Through environments and replay, over updates in which weights and running statistics move."""
    envs = Envs(env, 3, seed=1)
    policy = ppo(
        envs.spec, std=2.0, epochs=4, minibatches=2, normalise_obs=normalise, normalise_reward=normalise, clip=0.5
    )
    acted, found = loop(policy, envs, horizon=20, rounds=100)
    torch.testing.assert_close(torch.stack(acted), torch.stack(found), atol=1e-5, rtol=1e-5)
    if policy.standardise is not None:
        count = policy.standardise.moments.count
        assert count == (torch.stack(acted) != 0).sum(), "every observation that was acted on, once"


@BOTH
def test_transitions_across_an_episode_boundary_are_masked(spec: EnvSpec) -> None:
    options = {"epochs": 3, "minibatches": 2, "normalise_advantage": True, "entropy_coef": 0.1}
    policy = ppo(spec, normalise_obs=True, normalise_reward=True, **options)
    steps, twin = played(policy, spec), copy.deepcopy(policy)
    first = torch.rand(steps.first.shape) < 0.3
    other = steps._replace(
        reward=torch.where(first, 1e3, steps.reward),
        terminal=first,
        action=torch.where(first.view(*first.shape, *[1] * (steps.action.ndim - 2)), 0, steps.action),
    )
    metrics = []
    for learner, seen in ((policy, steps), (twin, other)):
        torch.manual_seed(1)
        metrics.append(learner.update(seen._replace(first=first)))
    assert metrics[0] == metrics[1]
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), twin.parameters(), strict=True))


@pytest.mark.parametrize(("standardised", "factor"), [(False, 10.0), (True, 1.0)])
def test_standardised_advantages_make_the_step_independent_of_the_size_of_rewards(
    standardised: bool, factor: float
) -> None:
    gradients = []
    for size in (1.0, 10.0):
        torch.manual_seed(0)
        policy = ppo(DISCRETE, normalise_advantage=standardised)
        for p in policy.critic.parameters():
            p.data.zero_()  # values of 0: advantages are sums of rewards
        steps = played(policy, DISCRETE)
        policy.update(steps._replace(reward=size * steps.reward))
        gradients.append(torch.cat([p.grad.flatten() for p in policy.actor.parameters() if p.grad is not None]))
    assert gradients[0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], factor * gradients[0], rtol=1e-3, atol=1e-5)


@BOTH
def test_actions_of_the_environment_train_the_value_only(spec: EnvSpec) -> None:
    """What the environment did in the policy's place, such as FIRE, moves the critic and no parameter of the actor."""
    policy = ppo(spec, entropy_coef=0.1, normalise_advantage=True, epochs=2)
    steps, other, third = played(policy, spec), copy.deepcopy(policy), copy.deepcopy(policy)
    forced = torch.rand(6, 8) < 0.3
    changed = torch.where(forced.view(6, 8, *[1] * (steps.action.ndim - 2)), spec.zero_action(8), steps.action[1:])
    replaced = steps._replace(action=torch.cat([steps.action[:1], changed]))
    for learner, rows in ((policy, steps), (other, replaced)):
        torch.manual_seed(1)
        learner.update_on_policy(rows, ~forced)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))

    before = copy.deepcopy(third)
    third.update_on_policy(steps, torch.zeros_like(forced))
    assert all(torch.equal(a, b) for a, b in zip(third.actor.parameters(), before.actor.parameters(), strict=True))
    assert not torch.equal(third.critic[0].weight, before.critic[0].weight)


def test_an_update_without_a_valid_transition_changes_nothing() -> None:
    policy = ppo(DISCRETE, normalise_advantage=True, normalise_obs=True, normalise_reward=True, epochs=2)
    steps, before = played(policy, DISCRETE), copy.deepcopy(policy)
    metrics = policy.update(steps._replace(first=torch.ones_like(steps.first)))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), before.parameters(), strict=True))
    assert all(torch.as_tensor(x).isfinite() for x in metrics.values())


def test_more_minibatches_than_transitions_are_harmless() -> None:
    policy = ppo(DISCRETE, minibatches=30)
    metrics = policy.update(played(policy, DISCRETE, time=2, batch=4))
    assert all(torch.as_tensor(x).isfinite() for x in metrics.values())


def test_every_transition_is_in_one_minibatch_of_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, seen = ppo(DISCRETE, epochs=3, minibatches=5), []
    step = policy.minibatch_step
    monkeypatch.setattr(policy, "minibatch_step", lambda b: (seen.append(b.obs), step(b))[1])
    steps = played(policy, DISCRETE)
    policy.update(steps)
    assert [len(x) for x in seen] == [10, 10, 10, 9, 9] * 3
    for epoch in range(3):
        rows = torch.cat(seen[5 * epoch : 5 * epoch + 5]).tolist()
        assert sorted(rows) == sorted(steps.obs[:-1].flatten(0, 1).tolist())


def test_learning_rate_is_annealed_to_zero() -> None:
    policy = ppo(DISCRETE, lr=0.1, anneal_updates=4)
    rates = []
    for _ in range(6):
        policy.update(played(policy, DISCRETE))
        rates.append(policy.opt.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0, 0])
    assert policy.updates == 6


def test_gradient_norm_is_clipped() -> None:
    policy, steps = ppo(DISCRETE, clip=0.01), played(ppo(DISCRETE), DISCRETE)
    reported = policy.update(steps)["policy/gradient_norm"]
    norm = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None]).norm()
    assert float(reported) > 0.05 and norm.item() == pytest.approx(0.01, rel=1e-3)


def test_act_explores_or_is_greedy() -> None:
    obs = torch.randn(1, 2).expand(4000, 2)
    for spec in (DISCRETE, CONTINUOUS):
        policy = ppo(spec)
        greedy, drawn = policy.act(obs, explore=False), policy.act(obs, explore=True)
        torch.testing.assert_close(greedy, greedy[:1].expand_as(greedy))
        assert not torch.allclose(drawn, drawn[:1])
        assert greedy.shape == drawn.shape == spec.sample(4000).shape and drawn.dtype == spec.sample(1).dtype
    assert drawn.abs().max() == 1


def test_initial_policies_are_near_uniform_and_near_zero() -> None:
    obs = torch.randn(100, 2)
    torch.testing.assert_close(ppo(DISCRETE).actor(obs).logp.exp(), torch.full((100, 3), 1 / 3), atol=0.02, rtol=0)
    assert ppo(CONTINUOUS).act(obs, explore=False).abs().max() < 0.05


@BOTH
def test_bf16_losses_are_float32(spec: EnvSpec) -> None:
    policy = ppo(spec, normalise_obs=True)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = policy.update(played(policy, spec))
    assert {torch.as_tensor(x).dtype for x in metrics.values()} == {torch.float32}


def test_normalise_obs_needs_vectors() -> None:
    with pytest.raises(ValueError, match=r"^policy\.normalise\.obs is True; it must be"):
        ppo(EnvSpec((4, 84, 84), torch.uint8, 3, True), normalise_obs=True)


def walks(lengths: list[int], terminal: bool) -> Step:
    """[T, 1]: episodes in a line of states that pay 1 a step; each ends terminally, or by a time limit."""
    times = [time for length in lengths for time in range(length + 1)]
    last = [time == length for length in lengths for time in range(length + 1)]
    here = [float(time if terminal else 1) for time in times]
    return Step(
        action=torch.zeros(len(times), 1, dtype=torch.int64),
        obs=torch.tensor(here).view(-1, 1, 1),
        reward=torch.tensor([float(time > 0) for time in times]).unsqueeze(-1),
        terminal=torch.tensor(last).unsqueeze(-1) & terminal,
        first=torch.tensor([time == 0 for time in times]).unsqueeze(-1),
    )


def values(policy: PPO, states: list[float]) -> list[float]:
    with torch.no_grad():
        return policy.v(torch.tensor(states).unsqueeze(-1)).tolist()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_a_time_limit_bootstraps(gae_lambda: float) -> None:
    """A state that pays 1 for ever is worth 1 / (1 - 0.8) = 5, though every episode is stopped after three steps."""
    policy = ppo(LINE, gamma=0.8, gae_lambda=gae_lambda, epochs=10)
    for _ in range(40):
        policy.update(walks([3] * 8, terminal=False))
    assert values(policy, [1.0]) == pytest.approx([5.0], abs=0.1)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.95])
def test_a_terminal_state_does_not_bootstrap(gae_lambda: float) -> None:
    """Three steps that pay 1 are worth 1 + 0.8 + 0.64 from the first, 1.8 from the second and 1 from the third."""
    policy = ppo(LINE, gamma=0.8, gae_lambda=gae_lambda, epochs=10)
    for _ in range(40):
        policy.update(walks([3] * 8, terminal=True))
    assert values(policy, [0.0, 1.0, 2.0]) == pytest.approx([2.44, 1.8, 1.0], abs=0.1)


def pull(policy: PPO, payoff: Callable[[Tensor], Tensor], rounds: int, batch: int = 64) -> None:
    """A bandit: the policy acts in one state, is paid, and the episode is over."""
    zero, no = torch.zeros(batch), torch.zeros(batch, dtype=torch.bool)
    state = torch.ones(batch, 1)
    for _ in range(rounds):
        action = policy.act(state, explore=True)
        steps = Step(
            torch.stack([torch.zeros_like(action), action]),
            torch.stack([state, state]),
            torch.stack([zero, payoff(action)]),
            torch.stack([no, ~no]),
            torch.stack([~no, no]),
        )
        policy.update(steps)


def test_finds_the_best_arm_of_a_bandit() -> None:
    spec = EnvSpec((1,), torch.float32, 3, True)
    policy = ppo(spec, epochs=4, normalise_advantage=True)
    pull(policy, lambda a: torch.tensor([0.0, 1.0, 0.5])[a], 60)
    assert policy.act(torch.ones(1, 1), explore=False).item() == 1
    assert policy.actor(torch.ones(1, 1)).logp.exp()[0, 1] > 0.9
    assert values(policy, [1.0]) == pytest.approx([1.0], abs=0.15)


@pytest.mark.parametrize(("best", "goes_to"), [(0.4, 0.4), (-0.9, -0.9), (3.0, 1.0)], ids=["inside", "near", "beyond"])
def test_finds_the_best_continuous_action_of_a_bandit(best: float, goes_to: float) -> None:
    """Wide noise, most of it clipped; an optimum beyond the bound is the bound."""
    policy = ppo(EnvSpec((1,), torch.float32, 1, False), std=1.0, epochs=4, normalise_advantage=True)
    pull(policy, lambda a: -(a[:, 0] - best).square(), 100)
    assert policy.act(torch.ones(1, 1), explore=False).item() == pytest.approx(goes_to, abs=0.1)


def test_entropy_bonus_gives_the_softmax_of_payoffs() -> None:
    """The best mixture of payoffs 1, 0, 0 at a price of 0.5 a nat is proportional to exp(payoff / 0.5)."""
    policy = ppo(EnvSpec((1,), torch.float32, 3, True), epochs=2, entropy_coef=0.5, lr=3e-3)
    pull(policy, lambda a: (a == 0).float(), 150, batch=256)
    best = math.exp(2) / (math.exp(2) + 2)
    assert policy.actor(torch.ones(1, 1)).logp.exp()[0, 0].item() == pytest.approx(best, abs=0.06)


POINT = ["env.make._target_=counting.Point", "~env.make.id", "preset=none", "video.final=0", "policy.width=32"]
QUICK = [
    "env.num=8",
    "algo.horizon=30",
    "policy.optim.minibatches=2",
    "policy.optim.lr=1e-2",
    "policy.gamma=0.9",
    "policy.std=0.5",
]


NORMALISED = ["policy.normalise.obs=true", "policy.normalise.reward=true"]


@pytest.mark.parametrize("options", [pytest.param([], marks=pytest.mark.slow), NORMALISED], ids=["raw", "normalised"])
def test_learns_to_reach_a_point(options: list[str], tmp_path: Path) -> None:
    """Going straight there costs about 1, acting at random about 8."""
    settings = {"steps": 4000, "eval.every": 0, "eval.final_episodes": 20}
    runner = make_run("ppo", "pendulum", *POINT, *QUICK, *options, folder=tmp_path, **settings)
    runner.run()
    runner.envs.close()
    assert json.loads(runner.folder.metrics.read_text().splitlines()[-1])["final/return"] > -2.2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_cartpole(seed: int, tmp_path: Path) -> None:
    settings = {"steps": 60_000, "seed": seed, "eval.every": 0, "eval.final_episodes": 20}
    runner = make_run("ppo", "cartpole", "video.final=0", folder=tmp_path, **settings)
    runner.run()
    runner.envs.close()
    returns = [e.ret for e in runner.evaluate(20)]
    assert sum(returns) / 20 > 475
