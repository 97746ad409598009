"""What sequences are drawn from, and how it is fitted and carried on."""

from __future__ import annotations

import pytest
import torch

from mbrl_lab.planner.proposal import Adaptive, CategoricalProposal, GaussianProposal, UniformProposal, coloured_noise
from mbrl_lab.types import EnvSpec

DISCRETE = EnvSpec((1,), torch.float32, 3, discrete=True)
CONTINUOUS = EnvSpec((1,), torch.float32, 2, discrete=False)


def test_the_actions_decide_the_proposal() -> None:
    settings = Adaptive(init_std=0.5, min_std=0.1, uniform_mix=0.2, momentum=0.3, noise_beta=1.0)
    assert settings(DISCRETE) == CategoricalProposal(DISCRETE, momentum=0.3, noise_beta=1.0, uniform_mix=0.2)
    assert settings(CONTINUOUS) == GaussianProposal(CONTINUOUS, momentum=0.3, noise_beta=1.0, init_std=0.5, min_std=0.1)


@pytest.mark.parametrize("beta", [0.0, 2.0])
def test_categorical_draws_follow_the_mixed_probabilities(beta: float) -> None:
    mean = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], [[0.2, 0.3, 0.5], [0.0, 0.0, 1.0]]])
    drawn = CategoricalProposal(DISCRETE, uniform_mix=0.1, noise_beta=beta).sample({"mean": mean}, 50_000)
    assert drawn.shape == (2, 50_000, 2) and drawn.dtype == torch.int64
    share = DISCRETE.encode_action(drawn).mean(1)
    torch.testing.assert_close(share, 0.9 * mean + 0.1 / 3, atol=0.01, rtol=0)


def test_what_has_no_probability_is_never_drawn() -> None:
    mean = torch.tensor([[[0.0, 1.0, 0.0]] * 4])
    assert (CategoricalProposal(DISCRETE).sample({"mean": mean}, 1000) == 1).all()


def test_coloured_noise_correlates_neighbours_and_keeps_the_spread() -> None:
    white, red = coloured_noise((20_000, 15), 0.0, "cpu"), coloured_noise((20_000, 15), 2.0, "cpu")
    for noise in (white, red):
        torch.testing.assert_close(noise.std(0), torch.ones(15), atol=0.03, rtol=0)
    assert (white[:, 3] * white[:, 4]).mean().abs() < 0.03
    assert (red[:, 3] * red[:, 4]).mean() > 0.7
    assert coloured_noise((5, 1), 2.0, "cpu").shape == (5, 1)


def test_colour_has_the_power_law_it_names() -> None:
    power = torch.fft.rfft(coloured_noise((20_000, 16), 2.0, "cpu")).abs().square().mean(0)
    torch.testing.assert_close(power[1] / power[4], torch.tensor(16.0), rtol=0.1, atol=0)


def test_uniform_draws_ignore_the_plan() -> None:
    drawn = UniformProposal(CONTINUOUS).sample({"mean": torch.full((2, 5, 2), 9.0)}, 2000)
    assert drawn.shape == (2, 2000, 5, 2)
    assert -1 <= drawn.min() < -0.99 and 0.99 < drawn.max() <= 1
    assert UniformProposal(DISCRETE).sample({"mean": torch.zeros(2, 5, 3)}, 7).shape == (2, 7, 5)


def test_gaussian_draws_stay_in_the_box() -> None:
    plan = {"mean": torch.full((1, 2, 2), 0.9), "std": torch.full((1, 2, 2), 0.5)}
    drawn = GaussianProposal(CONTINUOUS).sample(plan, 5000)
    assert drawn.abs().max() == 1
    torch.testing.assert_close(drawn.median(1).values, plan["mean"], atol=0.05, rtol=0)


def test_a_gaussian_fits_mean_and_spread_of_the_weighted_sequences() -> None:
    old = {"mean": torch.zeros(1, 1, 2), "std": torch.full((1, 1, 2), 0.4)}
    sequences = torch.tensor([[[[0.0, 0.2]], [[1.0, 0.2]], [[9.0, 9.0]]]])
    plan = GaussianProposal(CONTINUOUS, momentum=0.5, min_std=0.3).fit(old, sequences, torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(plan["mean"], torch.tensor([[[0.25, 0.1]]]))
    torch.testing.assert_close(plan["std"], torch.tensor([[[0.45, 0.3]]]))


def test_a_categorical_fits_the_weighted_frequency_of_each_action() -> None:
    old = {"mean": torch.tensor([[[0.0, 0.0, 1.0]]])}
    sequences = torch.tensor([[[0], [1], [0], [2]]])
    plan = CategoricalProposal(DISCRETE, momentum=0.5).fit(old, sequences, torch.tensor([[0.25, 0.5, 0.25, 0.0]]))
    torch.testing.assert_close(plan["mean"], torch.tensor([[[0.25, 0.25, 0.5]]]))


def test_a_plan_is_shifted_by_one_step_and_its_last_is_the_prior() -> None:
    discrete = CategoricalProposal(DISCRETE).shift({"mean": torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])})
    torch.testing.assert_close(discrete["mean"], torch.tensor([[[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]]]))
    old = {"mean": torch.tensor([[[0.1, 0.2], [0.3, 0.4]]]), "std": torch.full((1, 2, 2), 0.06)}
    continuous = GaussianProposal(CONTINUOUS, init_std=0.7).shift(old)
    torch.testing.assert_close(continuous["mean"], torch.tensor([[[0.3, 0.4], [0.0, 0.0]]]))
    torch.testing.assert_close(continuous["std"], torch.full((1, 2, 2), 0.7))
