"""The recurrent state-space model: samples, KL losses, recurrent state, and training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from linear import SPEC, data, node
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from mbrl_lab.config import build
from mbrl_lab.dynamics import RSSM
from mbrl_lab.dynamics import rssm as module
from mbrl_lab.nets.encoder import Grid, Vector
from mbrl_lab.nets.precision import SMALL_BATCH
from mbrl_lab.types import EnvSpec, Step

STATE = {"units": 32, "blocks": 4, "groups": 4, "classes": 8}
SMALL = {"encoder": None, "state": STATE, "width": 32, "length": 8, "bins": 41}


def rssm(spec: EnvSpec = SPEC, **settings: Any) -> RSSM:
    """conf/dynamics/rssm.yaml, small, with other values."""
    encoder = Vector if len(spec.obs_shape) == 1 else lambda s: Grid(s, 0)
    model = build(node("dynamics/rssm.yaml", **(SMALL | settings)))(spec, encoder=encoder)
    assert isinstance(model, RSSM)
    return model


def rows(length: int = 8, batch: int = 5) -> Step:
    steps = data(60).sample(batch, length)
    return steps._replace(first=torch.zeros_like(steps.first))


def logp(*shape: int) -> Tensor:
    return torch.randn(*shape).log_softmax(-1)


def test_probabilities_are_mixed_with_even_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNIMIX", 0.08)
    model = rssm()
    logits = torch.zeros(1, 32)
    logits[0, :8] = torch.tensor([100.0, *[0.0] * 7])
    probability = model._log_probs(logits).exp()
    torch.testing.assert_close(probability[0, 0], torch.tensor([0.93, *[0.01] * 7]))
    torch.testing.assert_close(probability[0, 1:], torch.full((3, 8), 1 / 8))


def test_draws_are_one_hot_as_often_as_they_are_probable_and_pass_gradients_straight_through() -> None:
    model = rssm()
    probability = torch.tensor([0.1, 0.2, 0.7, 0, 0, 0, 0, 0])
    drawn = model.sample((probability + 1e-12).log().expand(20_000, 4, 8))
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and (drawn.sum(-1) == 1).all()
    torch.testing.assert_close(drawn.mean((0, 1)), probability, atol=0.01, rtol=0)
    logits, weight = torch.randn(3, 4, 8, requires_grad=True), torch.randn(3, 4, 8)
    (straight,) = torch.autograd.grad((model.sample(logits.log_softmax(-1)) * weight).sum(), logits)
    (soft,) = torch.autograd.grad((logits.softmax(-1) * weight).sum(), logits)
    torch.testing.assert_close(straight, soft)


def test_kl_losses_are_torchs_and_each_trains_one_side() -> None:
    posterior, prior = logp(6, 4, 8).requires_grad_(), logp(6, 4, 8).requires_grad_()
    to_prior, to_posterior = rssm().kl_both_ways(posterior, prior)
    torchs = kl_divergence(Categorical(logits=posterior), Categorical(logits=prior)).sum(-1)
    torch.testing.assert_close(to_prior, torchs)
    torch.testing.assert_close(to_posterior, torchs)
    assert torch.autograd.grad(to_prior.sum(), [posterior, prior], allow_unused=True)[0] is None
    assert torch.autograd.grad(to_posterior.sum(), [posterior, prior], allow_unused=True)[1] is None


def test_kl_is_balanced_and_its_first_nats_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the loss with respect to what is drawn from, where nothing but the KL counts."""
    steps = rows()
    for free, balanced in ((0.0, True), (1e3, False)):
        torch.manual_seed(1)
        monkeypatch.setattr(module, "FREE_NATS", free)
        monkeypatch.setattr(module, "KL_POSTERIOR", 0.0)
        model = rssm()
        loss, *_ = model.loss(steps, None)
        gradients = torch.autograd.grad(loss, list(model.prior.parameters()), allow_unused=True)
        moved = any(g is not None and bool(g.abs().sum() > 0) for g in gradients)
        assert moved == balanced


def test_the_belief_is_reset_when_an_episode_begins() -> None:
    model, steps = rssm(), rows()
    first = steps.first.clone()
    first[4] = True
    begun = steps._replace(first=first)
    other = begun._replace(obs=torch.cat([begun.obs[:4] + 3, begun.obs[4:]]))
    torch.manual_seed(0)
    one, _ = model._filter(begun, None)
    torch.manual_seed(0)
    two, _ = model._filter(other, None)
    assert torch.equal(one["deter"][4:], two["deter"][4:]) and not torch.equal(one["deter"][3], two["deter"][3])
    fresh = model.observe(None, begun.at(4))
    torch.testing.assert_close(fresh["deter"], one["deter"][4])


def test_observing_step_by_step_equals_filtering_a_window() -> None:
    model, steps = rssm(), rows()
    torch.manual_seed(0)
    filtered, _ = model._filter(steps, None)
    torch.manual_seed(0)
    state = None
    for t in range(len(steps.first)):
        state = model.observe(state, steps.at(t)._replace(first=torch.full((5,), t == 0)))
        for key, x in state.items():
            torch.testing.assert_close(x, filtered[key][t], msg=f"{key} at {t}")


def test_a_window_that_goes_on_from_a_known_state_is_the_rest_of_a_longer_one() -> None:
    model, steps = rssm(), rows()
    model.sample = lambda logp, noise: logp.exp()  # type: ignore[assignment,method-assign]
    whole, _ = model._filter(steps, None)
    rest, _ = model._filter(steps.at(slice(3, None)), {key: x[3] for key, x in whole.items()})
    for key, x in rest.items():
        torch.testing.assert_close(x, whole[key][3:])


def test_imagination_is_observation_where_the_posterior_is_the_prior() -> None:
    model, steps = rssm(), rows()
    model._posterior = lambda memory, seen: model._prior(memory)  # type: ignore[method-assign]
    state = model.observe(None, steps.at(0))
    torch.manual_seed(0)
    observed = model.observe(state, steps.at(1))
    torch.manual_seed(0)
    imagined, _ = model.imagine(state, steps.action[1])
    for key, x in imagined.items():
        torch.testing.assert_close(x, observed[key])


def test_reward_loss_counts_steps_that_an_action_led_to() -> None:
    model, steps = rssm(), rows()
    first = steps.first.clone()
    first[5] = True
    steps = steps._replace(first=first)
    torch.manual_seed(0)
    loss = model.loss(steps, None)[2]["model/train/reward/loss"]
    torch.manual_seed(0)
    paid = steps.reward.clone()
    paid[5] += 100
    assert model.loss(steps._replace(reward=paid), None)[2]["model/train/reward/loss"] == loss


def test_it_learns_to_predict_what_only_memory_shows() -> None:
    """The first observation of a window pays at its last row; between them nothing shows."""
    torch.manual_seed(0)
    model = rssm(EnvSpec((1,), torch.float32, 2, discrete=False), optim={"lr": 1e-2}, length=3)

    def windows(batch: int) -> Step:
        sign = torch.randint(2, (batch,)).float() * 2 - 1
        obs, reward = torch.zeros(3, batch, 1), torch.zeros(3, batch)
        obs[0, :, 0], reward[2] = 9 * sign, sign
        no = torch.zeros(3, batch, dtype=torch.bool)
        first = no.clone()
        first[0] = True
        return Step(torch.zeros(3, batch, 2), obs, reward, no, first)

    for _ in range(250):
        model.update(windows(16))
    steps = windows(200)
    state = model.observe(None, steps.at(0))
    for t in range(1, 3):
        state, outcome = model.imagine(state, steps.action[t])
    right = outcome.reward.sign() == steps.reward[2].sign()
    assert right.float().mean() > 0.8
    seen = model.decode(model.observe(None, steps.at(0)))
    assert (seen - steps.obs[0]).abs().mean() < 3


def test_it_learns_a_grid() -> None:
    """One bit walks to the right; what is decoded is where it is."""
    torch.manual_seed(0)
    model = rssm(EnvSpec((1, 8, 8), torch.uint8, 2, discrete=True), optim={"lr": 1e-2}, length=6)
    obs = torch.zeros(6, 16, 1, 8, 8, dtype=torch.uint8)
    for t in range(6):
        obs[t, torch.arange(16), 0, torch.arange(16) % 8, t + torch.arange(16) // 8] = 1
    no = torch.zeros(6, 16, dtype=torch.bool)
    first = no.clone()
    first[0] = True
    steps = Step(torch.zeros(6, 16, dtype=torch.int64), obs, torch.zeros(6, 16), no, first)
    for _ in range(220):
        states, _ = model.update(steps)
    assert states["deter"].shape == (6 * 16, 32)
    right = model.decode(states).flatten(1).argmax(-1) == obs.flatten(0, 1).flatten(1).argmax(-1)
    assert right.float().mean() > 0.5


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's compiler looks at it
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # torch's, on Python 3.13.0 alone
def test_its_steps_can_be_compiled_for_any_batch_size() -> None:
    """By the compiler's tracer alone: the code that it would write takes minutes."""
    model = rssm()
    traced = copy.deepcopy(model)
    for name in RSSM.compilable:
        setattr(traced, name, torch.compile(getattr(traced, name), backend="eager", fullgraph=True))
    for batch in (1, 2, 3, SMALL_BATCH):
        steps, states = rows(2, batch), []
        for each in (model, traced):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16):
                states.append(each.imagine(each.observe(None, steps.at(0)), steps.action[1])[0])
        for key, x in states[0].items():
            assert torch.equal(x, states[1][key]), f"{key} of {batch}"


@pytest.mark.parametrize("size", ["xs", "s", "m"])
def test_sizes_build(size: str) -> None:
    sizes = {k: v for k, v in node(f"dynamics/rssm_{size}.yaml").items() if k != "defaults"}
    state = {"units": 512, "blocks": 8, "groups": 32, "classes": 32} | dict(sizes.pop("state", {}))
    model = rssm(**({"width": 256} | sizes | {"state": state}))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert {"xs": 0.5, "s": 1.5, "m": 5}[size] < count < {"xs": 2, "s": 6, "m": 20}[size]
