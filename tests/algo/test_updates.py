"""When gradient steps are due: multiples of `every` after the warm-up, and those of the warm-up caught up with."""

from __future__ import annotations

import pytest

from mbrl_lab.algo.learner import Updates


def due(updates: Updates, steps: int, warmup: int, stride: int = 1) -> list[int]:
    return [updates.due(t, t + stride, warmup) for t in range(0, steps, stride)]


@pytest.mark.parametrize("stride", [1, 3])
def test_none_are_due_before_the_warmup_ends(stride: int) -> None:
    each = due(Updates(1, 2, 4, 1), 48, 12, stride)
    assert sum(each[: 12 // stride]) == 0
    assert sum(each) == 2 * (48 - 12) // 4


@pytest.mark.parametrize("stride", [1, 3])
def test_the_warmups_are_caught_up_with_at_so_many_times_the_pace(stride: int) -> None:
    each = due(Updates(1, 2, 1, 5), 48, 12, stride)
    assert sum(each[: 12 // stride]) == 0
    assert each[12 // stride] == 5 * 2 * stride, "five times the usual number"
    assert each[-1] == 2 * stride, "and the usual number afterwards"
    assert sum(each) == 2 * 48, "as many as if there had been no warm-up"
