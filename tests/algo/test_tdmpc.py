"""TD-MPC: what SimNorm, proposals and the value at the horizon are, and what each loss trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mbrl_lab.algo import TDMPC
from mbrl_lab.config import build, check, compose_config
from mbrl_lab.dynamics.implicit import SimNorm
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((3,), torch.float32, 1, discrete=False)
TINY = ["dynamics.width=16", "policy.width=16", "dynamics.state.size=16", "planner.population=8", "planner.elites=4"]
TINY += ["planner.proposals=2"]


def tdmpc(*words: str) -> TDMPC:
    torch.manual_seed(0)
    cfg = compose_config(["algo=tdmpc", "env=pendulum", *TINY, *words])
    check(cfg)
    return build(cfg.algo)(SPEC)


def steps(length: int = 4, batch: int = 6) -> Step:
    torch.manual_seed(1)
    shape = (length, batch)
    false = torch.zeros(shape, dtype=torch.bool)
    return Step(torch.rand(*shape, 1) * 2 - 1, torch.randn(*shape, 3), torch.randn(shape), false, false.clone())


def gradients(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def test_simnorm_is_a_softmax_of_each_group() -> None:
    x = torch.tensor([[0.0, 0.0, 2.0, 2.0 + torch.log(torch.tensor(3.0))]])
    torch.testing.assert_close(SimNorm(2)(x), torch.tensor([[0.5, 0.5, 0.25, 0.75]]))


def test_the_target_of_consistency_has_no_gradient() -> None:
    """The encoder learns from the first step of a window only, so its later observations get no gradient."""
    model, window = tdmpc().model, steps()
    obs = window.obs.requires_grad_()
    model.joint_loss(window._replace(obs=obs)).loss.backward()
    assert obs.grad is not None and obs.grad[0].any() and not obs.grad[1:].any()


def test_steps_of_the_next_episode_count_nothing_and_later_ones_rho_times_less() -> None:
    window = steps(batch=2)
    window.first[2, 1] = True
    weight = tdmpc("dynamics.state.rho=0.5").model.joint_loss(window).weight
    torch.testing.assert_close(weight, torch.tensor([[1.0, 1.0], [0.5, 0.0], [0.25, 0.0]]) / 2.75)


def test_critics_train_the_model_but_the_policy_does_not() -> None:
    algo = tdmpc()
    unrolled = algo.model.joint_loss(steps())
    z = unrolled.predicted[-1]
    features = z.detach()
    loss, _ = algo.policy.actor_loss(features, torch.full((len(z),), 1 / len(z)))
    loss.backward()
    assert gradients(algo.policy.actor) and not gradients(algo.model)

    # Two-hot critics begin at zero, so their first gradient ends in the last layer: one step later it goes on.
    for _ in range(2):
        algo.learn_from(steps())
    seen: list[Tensor] = []
    original = algo.policy.td_loss

    def watched(t: Any, *rest: Any) -> Any:
        t.obs.retain_grad()
        seen.append(t.obs)
        loss, aux = original(t, *rest)
        seen.append(torch.autograd.grad(loss, t.obs, retain_graph=True)[0])
        return loss, aux

    algo.policy.td_loss = watched  # type: ignore[method-assign]
    algo.learn_from(steps())
    assert seen[0].requires_grad and seen[1].any()


def test_a_batch_of_windows_is_learned_by_heart() -> None:
    """Rewards have a fifth of their size as error, and latents are closer than at the start.

    For its first hundred updates a two-hot head does nothing but take its weight from bins of huge numbers.
    """
    algo = tdmpc("policy.critic.dropout=0", "dynamics.optim.lr=3e-3")
    window = steps(length=2)
    first = algo.learn_from(window)
    for _ in range(200):
        last = algo.learn_from(window)
    _, outcome = algo.model.imagine(algo.model.observe(None, window.at(0)), window.action[1])
    error = outcome.reward - window.reward[1]
    assert error.square().mean() < 0.04 * window.reward[1].square().mean()
    assert float(last["model/train/consistency"]) < float(first["model/train/consistency"])
    assert (outcome.cont > 0.9).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dynamics.state.size=20"], "dynamics.state.size is 20; it must be a multiple of dynamics.state.simplex, 8"),
        (["planner.horizon=4"], "planner.horizon is 4; it must be below dynamics.length, 4"),
        (["planner.proposals=8"], "planner.proposals is 8; it must be a whole number from 0 to less than"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(words: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message) as raised:
        tdmpc(*words)
    assert "\n" not in str(raised.value)


def test_proposals_need_a_policy() -> None:
    cfg = compose_config(["algo=mpc", "env=pendulum", "planner=mppi", "planner.proposals=4"])
    with pytest.raises(Exception, match=r"planner.proposals is 4, but algo=mpc has no policy.*try value=sac"):
        build(cfg.algo)(SPEC)


def test_values_of_plans_have_no_dropout() -> None:
    algo = tdmpc("policy.critic.dropout=0.5", "policy.critic.bins=0")
    z = algo.model.observe(None, steps().at(0))
    torch.testing.assert_close(algo.policy.value(z), algo.policy.value(z), atol=0, rtol=0)
    assert algo.policy.critic.training, "updates have it"
