"""Errors and calibration by hand: a linear world of known noise, the exact model of it, and models too certain."""

from __future__ import annotations

import pytest
import torch
from linear import C, data, ensemble, fit, queries, reward_of, trainer, true_next
from torch import Tensor

from mbrl_lab.dynamics import Ensemble
from mbrl_lab.dynamics.validation import LEVELS, Validation, coverage, mixture_quantile, validate_predictions
from mbrl_lab.replay import Replay
from mbrl_lab.types import Step

NOISE = 0.2
STD = torch.tensor([NOISE] * 3 + [NOISE * float(C.norm())])


def truth(count: int) -> tuple[Tensor, Tensor]:
    """[N, 4] expected next states and rewards of the linear world, and what happened with its noise."""
    expected = true_next(*queries(count))
    after = expected + NOISE * torch.randn(count, 3)
    return (torch.cat([x, reward_of(x)[:, None]], -1) for x in (expected, after))  # type: ignore[return-value]


def validated(mean: Tensor, std: Tensor | None, target: Tensor) -> Validation:
    none = torch.zeros(len(target))
    return validate_predictions(mean, std, target, none, none.bool())


def covered(seen: Validation) -> list[list[float]]:
    return [coverage(seen.quantile, level).tolist() for level in LEVELS]


def test_who_knows_the_noise_covers_what_happens_as_often_as_it_says() -> None:
    expected, target = truth(20_000)
    seen = validated(expected.expand(3, -1, -1), STD.expand(3, 20_000, 4), target)
    for level, found in zip(LEVELS, covered(seen), strict=True):
        assert found == pytest.approx([level] * 4, abs=0.015)
    assert seen.error.std(0).tolist() == pytest.approx(STD.tolist(), rel=0.03) and not seen.spread.any()


@pytest.mark.parametrize(("factor", "expected"), [(0.5, (0.264, 0.478, 0.673)), (2.0, (0.823, 0.990, 1.0))])
def test_who_is_too_certain_covers_less_and_who_is_not_enough_more(factor: float, expected: tuple[float, ...]) -> None:
    """P(|x| <= factor z) of a Gaussian, with z = 0.674, 1.282, 1.960."""
    mean, target = truth(20_000)
    seen = validated(mean[None], factor * STD.expand(1, 20_000, 4), target)
    for found, share in zip(covered(seen), expected, strict=True):
        assert found == pytest.approx([share] * 4, abs=0.015)


def test_the_mixture_of_members_counts() -> None:
    """Two members at -3 and 3: half of their belief lies below 0, and three quarters below 3."""
    mean, std = torch.tensor([-3.0, 3.0]).view(2, 1, 1), torch.full((2, 1, 1), 0.1)
    below = [float(mixture_quantile(mean, std, torch.tensor([[x]]))) for x in (-9, -3, 0, 3, 9)]
    assert below == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_members_without_variances_are_as_sure_as_they_agree() -> None:
    """Members as far from the truth as it is from their mean make a calibrated ensemble; copies of one do not."""
    middle = torch.randn(20_000, 4)
    draws = middle + torch.randn(30, 20_000, 4)
    target = middle + torch.randn(20_000, 4)
    for level, found in zip(LEVELS, covered(validated(draws, None, target)), strict=True):
        assert found == pytest.approx([level] * 4, abs=0.03)
    copies = validated(middle.expand(3, -1, -1), None, target)
    assert covered(copies) == [[0.0] * 4] * 3
    alone = validated(middle[None], None, target)
    assert alone.quantile.isnan().all() and "model/holdout/coverage_50" not in alone.metrics()


def test_the_exact_model_makes_no_error() -> None:
    _, target = truth(100)
    seen = validated(target.expand(4, -1, -1), None, target)
    assert not seen.error.any() and not seen.spread.any()
    assert seen.metrics() == {"model/holdout/obs/rmse": 0, "model/holdout/reward/rmse": 0, "model/holdout/std": 0}


def test_what_does_not_vary_says_nothing_of_calibration() -> None:
    mean, target = truth(100)
    target[:, 2] = 1.0
    seen = validated(mean[None], STD.expand(1, 100, 4), target)
    assert seen.quantile.isnan().all(0).tolist() == [False, False, True, False]
    assert coverage(seen.quantile, 0.5).isnan().tolist() == [False, False, True, False]


def test_the_numbers_logged_by_hand() -> None:
    error = torch.tensor([[1.0, 1.0, 3.0], [1.0, -1.0, -3.0]])
    below = torch.tensor([[0.5, 0.8, torch.nan], [0.04, 0.99, torch.nan]])
    end, ended = torch.tensor([0.9, 0.3]), torch.tensor([True, False])
    found = Validation(error, error, 2 * torch.ones(2, 3), below, end, ended).metrics()
    assert {k: pytest.approx(float(v)) for k, v in found.items()} == {
        "model/holdout/obs/rmse": 1.0,
        "model/holdout/reward/rmse": 3.0,
        "model/holdout/std": 2.0,
        "model/holdout/coverage_50": 0.25,
        "model/holdout/coverage_80": 0.5,
        "model/holdout/coverage_95": 0.75,
        "model/holdout/termination/error": 0.2,
    }


def rows_of(replay: Replay) -> Step:
    return replay.read(replay.transitions(), 2)


@pytest.fixture(scope="module")
def noisy() -> Ensemble:
    torch.manual_seed(0)
    model = ensemble(lr=3e-3, width=32, members=4, elites=4, gaussian=True)
    fit(max_updates=600, patience=100)(model, data(600, noise=NOISE))
    return model


def test_a_fitted_ensemble_is_nearly_calibrated_and_one_made_certain_is_not(noisy: Ensemble) -> None:
    rows = rows_of(data(500, noise=NOISE))
    seen = noisy.validation(rows)
    for level in LEVELS:
        assert coverage(seen.quantile, level).tolist() == pytest.approx([level] * 4, abs=0.15)
    expected = STD / noisy.targets.scale
    assert seen.error.std(0).tolist() == pytest.approx(expected.tolist(), rel=0.15), "no more error than noise"
    with torch.no_grad():
        before = noisy.max_logvar.clone(), noisy.min_logvar.clone()
        noisy.max_logvar.fill_(-8), noisy.min_logvar.fill_(-8)
        assert coverage(noisy.validation(rows).quantile, 0.95).max() < 0.6
        noisy.max_logvar.copy_(before[0]), noisy.min_logvar.copy_(before[1])


def test_known_rewards_and_terminations_are_validated_by_the_formulas(noisy: Ensemble) -> None:
    """Where a state is predicted as well as the noise allows, so are they."""
    model = ensemble(reward_fn=lambda o, a, n: n @ C + 1.0, termination_fn=lambda o, a, n: n[:, 0] > -9e9)
    model.normalise(rows_of(data(50)))
    seen = model.validation(rows_of(data(50)))
    change = seen.error[:, :3] * model.targets.scale[:3]
    torch.testing.assert_close(seen.error[:, 3] * model.targets.scale[3], change @ C + 1.0, atol=1e-4, rtol=1e-4)
    assert (seen.termination == 1).all() and seen.quantile[:, 3].isnan().all()


def test_a_fit_logs_metrics_of_held_out_steps() -> None:
    model, replay = ensemble(lr=3e-3, width=32), data(100)
    found = fit(max_updates=50)(model, replay)
    _, test = trainer().split(replay.transitions())
    assert found["model/holdout/obs/rmse"] == model.validation(replay.read(test, 2)).metrics()["model/holdout/obs/rmse"]
    assert 0.02 * len(replay.transitions()) < len(test) < 0.2 * len(replay.transitions())
