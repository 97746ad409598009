"""CrossQ's joint pass, target and delayed actor against known answers, and a toy with a known optimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mbrl_lab.policy import CrossQ
from mbrl_lab.policy.crossq import CrossQCritics, CrossQOptim, Renorm
from mbrl_lab.policy.sac import Temperature
from mbrl_lab.types import EnvSpec, Step, Transition

SPEC = EnvSpec((2,), torch.float32, 1, discrete=False)


def crossq(spec: EnvSpec = SPEC, **changed: Any) -> CrossQ:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "width": 16,
        "depth": 2,
        "gamma": 0.9,
        "critic": CrossQCritics(number=2, width=32),
        "renorm": Renorm(momentum=0.9, warmup=1000),
        "temperature": Temperature(alpha=0.5, target_entropy=None, entropy_fraction=0.98),
        "optim": CrossQOptim(lr=3e-3, policy_delay=3),
    }
    return CrossQ(spec, **settings | changed)


def rows(batch: int = 32, terminal: bool = False) -> Step:
    """[2, batch] of an unbroken episode, with rewards of -(a - 0.3)^2."""
    no = torch.zeros(2, batch, dtype=torch.bool)
    action = torch.rand(2, batch, 1) * 2 - 1
    return Step(action, torch.randn(2, batch, 2), -(action - 0.3).square().squeeze(-1), no | terminal, no)


def transition(steps: Step) -> Transition:
    return Transition(*(x.flatten(0, 1) for x in steps.transitions()))


def test_both_batches_pass_the_critics_at_once() -> None:
    policy, steps = crossq(), rows()
    t = transition(steps)
    torch.manual_seed(1)
    loss, aux = policy.critic_loss(steps, torch.ones(32))
    moments = policy.critic.norms[0].mean.clone()

    again = crossq()
    torch.manual_seed(1)
    with torch.no_grad():
        pi = again.dist.sample(again.actor(t.next_obs.unsqueeze(0)).squeeze(0))
        now, after = torch.cat([t.obs, t.action], -1), torch.cat([t.next_obs, pi.action], -1)  # type: ignore[list-item]
        again.critic.train()
        q, next_q = again.critic(torch.cat([now, after]).expand(2, -1, -1)).squeeze(-1).chunk(2, -1)
        y = t.reward + 0.9 * ~t.terminal * (next_q.amin(0) - 0.5 * pi.log_prob.squeeze(-1))
    assert loss.item() == pytest.approx(((q - y).square() / 32).sum().item(), rel=1e-5)
    torch.testing.assert_close(aux.td_error, (q - y).mean(0).abs())
    assert float(aux.metrics["policy/q"]) == pytest.approx(q.mean().item(), rel=1e-4, abs=1e-6), (
        "of the actions in replay, as SAC's"
    )
    mixture = torch.cat([now, after]).mean(0)
    torch.testing.assert_close(moments[0, 0], 0.1 * mixture, rtol=1e-4, atol=1e-5)


def test_targets_pass_no_gradients_and_terminal_steps_bootstrap_nothing() -> None:
    policy, steps = crossq(), rows(terminal=True)
    t = transition(steps)
    torch.manual_seed(1)
    loss, _ = policy.critic_loss(steps, torch.ones(32))
    (gradient,) = torch.autograd.grad(loss, [policy.critic.weights[-1]])

    again = crossq()
    torch.manual_seed(1)
    with torch.no_grad():
        action = again.dist.sample(again.actor(t.next_obs.unsqueeze(0)).squeeze(0)).action
    assert action is not None
    again.critic.train()
    both = torch.cat([torch.cat([t.obs, t.action], -1), torch.cat([t.next_obs, action], -1)])
    q = again.critic(both.expand(2, -1, -1)).squeeze(-1)[:, :32]
    (expected,) = torch.autograd.grad(((q - t.reward).square() / 32).sum(), [again.critic.weights[-1]])
    torch.testing.assert_close(gradient, expected)


def test_the_actor_learns_every_few_updates() -> None:
    policy = crossq()
    changed = []
    for _ in range(6):
        before = policy.actor.weights[0].detach().clone(), policy.log_alpha.item()
        policy.update(rows())
        changed.append(((policy.actor.weights[0] != before[0]).any().item(), policy.log_alpha.item() != before[1]))
    assert changed == [(False, False), (False, False), (True, True)] * 2


def test_it_finds_the_best_action() -> None:
    policy = crossq(temperature=Temperature(0.01, None, 0.98))
    for _ in range(450):
        policy.update(rows(64, terminal=True))
    # The largest of thirty seeds was 0.08, and an actor that has learned nothing is at 0.3.
    assert (policy.act(torch.randn(100, 2), False) - 0.3).abs().mean() < 0.15


def test_steps_across_an_episode_boundary_have_no_gradient() -> None:
    one, other = crossq(), crossq()
    steps = rows()
    first = torch.zeros(2, 32, dtype=torch.bool)
    first[1, 16:] = True
    reward = steps.reward.clone()
    reward[1, 16:] = 1e6
    for policy, r in ((one, steps.reward), (other, reward)):
        torch.manual_seed(1)
        metrics = policy.update(steps._replace(first=first, reward=r))
        assert math.isfinite(float(metrics["policy/critic_loss"]))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "spec",
    [EnvSpec((2,), torch.float32, 3, True), EnvSpec((1, 8, 8), torch.uint8, 2, False)],
    ids=["discrete", "images"],
)
def test_other_spaces_are_rejected(spec: EnvSpec) -> None:
    with pytest.raises(ValueError, match="policy=sac"):
        crossq(spec)
