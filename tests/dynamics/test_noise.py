"""Noise on what a model learns from: how much, on what, and none by default."""

from __future__ import annotations

import pytest
import torch
from linear import ensemble
from torch import Tensor

from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((3,), torch.float32, 1, discrete=False)


def rows(count: int = 20_000) -> Step:
    """[2, count]: coordinates of 0 on average, -40 and 5, of which the first alone changes."""
    obs = torch.stack([torch.ones(count), torch.full((count,), -40.0), torch.full((count,), 5.0)], -1)
    obs[::2, 0] = -1.0
    still = torch.zeros(2, count)
    after = obs + torch.tensor([0.5, 0.0, 0.0])
    no = still.bool()
    return Step(torch.full((2, count, 1), 0.7), torch.stack([obs, after]), still, no, no)


def drawn(noise: float) -> tuple[Tensor, Tensor]:
    """What was added to observations and to next ones [N, 3]."""
    model, steps = ensemble(SPEC, noise=noise), rows()
    model.normalise(steps)
    before = steps.transitions()
    after = model._noised(before)
    assert after.action is before.action and after.reward is before.reward
    return after.obs[0] - before.obs[0], after.next_obs[0] - before.next_obs[0]


def test_its_std_is_a_fraction_of_the_absolute_mean_of_each_coordinate() -> None:
    obs, next_obs = drawn(0.01)
    for added in (obs, next_obs):
        assert added.std(0).tolist() == pytest.approx([0.0, 0.4, 0.05], rel=0.03, abs=1e-6)
        assert added.mean(0).tolist() == pytest.approx([0.0, 0.0, 0.0], abs=0.01)
    assert torch.corrcoef(torch.stack([obs[:, 1], next_obs[:, 1]]))[0, 1].abs() < 0.03, "drawn apart"


def test_scales_of_targets_know_of_it_and_those_of_inputs_do_not() -> None:
    quiet, loud = ensemble(SPEC), ensemble(SPEC, noise=0.01)
    for model in (quiet, loud):
        model.normalise(rows())
    assert torch.equal(quiet.inputs.mean, loud.inputs.mean) and torch.equal(quiet.inputs.scale, loud.inputs.scale)
    assert quiet.targets.scale.tolist() == [1.0] * 4, "nothing varies"
    assert loud.targets.scale.tolist() == pytest.approx([1.0, 0.4 * 2**0.5, 0.05 * 2**0.5, 1.0], rel=0.03)


def test_it_reaches_every_update_and_no_validation() -> None:
    loud, steps = ensemble(SPEC, noise=0.01), rows(50)
    loud.normalise(steps)
    assert torch.equal(loud.validate(steps), loud.validate(steps))
    before = torch.get_rng_state()
    loud.update(steps)
    assert not torch.equal(torch.get_rng_state(), before)


def test_none_by_default_and_none_drawn() -> None:
    model, steps = ensemble(SPEC), rows(50)
    before = torch.get_rng_state()
    model.normalise(steps)
    model.update(steps)
    assert torch.equal(torch.get_rng_state(), before)
