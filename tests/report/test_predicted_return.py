"""The achieved return is the planner's own sum, taken over what truly happened."""

from __future__ import annotations

import math

import pytest
import torch

from mbrl_lab.report.predicted_return import achieved_return, correlation, known_pairs, longest_episode
from mbrl_lab.types import Step


def rows_of(reward: list[float], terminal: list[int], first: list[int]) -> Step:
    """[T + 1, 1] rows."""
    value = torch.tensor(reward, dtype=torch.float32)[:, None]
    return Step(value, value, value, torch.tensor(terminal)[:, None].bool(), torch.tensor(first)[:, None].bool())


def slowly(rows: Step, t: int, b: int, horizon: int, discount: float) -> float:
    """The sum by its definition, reward by reward."""
    total = 0.0
    for k in range(horizon):
        at = t + 1 + k
        if at == len(rows.first) or rows.first[at, b]:
            return math.nan
        total += discount**k * float(rows.reward[at, b])
        if rows.terminal[at, b]:
            return total
    return total


def test_achieved_return_stops_at_termination_and_is_unknown_at_a_time_limit() -> None:
    ended = rows_of([0, 1, 2, 4, 0, 8, 8], terminal=[0, 0, 0, 1, 0, 0, 0], first=[1, 0, 0, 0, 1, 0, 0])
    got = achieved_return(ended, horizon=3, discount=0.5)[:, 0].tolist()
    assert got[:3] == [1 + 1 + 1, 2 + 2, 4]
    assert all(math.isnan(x) for x in got[3:])
    cut = rows_of([0, 1, 2, 4, 0, 8, 8], terminal=[0] * 7, first=[1, 0, 0, 0, 1, 0, 0])
    assert achieved_return(cut, 3, 0.5)[:, 0].isnan().tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize("horizon", [1, 4, 29, 30, 45])
def test_it_agrees_with_the_definition(horizon: int) -> None:
    first = torch.rand(31, 8) < 0.1
    first[0] = True
    ends = first.roll(-1, 0) & (torch.rand(31, 8) < 0.7)
    rows = Step(torch.zeros(31, 8), torch.zeros(31, 8), torch.randn(31, 8), ends, first)
    expected = torch.tensor([[slowly(rows, t, b, horizon, 0.9) for b in range(8)] for t in range(30)])
    torch.testing.assert_close(achieved_return(rows, horizon, 0.9), expected, equal_nan=True)
    assert expected.isnan().any() and (horizon == 45 or expected.isfinite().any())


def test_pairs_are_those_where_both_are_known() -> None:
    planned, got = known_pairs(torch.tensor([[1.0, -torch.inf, 3.0]]), torch.tensor([[torch.nan, 5.0, 6.0]]))
    assert (planned.tolist(), got.tolist()) == ([3.0], [6.0])


def test_correlation() -> None:
    x = torch.arange(5.0)
    assert correlation(x, 3 - 2 * x) == pytest.approx(-1)
    assert correlation(x, torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0])) == pytest.approx(0, abs=1e-6)
    assert math.isnan(correlation(x, torch.full_like(x, 15.0)))
    assert math.isnan(correlation(x[:1], x[:1])) and math.isnan(correlation(x[:0], x[:0]))


def test_the_longest_episode() -> None:
    first = torch.tensor([[1, 0, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0]]).T.bool()
    assert longest_episode(first) == (0, 2, 6)
