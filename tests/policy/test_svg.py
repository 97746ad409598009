"""SVG's gradients, targets and learning against known answers: finite differences, sums by hand, a linear system."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from soft_policies import make_soft
from torch import Tensor

from mbrl_lab.dynamics import Analytic
from mbrl_lab.policy import SVG
from mbrl_lab.policy.value_range import RATE, ValueRange
from mbrl_lab.types import EnvSpec

SPEC = EnvSpec((2,), torch.float32, 1, discrete=False)
A = torch.tensor([[1.0, 0.1], [-0.1, 0.9]])
B = torch.tensor([[0.0], [0.5]])
COST = torch.tensor([1.0, 0.3])
EFFORT = 0.2
STEP = 0.001
"""Of finite differences: small, as a step across the kink of a ReLU changes the slope."""


def linear(terminates: float = torch.inf) -> Analytic:
    """x' = A x + B u with a quadratic cost; episodes terminate where the first coordinate is above `terminates`."""
    return Analytic(
        SPEC,
        lambda x, u: x @ A.T + u @ B.T,
        lambda x, u, after: -(COST * after.square()).sum(-1) - EFFORT * u.square().sum(-1),
        lambda x, u, after: after[:, 0] > terminates,
    )


def svg(spec: EnvSpec = SPEC, **changed: Any) -> SVG:
    torch.manual_seed(0)
    own: dict[str, Any] = {"horizon": 3, "clip": 0.0, "number": 3, "target_subset": 2, "norm": True}
    return make_soft(SVG, spec, **own | {"alpha": 0.1, "alpha_lr": 0.0} | changed)


@pytest.mark.parametrize("horizon", [1, 3])
def test_the_actors_gradient_is_that_of_finite_differences(horizon: int) -> None:
    # With alpha = 1 the loss of log alpha is 0, whose value would change with the entropy.
    policy, model, states = svg(horizon=horizon, alpha=1.0), linear(), torch.randn(5, 2)
    weight = policy.actor[0].weight

    def loss() -> Tensor:
        torch.manual_seed(1)  # the same noise at every call
        return policy.value_gradient_loss(policy.imagine(model, states))[0]

    (gradient,) = torch.autograd.grad(loss(), [weight])
    i, j = divmod(int(gradient.abs().argmax()), 2)
    with torch.no_grad():
        weight[i, j] += STEP
        above = loss()
        weight[i, j] -= 2 * STEP
        below = loss()
    assert gradient[i, j].item() == pytest.approx((above - below).item() / (2 * STEP), rel=0.02)


def test_the_norm_of_the_actors_gradient_is_bounded_that_of_the_critics_is_not() -> None:
    def norms(clip: float) -> list[float]:
        policy = svg(clip=clip)
        torch.manual_seed(1)
        policy.learn_through(linear(), torch.randn(20, 2))
        grads = [
            [p.grad.flatten() for p in part.parameters() if p.grad is not None]
            for part in (policy.actor, policy.critic)
        ]
        return [float(torch.cat(grad).norm()) for grad in grads]

    (actor, critic), (clipped, unclipped) = norms(0.0), norms(0.01)
    assert clipped == pytest.approx(0.01, rel=1e-3) and actor > 0.02
    assert unclipped == pytest.approx(critic) and critic > 0.02


def test_targets_are_the_models_rewards_and_the_target_critics_at_the_horizon() -> None:
    policy, model = svg(number=2, target_subset=None, norm=False), linear(terminates=0.5)
    with torch.no_grad():
        rollout = policy.imagine(model, torch.randn(20, 2))
        target = policy.expanded_return(rollout)
        steps, alpha = rollout.steps, 0.1
        last = torch.cat([steps.features[-1], rollout.last_action], -1)
        last_q = policy.value_range.value(policy.target_critic(last.expand(2, -1, -1)).squeeze(-1)).amin(0)
    assert 0 < steps.cont.mean() < 1, "some terminate and some do not"

    for b in range(20):
        expected, factor = 0.0, 1.0
        for k in range(3):
            expected += factor * float(steps.reward[k, b])
            factor *= 0.9 * float(steps.cont[k, b])
            expected -= factor * alpha * float(rollout.log_prob[k + 1, b])
        expected += factor * float(last_q[b])
        assert float(target[b]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_states_after_a_termination_teach_the_critics_nothing() -> None:
    policy, model = svg(), linear(terminates=-100.0)  # every first step terminates
    with torch.no_grad():
        rollout = policy.imagine(model, torch.randn(20, 2))
    torch.manual_seed(3)
    loss, _ = policy.expansion_loss(rollout)
    reward = rollout.steps.reward.clone()
    reward[1:] += 50
    later = rollout._replace(steps=rollout.steps._replace(reward=reward))
    torch.manual_seed(3)
    assert policy.expansion_loss(later)[0].item() == pytest.approx(loss.item())
    assert (policy.expanded_return(rollout) == rollout.steps.reward[0]).all()


def test_it_finds_the_gain_of_the_linear_regulator() -> None:
    """The best linear feedback u = -K x of the discounted problem, by iterating Riccati's equation."""
    gamma, p = 0.9, torch.zeros(2, 2)
    q = torch.diag(COST)
    for _ in range(200):
        s = q + p  # the cost is paid in the state that the action leads to
        k = torch.linalg.solve(EFFORT + B.T @ s @ B, B.T @ s @ A)
        p = gamma * (A.T @ s @ (A - B @ k))

    policy = svg(alpha=1e-3, width=64, number=2, target_subset=None, norm=False)
    model = linear()
    for _ in range(250):
        policy.learn_through(model, torch.rand(256, 2) - 0.5)
    states = torch.rand(200, 2) * 0.8 - 0.4
    error = policy.act(states, False) - -(states @ k.T)
    assert error.abs().mean() < 0.35 * (states @ k.T).abs().mean(), "0.05 to 0.21 with 16 seeds"


def test_discrete_actions_are_rejected() -> None:
    with pytest.raises(ValueError, match="policy=sac"):
        svg(spec=EnvSpec((2,), torch.float32, 2, discrete=True))


def test_values_are_predicted_in_the_range_of_returns() -> None:
    values = ValueRange(gamma=0.9)
    values.update(torch.tensor([-0.5, 3.0]))
    assert values.value(torch.tensor([-1.0, 0.0, 1.0])).tolist() == pytest.approx([-5, 12.5, 30])
    assert values.clip(torch.tensor([-9.0, 7.0, 99.0])).tolist() == pytest.approx([-5, 7, 30])

    # Later rewards move it slowly; it keeps 0, the value of an episode that has ended.
    values.update(torch.tensor([1.0, 13.0]))
    assert values.low.item() == pytest.approx(-5 + RATE * 5)
    assert values.high.item() == pytest.approx(30 + RATE * 100)


def test_critics_start_in_the_middle_of_the_range_and_learn_as_fast_for_large_rewards() -> None:
    def error_after(scale: float) -> float:
        """Relative error of the critics' values after some updates, where the reward of every step is `scale`."""
        spec, ones = SPEC, torch.ones
        model = Analytic(spec, lambda x, u: x, lambda x, u, y: scale * ones(len(x)), lambda x, u, y: 0 * x[:, 0])
        policy = svg(alpha=1e-9, tau=0.1)
        for _ in range(100):
            policy.learn_through(model, torch.randn(16, 2))
        return (policy.value(torch.randn(50, 2)) / (10 * scale) - 1).abs().mean().item()

    assert error_after(1.0) == pytest.approx(error_after(1_000.0), rel=0.1)


def test_rewards_after_a_termination_do_not_count_for_the_range() -> None:
    policy, model = svg(), linear(terminates=-100.0)
    with torch.no_grad():
        rollout = policy.imagine(model, torch.randn(20, 2))
    assert (rollout.soft_reward(torch.tensor(0.1))[1:] == 0).all()


def test_a_discount_of_1_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"policy\.gamma is 1.0"):
        svg(gamma=1.0)


def test_two_hot_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policy.critic.bins is 5; with policy=svg it must be 0"):
        svg(bins=5)
