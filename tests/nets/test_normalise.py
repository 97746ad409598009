"""Running statistics against those of all data at once, and rewards scaled as by hand."""

from __future__ import annotations

import pytest
import torch

from mbrl_lab.nets.normalise import Moments, RewardScale, Standardise


def test_moments_of_batches_equal_those_of_the_whole() -> None:
    x = 5 + 3 * torch.randn(300, 2)
    counts = torch.rand(300) > 0.3
    moments = Moments((2,))
    for part, counted in zip(x.split([1, 99, 200]), counts.split([1, 99, 200]), strict=True):
        moments.add(part, counted)
    assert moments.count == counts.sum()
    torch.testing.assert_close(moments.mean, x[counts].double().mean(0))
    torch.testing.assert_close(moments.var, x[counts].double().var(0, correction=0))


def test_moments_of_no_samples_are_unchanged() -> None:
    moments = Moments((2,))
    moments.add(torch.randn(5, 2), torch.zeros(5, dtype=torch.bool))
    assert moments.mean.tolist() == [0, 0] and moments.var.tolist() == [1, 1] and moments.count == 0


def test_variance_of_large_numbers_is_exact() -> None:
    """A million and a little: float32 sums of squares would have lost it."""
    x = 1e6 + torch.arange(100.0).unsqueeze(-1)
    moments = Moments((1,))
    for part in x.split(7):
        moments.add(part, torch.ones(len(part)))
    assert moments.var.item() == pytest.approx((100**2 - 1) / 12)


def test_standardise() -> None:
    standardise, x = Standardise((2,)), torch.tensor([[1.0, 2.0], [3.0, 10.0]])
    torch.testing.assert_close(standardise(x), x), "as it is, before anything was counted"
    standardise.moments.add(x, torch.ones(2))
    torch.testing.assert_close(standardise(x), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    assert standardise(torch.full((1, 2), 1e4)).tolist() == [[10.0, 10.0]]
    assert standardise(x).dtype == torch.float32


def by_hand(reward: list[float], goes_on: list[bool], gamma: float) -> list[float]:
    sums, now = [], 0.0
    for r, valid in zip(reward, goes_on, strict=True):
        now = gamma * now + r if valid else 0.0
        sums += [now] if valid else []
    return sums


def test_reward_scale_is_the_std_of_discounted_sums() -> None:
    scale = RewardScale(0.5)
    reward, valid = torch.tensor([[1.0], [2.0], [7.0], [4.0]]), torch.tensor([[True], [True], [False], [True]])
    got = scale(reward, valid)
    deviation = torch.tensor([1.0, 2.5, 4.0]).std(correction=0)  # the third begins an episode
    torch.testing.assert_close(got, reward / deviation)


def test_reward_sums_continue_in_the_next_call_and_after_a_resume() -> None:
    reward, valid = torch.randn(40, 3), torch.rand(40, 3) > 0.1
    whole, parts = RewardScale(0.9), RewardScale(0.9)
    whole(reward, valid)
    parts(reward[:13], valid[:13])
    resumed = RewardScale(0.9)
    resumed.load_state_dict(parts.state_dict())
    resumed(reward[13:], valid[13:])
    torch.testing.assert_close(resumed.moments.var, whole.moments.var)
    torch.testing.assert_close(resumed.sums, whole.sums)
    sums = [x for b in range(3) for x in by_hand(reward[:, b].tolist(), valid[:, b].tolist(), 0.9)]
    assert whole.moments.var.item() == pytest.approx(torch.tensor(sums).var(correction=0).item(), rel=1e-5)


def test_reward_sums_restart_with_another_number_of_environments() -> None:
    scale, valid = RewardScale(0.9), torch.ones(4, 3, dtype=torch.bool)
    scale(torch.ones(4, 3), valid)
    scale(torch.ones(4, 2), valid[:, :2])
    torch.testing.assert_close(scale.sums, torch.full((2,), 1 + 0.9 + 0.81 + 0.729))
