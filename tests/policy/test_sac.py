"""SAC's target, losses and log-probabilities against known answers, and toys whose soft optimum is known."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from soft_policies import make_soft
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from mbrl_lab import make_run
from mbrl_lab.nets.speed import compile_parts
from mbrl_lab.policy import SAC
from mbrl_lab.policy.sac import Categorical, SquashedGaussian
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step, Transition

DISCRETE = EnvSpec((2,), torch.float32, 3, True)
CONTINUOUS = EnvSpec((2,), torch.float32, 2, False)
BOTH = pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])


def sac(spec: EnvSpec, **changed: Any) -> SAC:
    return make_soft(SAC, spec, **changed)


def rows(spec: EnvSpec, batch: int = 8) -> Step:
    """[2, batch] of an unbroken episode."""
    no = torch.zeros(2, batch, dtype=torch.bool)
    action = torch.stack([spec.sample(batch), spec.sample(batch)])
    return Step(action, torch.randn(2, batch, *spec.obs_shape), torch.randn(2, batch), no, no)


def transition(steps: Step) -> Transition:
    return Transition(*(x.flatten(0, 1) for x in steps.transitions()))


def set_outputs(policy: SAC, logits: list[float], *critics: list[float]) -> None:
    """Give actor and critics of depth 0 the same outputs in every state."""
    for parameter in [*policy.actor.parameters(), *policy.target_critic.parameters(), *policy.critic.parameters()]:
        parameter.data.zero_()
    policy.actor[-1].bias.data.copy_(torch.tensor(logits))
    policy.target_critic.biases[-1].data.copy_(torch.tensor(critics)[:, None])
    policy.critic.biases[-1].data.copy_(torch.tensor(critics)[:, None])


def test_discrete_target_q_by_hand() -> None:
    policy = sac(DISCRETE, depth=0)
    p = [0.5, 0.3, 0.2]
    set_outputs(policy, [math.log(x) for x in p], [1.0, 5.0, 3.0], [2.0, 4.0, 6.0])  # the least: 1, 4, 3
    value = 0.5 * 1 + 0.3 * 4 + 0.2 * 3 - 0.5 * sum(x * math.log(x) for x in p)
    t = transition(rows(DISCRETE, 3))
    terminal, reward = torch.tensor([False, True, False]), torch.tensor([1.0, 2.0, -3.0])
    got = policy.target_q(t._replace(terminal=terminal, reward=reward), torch.tensor(0.5))
    torch.testing.assert_close(got, torch.tensor([1 + 0.9 * value, 2.0, -3 + 0.9 * value]))


def test_importance_weighs_the_critic_loss_and_td_errors_are_returned() -> None:
    """Critics that say 1 and 3 of rewards 0, 4 and one beyond an episode's end; squares 1 and 9, 9 and 1."""
    policy = sac(DISCRETE, depth=0, gamma=0.0)
    set_outputs(policy, [0.0, 0.0, 0.0], [1.0] * 3, [3.0] * 3)
    steps = rows(DISCRETE, 3)
    first = torch.tensor([[False] * 3, [False, False, True]])
    steps = steps._replace(reward=torch.tensor([[9.0] * 3, [0.0, 4.0, 7.0]]), first=first)
    metrics, error = policy.update_weighted(steps, torch.tensor([1.0, 0.5, 1.0]))
    assert error.tolist() == [2.0, 2.0, 0.0]
    assert metrics["policy/critic_loss"] == pytest.approx(((1 + 0.5 * 9) / 2 + (9 + 0.5 * 1) / 2) / 2)


def test_continuous_target_q_by_hand() -> None:
    policy = sac(CONTINUOUS, depth=0)
    set_outputs(policy, [0.3, -0.2, math.log(0.5), math.log(2.0)], [7.0], [4.0])
    t = transition(rows(CONTINUOUS, 2))._replace(terminal=torch.tensor([False, True]), reward=torch.tensor([1.0, 2.0]))
    torch.manual_seed(3)
    u = torch.tensor([0.3, -0.2]) + torch.tensor([0.5, 2.0]) * torch.randn(2, 2)
    logp = reference([0.3, -0.2], [0.5, 2.0]).log_prob(u.tanh())
    torch.manual_seed(3)
    got = policy.target_q(t, torch.tensor(0.5))
    torch.testing.assert_close(got, torch.stack([1 + 0.9 * (4 - 0.5 * logp[0]), torch.tensor(2.0)]))


def reference(mean: list[float], std: list[float]) -> TransformedDistribution:
    return TransformedDistribution(Independent(Normal(torch.tensor(mean), torch.tensor(std)), 1), [TanhTransform()])


def test_log_prob_equals_torch_distributions() -> None:
    actor, out = SquashedGaussian(2), torch.tensor([[0.4, -0.7, math.log(0.3), math.log(0.8)]]).expand(500, 4)
    drawn = actor.sample(out)
    assert drawn.action is not None and drawn.action.shape == (500, 2) and drawn.log_prob.shape == (500, 1)
    expected = reference([0.4, -0.7], [0.3, 0.8]).log_prob(drawn.action)
    torch.testing.assert_close(drawn.log_prob[:, 0], expected, atol=1e-3, rtol=1e-3)


def test_log_prob_is_exact_where_tanh_rounds_to_one() -> None:
    """At |u| = 30 the density of tanh u is N(u) cosh(u)^2, so log p = log N(u) + 2 |u| - 2 log 2, to the last digit."""
    out = torch.tensor([[30.0, math.log(1e-3)], [-30.0, math.log(1e-3)]]).requires_grad_()
    torch.manual_seed(1)
    noise = torch.randn(2, 1)
    torch.manual_seed(1)
    drawn = SquashedGaussian(1).sample(out)
    normal = -0.5 * noise.square() - math.log(1e-3) - 0.5 * math.log(2 * math.pi)
    size = (torch.tensor([[30.0], [-30.0]]) + 1e-3 * noise).abs()
    torch.testing.assert_close(drawn.log_prob, normal + 2 * size - 2 * math.log(2))
    drawn.log_prob.sum().backward()
    assert out.grad is not None and out.grad.isfinite().all()
    torch.testing.assert_close(out.grad[:, 0], torch.tensor([2.0, -2.0]))


def test_density_integrates_to_one() -> None:
    """The mean of 1 / p over draws is the length of the interval that they reach, here all of (-1, 1)."""
    drawn = SquashedGaussian(1).sample(torch.zeros(200_000, 2))
    assert drawn.log_prob.neg().exp().mean().item() == pytest.approx(2, rel=0.02)


@BOTH
def test_act_explores_or_is_greedy(spec: EnvSpec) -> None:
    policy, obs = sac(spec), torch.randn(1, 2).expand(4000, 2)
    greedy, drawn = policy.act(obs, explore=False), policy.act(obs, explore=True)
    torch.testing.assert_close(greedy, greedy[:1].expand_as(greedy))
    assert not torch.allclose(drawn, drawn[:1])
    out = policy.actor(obs[:1])
    if spec.discrete:
        assert greedy[0] == out.argmax() and greedy.dtype == torch.int64
        torch.testing.assert_close(drawn.bincount(minlength=3) / 4000, out[0].softmax(-1), atol=0.03, rtol=0)
    else:
        torch.testing.assert_close(greedy[0], out[0, :2].tanh())
        assert drawn.dtype == torch.float32 and drawn.abs().max() <= 1
        torch.testing.assert_close(drawn.atanh().std(0), out[0, 2:].exp(), atol=0, rtol=0.05)


def brute_force_gradient(policy: SAC, obs: Tensor, alpha: float) -> list[Tensor]:
    """The policy gradient, action by action: mean of sum_a p(a) (alpha log p(a) - min Q(a)) grad log p(a)."""
    gradient = [torch.zeros_like(p) for p in policy.actor.parameters()]
    for s in obs:
        q = torch.stack([policy.critic(s.expand(2, 1, 2))[k, 0] for k in range(2)]).amin(0).detach()
        for a in range(3):
            logp = policy.actor(s).log_softmax(-1)[a]
            each = torch.autograd.grad(logp, list(policy.actor.parameters()))
            weight = (logp.exp() * (alpha * logp - q[a])).detach() / len(obs)
            gradient = [g + weight * e for g, e in zip(gradient, each, strict=True)]
    return gradient


def test_discrete_actor_gradient_is_the_policy_gradient() -> None:
    policy, steps = sac(DISCRETE, critic_lr=1e-12), rows(DISCRETE)
    expected = brute_force_gradient(policy, steps.obs[0], alpha=0.5)
    policy.update(steps)
    torch.testing.assert_close([p.grad for p in policy.actor.parameters()], expected, atol=1e-5, rtol=1e-4)


@BOTH
def test_critics_get_gradients_of_the_critic_loss_only(spec: EnvSpec) -> None:
    policy, steps = sac(spec), rows(spec)
    alone, t = copy.deepcopy(policy), transition(steps)
    torch.manual_seed(1)
    target = alone.target_q(t, torch.tensor(0.5))
    q = alone.dist.q_of(alone.q_values(alone.critic, t.obs, t.action), t.action)
    (q - target).square().mean(1).sum().backward()
    torch.manual_seed(1)
    policy.update(steps)
    expected = [p.grad for p in alone.critic.parameters()]
    torch.testing.assert_close([p.grad for p in policy.critic.parameters()], expected)
    assert all(p.grad is None for p in alone.actor.parameters()), "nor does the actor learn from it"
    assert all(p.grad is None for p in policy.target_critic.parameters())


@BOTH
def test_target_networks_move_by_tau(spec: EnvSpec) -> None:
    policy = sac(spec)
    before = [p.clone() for p in policy.target_critic.parameters()]
    policy.update(rows(spec))
    for old, new, source in zip(before, policy.target_critic.parameters(), policy.critic.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * source)
        assert not torch.equal(old, source)


@BOTH
@pytest.mark.parametrize(
    ("target", "falls"), [(-50.0, True), (50.0, False)], ids=["entropy above target", "entropy below target"]
)
def test_alpha_falls_while_entropy_is_above_its_target(spec: EnvSpec, target: float, falls: bool) -> None:
    policy = sac(spec, target_entropy=target)
    entropy = policy.update(rows(spec))["policy/entropy"]
    torch.testing.assert_close(policy.log_alpha.grad, entropy - target)
    assert (policy.log_alpha < math.log(0.5)) == falls


def test_default_target_entropy() -> None:
    assert sac(CONTINUOUS).target_entropy == -2
    assert sac(DISCRETE, entropy_fraction=0.5).target_entropy == pytest.approx(0.5 * math.log(3))
    assert sac(DISCRETE, target_entropy=-1.5).target_entropy == -1.5


def test_alpha_is_fixed_at_a_learning_rate_of_zero() -> None:
    policy = sac(DISCRETE, alpha_lr=0.0)
    policy.update(rows(DISCRETE))
    assert policy.log_alpha.exp().item() == pytest.approx(0.5)


def test_logged_entropy_by_hand() -> None:
    logp = torch.tensor([[0.5, 0.3, 0.2]]).log()
    pi = Categorical(3, 1.0).sample(logp)
    assert pi.expectation(-pi.log_prob).item() == pytest.approx(1.0297, abs=1e-4)


@BOTH
def test_transitions_across_an_episode_boundary_are_masked(spec: EnvSpec) -> None:
    steps = rows(spec)
    first = torch.zeros(2, 8, dtype=torch.bool)
    first[1, 5:] = True
    broken = steps._replace(first=first)
    other = broken._replace(reward=torch.where(first, 1e3, steps.reward), terminal=first)
    policy, twin = sac(spec), sac(spec)
    twin.load_state_dict(policy.state_dict())
    metrics = []
    for learner, seen in ((policy, broken), (twin, other)):
        torch.manual_seed(1)
        metrics.append(learner.update(seen))
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), twin.parameters(), strict=True))
    assert metrics[0] == metrics[1]
    q = policy.dist.q_of(policy.q_values(policy.critic, steps.obs[0], steps.action[1]), steps.action[1])
    assert q.shape == (2, 8)


def test_a_batch_without_a_valid_transition_changes_no_critic() -> None:
    policy, steps = sac(DISCRETE), rows(DISCRETE)
    before = [p.clone() for p in policy.critic.parameters()]
    metrics = policy.update(steps._replace(first=torch.ones_like(steps.first)))
    assert all(torch.equal(a, b) for a, b in zip(before, policy.critic.parameters(), strict=True))
    assert all(x.isfinite() for x in metrics.values() if isinstance(x, Tensor))


def test_target_subset_of_critics_as_in_redq() -> None:
    """REDQ: the target is the least of some; over many draws each pair of 3, 4, 5 comes up. The actor sees the mean."""
    policy = sac(DISCRETE, depth=0, number=3, target_subset=2, gamma=1.0)
    set_outputs(policy, [0.0] * 3, [3.0] * 3, [4.0] * 3, [5.0] * 3)
    t, no = transition(rows(DISCRETE, 1))._replace(reward=torch.zeros(1)), torch.zeros(())
    drawn = {round(policy.target_q(t, no).item(), 4) for _ in range(50)}
    assert drawn == {3.0, 4.0}
    one = torch.ones(1)
    assert policy.actor_loss(t.obs, one)[1]["policy/actor_loss"] == pytest.approx(-4 - math.log(3) * 0.5)

    policy.critics = replace(policy.critics, target_subset=None)
    assert policy.actor_loss(t.obs, one)[1]["policy/actor_loss"] == pytest.approx(-3 - math.log(3) * 0.5)
    assert policy.target_q(t, no).item() == pytest.approx(3)


@BOTH
def test_droq_has_dropout_in_the_target_too(spec: EnvSpec) -> None:
    policy, steps = sac(spec, norm=True, dropout=0.2, actor_lr=1e-12), rows(spec)
    assert {k for k, _ in policy.critic.named_parameters()} >= {"gains.0", "shifts.1"}
    for _ in range(3):
        metrics = policy.update(steps)
    assert all(x.isfinite() for x in metrics.values() if isinstance(x, Tensor))
    if spec.discrete:
        t = transition(steps)
        assert not torch.equal(policy.target_q(t, torch.tensor(0.5)), policy.target_q(t, torch.tensor(0.5)))


def test_bf16_losses_are_float32() -> None:
    policy = sac(CONTINUOUS)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = policy.update(rows(CONTINUOUS))
        assert policy.act(torch.randn(3, 2), explore=True).dtype == torch.float32
    assert {x.dtype for x in metrics.values() if isinstance(x, Tensor)} == {torch.float32}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"target_subset": 3},
            "policy.critic.target_subset is 3; it must be null or a whole number from 1 to policy.critic.number, 2",
        ),
        ({"target_subset": 0}, "policy.critic.target_subset is 0;"),
        ({"target_subset": "few"}, "policy.critic.target_subset is 'few';"),
        (
            {"target_entropy": "much"},
            "policy.temperature.target_entropy is 'much'; it must be null or a number of nats",
        ),
        ({"target_entropy": math.nan}, "policy.temperature.target_entropy is nan;"),
    ],
)
def test_invalid_settings_are_rejected(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        sac(DISCRETE, **wrong)
    assert str(caught.value).startswith(said)


def learn(policy: SAC, replay: Replay, updates: int) -> dict[str, Any]:
    for _ in range(updates):
        metrics = policy.update(replay.sample(64, policy.window))
    return metrics


def walk(replay: Replay, lengths: list[int], terminal: bool) -> None:
    """Episodes of one action in a line of states that pay 1 a step; each ends terminally or by a time limit."""
    for length in lengths:
        for time in range(length + 1):
            over = torch.tensor([terminal and time == length])
            pay = torch.tensor([float(time > 0)])
            here = torch.tensor([[float(time if terminal else 1)]])
            replay.add(Step(torch.zeros(1, dtype=torch.int64), here, pay, over, torch.tensor([time == 0])))


LINE = EnvSpec((1,), torch.float32, 1, True)


def test_a_time_limit_bootstraps() -> None:
    """A state that pays 1 for ever is worth 1 / (1 - 0.8) = 5, though every episode is stopped after three steps."""
    policy, replay = sac(LINE, gamma=0.8, tau=0.1), Replay(LINE, 1000, 1, seed=0)
    walk(replay, [3] * 100, terminal=False)
    learn(policy, replay, 200)
    assert policy.q_values(policy.critic, torch.ones(1, 1), None).flatten().tolist() == pytest.approx(
        [5.0] * 2, abs=0.25
    )


def test_a_terminal_state_does_not_bootstrap() -> None:
    """Three steps that pay 1 are worth 1 + 0.8 + 0.64 from the first, 1.8 from the second and 1 from the third."""
    policy, replay = sac(LINE, gamma=0.8, tau=0.1), Replay(LINE, 1000, 1, seed=0)
    walk(replay, [3] * 100, terminal=True)
    learn(policy, replay, 200)
    q = policy.q_values(policy.critic, torch.tensor([[0.0], [1.0], [2.0]]), None)[..., 0]
    torch.testing.assert_close(q, torch.tensor([[2.44, 1.8, 1.0]] * 2), atol=0.15, rtol=0)


def pulls(spec: EnvSpec, payoff: Any) -> Replay:
    """A bandit: episodes of one step, in one state, that end terminally."""
    replay, one = Replay(spec, 2000, 1, seed=0), torch.ones(1)
    for _ in range(1000):
        action = spec.sample(1)
        replay.add(Step(spec.zero_action(1), one[None], 0 * one, one < 0, one > 0))
        replay.add(Step(action, one[None], payoff(action), one > 0, one < 0))
    return replay


def test_discrete_bandit_optimum_is_the_softmax_of_its_payoffs() -> None:
    spec, pays = EnvSpec((1,), torch.float32, 3, True), torch.tensor([1.0, 0.5, 0.0])
    policy = sac(spec, alpha_lr=0.0, tau=0.5)
    learn(policy, pulls(spec, lambda a: pays[a]), 300)
    torch.testing.assert_close(policy.actor(torch.ones(1)).softmax(-1), (pays / 0.5).softmax(-1), atol=0.02, rtol=0)


def test_entropy_of_a_bandit_converges_to_its_target() -> None:
    spec, pays = EnvSpec((1,), torch.float32, 3, True), torch.tensor([1.0, 0.5, 0.0])
    metrics = learn(sac(spec, entropy_fraction=0.6, tau=0.5), pulls(spec, lambda a: pays[a]), 500)
    assert metrics["policy/entropy"].item() == pytest.approx(0.6 * math.log(3), abs=0.03)


def test_continuous_bandit_optimum_has_the_right_mean_and_std() -> None:
    """Payoff -2 (a - 0.4)^2 and alpha 0.05: the best density is a Gaussian about 0.4 of variance 0.05 / 4."""
    spec = EnvSpec((1,), torch.float32, 1, False)
    policy = sac(spec, width=32, alpha_lr=0.0, alpha=0.05, tau=0.5, actor_lr=3e-3, critic_lr=3e-3)
    learn(policy, pulls(spec, lambda a: -2 * (a[:, 0] - 0.4).square()), 700)
    drawn = policy.act(torch.ones(5000, 1), explore=True)
    assert drawn.mean().item() == pytest.approx(0.4, abs=0.15)  # ten seeds: 0.31 to 0.44, and 0.098 to 0.121
    assert drawn.std().item() == pytest.approx(0.112, abs=0.03)


POINT = ["env.make._target_=counting.Point", "~env.make.id", "preset=none", "video.final=0", "policy.width=32"]
QUICK = [
    "algo.warmup=100",
    "algo.update.batch=64",
    *(f"policy.optim.{name}_lr=3e-3" for name in ("actor", "critic", "alpha")),
]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_learns_to_reach_a_point(seed: int, tmp_path: Path) -> None:
    """Going straight there costs about 1, acting at random about 8."""
    settings = {"steps": 700, "seed": seed, "eval.every": 0, "eval.final_episodes": 10}
    runner = make_run("sac", "pendulum", *POINT, *QUICK, "policy.gamma=0.9", folder=tmp_path, **settings)
    runner.run()
    runner.envs.close()
    assert json.loads(runner.folder.metrics.read_text().splitlines()[-1])["final/return"] > -2.2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_pendulum(seed: int, tmp_path: Path) -> None:
    runner = make_run("sac", "pendulum", "video.final=0", "eval.every=0", folder=tmp_path, steps=6000, seed=seed)
    runner.run()
    runner.envs.close()
    returns = [e.ret for e in runner.evaluate(20)]
    assert sum(returns) / 20 > -250


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning:torch")  # torch's compiler imports its predecessor
@BOTH
def test_compiled_update_equals_eager(spec: EnvSpec) -> None:
    eager, steps = sac(spec), rows(spec)
    compiled = copy.deepcopy(eager)
    compile_parts(compiled)
    for seed in range(3):
        torch.manual_seed(seed)
        ours = eager.update(steps)
        torch.manual_seed(seed)
        theirs = compiled.update(steps)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in ours)


def test_a_value_is_q_of_the_action_of_evaluations_as_the_actor_reads_it() -> None:
    """The least of all critics, and with a subset of them in the target their mean (REDQ)."""
    redq = sac(DISCRETE, target_subset=1)
    set_outputs(redq, [0.0, 2.0, 1.0], [1.0, 5.0, 9.0], [2.0, 3.0, 9.0])
    assert redq.value(torch.randn(4, 2)).tolist() == [4.0] * 4

    discrete = sac(DISCRETE)
    set_outputs(discrete, [0.0, 2.0, 1.0], [1.0, 5.0, 9.0], [2.0, 3.0, 9.0])
    assert discrete.value(torch.randn(4, 2)).tolist() == [3.0] * 4

    continuous, obs = sac(CONTINUOUS), torch.randn(5, 2)
    x = torch.cat([obs, continuous.act(obs, False)], -1)
    expected = continuous.critic(x.expand(2, -1, -1)).squeeze(-1).amin(0)
    torch.testing.assert_close(continuous.value(obs), expected)


@BOTH
def test_inputs_are_standardised_by_the_moments_it_was_given(spec: EnvSpec) -> None:
    torch.manual_seed(0)
    raw, scaled = sac(spec), sac(spec, normalise_obs=True)
    scaled.load_state_dict(raw.state_dict(), strict=False)
    obs = 5 + 3 * torch.randn(200, 2)
    scaled.fit_normaliser(obs)
    standardised = (obs - obs.mean(0)) / obs.std(0, correction=0)
    torch.testing.assert_close(scaled.act(obs, False), raw.act(standardised, False))

    t = transition(rows(spec))
    inner = t._replace(obs=(t.obs - obs.mean(0)) / obs.std(0, correction=0))
    inner = inner._replace(next_obs=(t.next_obs - obs.mean(0)) / obs.std(0, correction=0))
    targets = []
    for policy, of in ((scaled, t), (raw, inner)):
        torch.manual_seed(1)
        targets.append(policy.target_q(of, torch.tensor(0.5)))
    torch.testing.assert_close(*targets)
