"""What a latent model learns, from which rows, and what its losses are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from linear import SPEC, data, grouped, node
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_leaves, tree_structure

from mbrl_lab.config import build
from mbrl_lab.dynamics import Latent
from mbrl_lab.dynamics.latent import Normal, kl_gaussian, squared_distance
from mbrl_lab.dynamics.sequence import concatenated, unbroken
from mbrl_lab.nets.encoder import Vector
from mbrl_lab.types import Step


def latent(**settings: Any) -> Latent:
    """conf/dynamics/latent.yaml with other values."""
    groups = {"state": ("size", "gaussian", "consistency"), "optim": ("lr", "anneal_updates")}
    given = {"encoder": None, "width": 32} | grouped(settings, groups)
    model = build(node("dynamics/latent.yaml", **given))(SPEC, encoder=Vector)
    assert isinstance(model, Latent)
    return model


def normal(*shape: int) -> Normal:
    return Normal(torch.randn(*shape), torch.randn(*shape).clamp(-2, 1))


def test_states_of_parts_of_a_batch_are_put_together_whatever_tree_they_are() -> None:
    a, b = torch.randn(5, 2, 3), torch.randn(5, 4, 3)
    whole = torch.cat([a, b], 1).flatten(0, 1)
    for wrap in (lambda x: x, lambda x: {"h": x}, lambda x: [x, {"z": (x,)}]):
        assert all(torch.equal(x, whole) for x in tree_leaves(concatenated([wrap(a), wrap(b)])))
        assert tree_structure(concatenated([wrap(a), wrap(b)])) == tree_structure(wrap(a))


def test_kl_gaussian_is_torchs() -> None:
    a, b = normal(4, 5), normal(4, 5)
    torchs = kl_divergence(*(torch.distributions.Normal(x.mean, x.log_std.exp()) for x in (a, b))).sum(-1)
    torch.testing.assert_close(kl_gaussian(a, b), torchs)
    torch.testing.assert_close(kl_gaussian(a, a), torch.zeros(4))
    one = Normal(a.mean, torch.zeros(4, 5)), Normal(b.mean, torch.zeros(4, 5))
    torch.testing.assert_close(2 * kl_gaussian(*one), squared_distance(*one))


@pytest.mark.parametrize("gaussian", [False, True])
def test_balance_weighs_the_gradient_of_the_encoder(gaussian: bool) -> None:
    model = latent(gaussian=gaussian)
    encoded, predicted = (Normal(*(x.requires_grad_() for x in normal(3, 1, 4))) for _ in range(2))
    to_encoded, to_predicted = torch.autograd.grad(
        model._consistency_loss(encoded, predicted).sum(), [encoded.mean, predicted.mean]
    )
    torch.testing.assert_close(to_encoded, -0.1 * to_predicted)


def test_steps_after_an_episode_boundary_do_not_count_in_a_window() -> None:
    first = torch.tensor([[1, 0], [0, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.bool)
    assert unbroken(first).T.tolist() == [[True, True, True, False, False], [True, True, False, False, False]]


def changed(steps: Step, row: int) -> Step:
    """Other observations, actions and rewards from a row on."""
    obs, action, reward = (x.clone() for x in (steps.obs, steps.action, steps.reward))
    obs[row:], action[row:], reward[row:] = 9.0, 1.0, -9.0
    return steps._replace(obs=obs, action=action, reward=reward)


def test_nothing_is_learned_from_steps_of_another_episode() -> None:
    model = latent(length=6)
    model.scale = None
    steps = data(40).read(torch.zeros(4, dtype=torch.int64), 6)
    first = torch.zeros_like(steps.first)
    first[3] = True
    steps = steps._replace(first=first)
    same, other = (model.loss(s, None)[0] for s in (changed(steps, 3), changed(steps, 2)))
    torch.testing.assert_close(same, model.loss(steps, None)[0])
    assert not torch.isclose(other, same)


def test_what_it_imagines_is_what_it_was_unrolled_to_be() -> None:
    model = latent()
    for _ in range(5):
        model.update(data(30).sample(16, 5))
    steps = data(30).sample(3, 5)
    state = model.observe(None, steps.at(0))
    z, _ = model._unroll(Normal(model.observe(None, steps._replace(obs=steps.obs)), torch.zeros(())), steps.action)
    for t in range(1, 5):
        state, _ = model.imagine(state, steps.action[t])
        torch.testing.assert_close(state, z[t])


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    one, two = latent(), latent()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    one.scale = two.scale = None
    steps = data(40).sample(7, 5)
    states, metrics = one.update(steps)
    in_parts, sums = two.update(steps, parts=3)
    torch.testing.assert_close(states, in_parts)
    torch.testing.assert_close(metrics["model/train/loss"], sums["model/train/loss"])
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"gaussian": True, "consistency": 0.1}, {"decode": False}, {"bins": 41}])
def test_it_learns_a_linear_system(settings: dict[str, Any]) -> None:
    """Reward is a sum of the state's coordinates, of deviation near 2.5, predicted over four steps.

    The learning rate falls: at a constant one a Gaussian latent takes clipped steps for ever, and its error is 0.1 to
    0.65 deviations, by which update is the last.
    """
    torch.manual_seed(0)
    replay, model = data(300), latent(lr=3e-3, anneal_updates=300, **settings)
    for _ in range(300):
        model.update(replay.sample(32, 5))
    steps = replay.sample(500, 5)
    good = unbroken(steps.first).all(0)
    state = model.observe(None, steps.at(0))
    for t in range(1, 5):
        state, outcome = model.imagine(state, steps.action[t])
    error = (outcome.reward - steps.reward[4])[good].square().mean().sqrt()
    assert error < 0.35 * steps.reward[4][good].std()
    assert outcome.cont.min() > 0.9, "nothing ever ends here"


def test_the_count_of_updates_is_a_plain_number_that_is_saved() -> None:
    """A checkpoint holds it as a tensor, as did those of a model whose count was a buffer."""
    replay, model, other = data(30), latent(), latent()
    for _ in range(2):
        model.update(replay.sample(4, 5))
    assert type(model.updates) is int and model.state_dict()["updates"].equal(torch.tensor(2))
    other.load_state_dict(model.state_dict())
    assert type(other.updates) is int and other.updates == 2


def test_it_learns_where_episodes_terminate() -> None:
    torch.manual_seed(0)
    replay, model = data(300, ends=True), latent(lr=3e-3)
    for _ in range(300):
        model.update(replay.sample(32, 5))
    steps = replay.sample(1000, 2)
    valid = ~steps.first[1]
    _, outcome = model.imagine(model.observe(None, steps.at(0)), steps.action[1])
    right = (outcome.cont < 0.5) == steps.terminal[1]
    assert steps.terminal[1][valid].float().mean() > 0.02
    assert right[valid].float().mean() > 0.95
