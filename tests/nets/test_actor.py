"""Probabilities of actions: by hand, against torch's, and as true probabilities, which add up to one."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mbrl_lab.nets.actor import Categorical, ClippedGaussian
from mbrl_lab.nets.mlp import orthogonal
from mbrl_lab.policy.ppo import PPOActor
from mbrl_lab.types import EnvSpec

DISCRETE = EnvSpec((2,), torch.float32, 3, True)
CONTINUOUS = EnvSpec((2,), torch.float32, 2, False)
INSIDE = torch.linspace(-1, 1, 20_001)[1::2].unsqueeze(-1)
"""[10000, 1]: the middles of equal parts of (-1, 1)."""


def gaussian(mean: float, std: float) -> ClippedGaussian:
    return ClippedGaussian(torch.tensor([[mean]]), torch.tensor([math.log(std)]))


def phi(z: float) -> float:
    """The standard normal's distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def expected(mean: Tensor, log_std: Tensor, payoff: Tensor, below: float, above: float) -> Tensor:
    """The mean payoff: the density's integral inside (-1, 1) and the two bounds' shares."""
    inside = ClippedGaussian(mean.expand_as(INSIDE), log_std).log_prob(INSIDE).exp()
    edges = ClippedGaussian(mean.expand(2, 1), log_std).log_prob(torch.tensor([[-1.0], [1.0]])).exp()
    return (inside * payoff).sum() * 2 / len(INSIDE) + edges[0] * below + edges[1] * above


def test_categorical_equals_torch_distributions() -> None:
    logits, action = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    mine, torchs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(mine.log_prob(action), torchs.log_prob(action))
    torch.testing.assert_close(mine.entropy(), torchs.entropy())
    assert torch.equal(mine.mode(), logits.argmax(-1))


def test_categorical_samples_by_its_probabilities() -> None:
    p = torch.tensor([0.6, 0.3, 0.1])
    drawn = Categorical(p.log().expand(20_000, 3)).sample()
    torch.testing.assert_close(drawn.bincount(minlength=3) / 20_000, p, atol=0.01, rtol=0)


def test_clipped_gaussian_log_prob_by_hand() -> None:
    """Mean 0.5, deviation 0.5: a density inside, one deviation to the upper bound and three to the lower."""
    action = torch.tensor([[0.5], [0.0], [1.0], [-1.0]])
    logp = gaussian(0.5, 0.5).log_prob(action)
    density = 1 / (0.5 * math.sqrt(2 * math.pi))
    by_hand = [density, density * math.exp(-0.5), 0.158655, 0.00134990]
    torch.testing.assert_close(logp.exp(), torch.tensor(by_hand), atol=0, rtol=1e-4)


def test_action_dimensions_are_independent() -> None:
    mean, log_std = torch.tensor([[0.5, -0.2]]), torch.tensor([0.1, -0.3])
    action = torch.tensor([[1.0, 0.4]])
    apart = [ClippedGaussian(mean[:, i : i + 1], log_std[i : i + 1]).log_prob(action[:, i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(ClippedGaussian(mean, log_std).log_prob(action), apart[0] + apart[1])


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.5), (-3.0, 1.0), (0.2, 4.0)])
def test_clipped_gaussian_integrates_to_one(mean: float, std: float) -> None:
    m, s = torch.tensor([[mean]]), torch.tensor([math.log(std)])
    assert expected(m, s, torch.ones(len(INSIDE)), 1.0, 1.0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.5), (-1.5, 1.0)])
def test_clipped_gaussian_policy_gradient_is_unbiased(mean: float, std: float) -> None:
    """An action that pays itself: E[clip(u)] rises with the mean by the probability that nothing was clipped."""
    m, s = torch.tensor([[mean]], requires_grad=True), torch.tensor([math.log(std)])
    expected(m, s, INSIDE[:, 0], -1.0, 1.0).backward()
    assert m.grad is not None
    assert m.grad.item() == pytest.approx(phi((1 - mean) / std) - phi((-1 - mean) / std), abs=1e-3)


def test_a_density_at_the_bounds_would_be_biased() -> None:
    """The same integral with the Gaussian's density of the clipped action: a gradient that is wrong by a third."""
    m, log_std = torch.tensor([[0.9]], requires_grad=True), torch.tensor([math.log(0.5)])
    torch.manual_seed(0)
    u = 0.9 + 0.5 * torch.randn(200_000, 1)
    sent = u.clamp(-1, 1)
    right = phi((1 - 0.9) / 0.5) - phi((-1 - 0.9) / 0.5)
    logp = ClippedGaussian(m.expand_as(sent), log_std).log_prob(sent)
    (gradient,) = torch.autograd.grad((logp * sent[:, 0]).mean(), m)
    assert gradient.item() == pytest.approx(right, rel=0.02)
    density = torch.distributions.Normal(m, 0.5).log_prob(sent)[:, 0]
    (wrong,) = torch.autograd.grad((density * sent[:, 0]).mean(), m)
    assert abs(wrong.item() - right) > right / 3


def test_log_prob_of_extreme_means_is_finite() -> None:
    mean = torch.tensor([[50.0], [-50.0], [0.0], [50.0]], requires_grad=True)
    log_std = torch.tensor([-5.0], requires_grad=True)
    logp = ClippedGaussian(mean, log_std).log_prob(torch.tensor([[1.0], [-1.0], [0.999], [-1.0]]))
    assert logp[0] == 0 and logp[1] == 0 and logp.isfinite().all()
    logp.sum().backward()
    assert mean.grad is not None and mean.grad.isfinite().all() and log_std.grad is not None
    assert log_std.grad.isfinite().all()


def test_clipped_gaussian_samples_and_mode() -> None:
    both = ClippedGaussian(torch.tensor([[0.5, 3.0]]).expand(20_000, 2), torch.tensor([math.log(0.5), 0.0]))
    drawn = both.sample()
    assert drawn.abs().max() <= 1
    assert (drawn == 1).float().mean(0).tolist() == pytest.approx([0.158655, 0.97725], abs=0.01)
    assert (drawn == -1).float().mean(0).tolist() == pytest.approx([0.00135, 0.00003], abs=0.002)
    assert both.mode()[0].tolist() == [0.5, 1.0]
    torch.testing.assert_close(both.entropy()[0].item(), 2 * 1.4189385 + math.log(0.5))


def test_initial_std_of_the_actor_and_its_gradient() -> None:
    actor = PPOActor(CONTINUOUS, 2, 8, 1, std=0.4)
    distribution = actor(torch.randn(5, 2))
    assert isinstance(distribution, ClippedGaussian)
    torch.testing.assert_close(distribution.log_std.exp(), torch.full((5, 2), 0.4))
    distribution.log_prob(torch.zeros(5, 2)).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in actor.parameters())
    assert isinstance(PPOActor(DISCRETE, 2, 8, 1, std=0.4)(torch.randn(5, 2)), Categorical)


def test_bf16_log_probs_are_float32() -> None:
    for spec in (DISCRETE, CONTINUOUS):
        with torch.autocast("cpu", torch.bfloat16):
            distribution = PPOActor(spec, 2, 8, 1, std=0.4)(torch.randn(5, 2))
            action = distribution.sample()
            assert distribution.log_prob(action).dtype == distribution.entropy().dtype == torch.float32
        assert action.dtype == (torch.int64 if spec.discrete else torch.float32)


def test_orthogonal_weights() -> None:
    actor = PPOActor(DISCRETE, 16, 8, 2, std=1.0)
    orthogonal(actor, last=0.01)
    first, second, last = (x for x in actor.modules() if isinstance(x, torch.nn.Linear))
    torch.testing.assert_close(first.weight @ first.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.weight @ second.weight.T, 2 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(3), atol=1e-9, rtol=1e-3)
    assert not any(x.bias.any() for x in (first, second, last))
