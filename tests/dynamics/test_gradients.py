"""Gradients of what an ensemble imagines: against finite differences, and without a change of values."""

from __future__ import annotations

import pytest
import torch
from linear import SPEC, ensemble
from torch import Tensor

from mbrl_lab.dynamics import Ensemble


def random_ensemble(propagation: str = "ts_inf", gaussian: bool = False) -> Ensemble:
    """Random networks in float64, standardised by numbers other than 0 and 1; episodes may terminate anywhere."""
    torch.manual_seed(0)
    model = ensemble(members=3, elites=2, width=8, propagation=propagation, gaussian=gaussian).double()
    for part in (model.inputs, model.targets, model.termination.inputs):
        part.mean.normal_()
        part.scale.uniform_(0.5, 2.0)
    model.elite.copy_(torch.tensor([2, 0]))
    model.termination.observed.fill_(True)
    model.termination.unexplained.fill_(True)
    model.thaw()
    return model


def imagined_return(model: Ensemble, state: Tensor, actions: Tensor) -> Tensor:
    """[B]: of actions [H, B, A], the rewards while the episode goes on."""
    torch.manual_seed(1)
    total, alive = torch.zeros(len(state)).double(), torch.ones(len(state)).double()
    for action in actions:
        state, outcome = model.imagine(state, action)
        total = total + alive * outcome.reward
        alive = alive * outcome.cont
    return total + alive * state.sum(-1)


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "expectation"])
def test_gradients_of_imagined_returns_are_finite_differences(propagation: str, gaussian: bool) -> None:
    model = random_ensemble(propagation, gaussian)
    state = torch.randn(4, 3).double().requires_grad_()
    actions = (0.5 * torch.randn(3, 4, 2)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, a: imagined_return(model, s, a), (state, actions), fast_mode=True)


def test_values_are_those_without_gradients_and_weights_get_none() -> None:
    model = random_ensemble()
    state, actions = torch.randn(5, 3).double(), torch.rand(3, 5, 2).double().requires_grad_()
    with torch.no_grad():
        expected = imagined_return(model, state, actions)
    returns = imagined_return(model, state, actions)
    assert not expected.requires_grad and torch.equal(expected, returns.detach())
    returns.sum().backward()
    assert actions.grad is not None and all(p.grad is None for p in model.parameters())


def test_actions_can_be_improved_by_gradient() -> None:
    """As a planner by gradient would, from actions of 0."""
    model = random_ensemble()
    state = torch.randn(6, SPEC.obs_shape[0]).double()
    actions = torch.zeros(4, 6, 2).double().requires_grad_()
    optimiser = torch.optim.Adam([actions], 0.05)
    before = imagined_return(model, state, actions).detach()
    for _ in range(15):
        optimiser.zero_grad()
        (-imagined_return(model, state, actions)).sum().backward()
        optimiser.step()
    gained = imagined_return(model, state, actions) - before
    assert (gained > 0).all() and gained.mean() > 0.002, "the least mean of 60 seeds is 0.0067"
