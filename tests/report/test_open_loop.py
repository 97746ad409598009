"""Forecasts line up with what happened: copies, actions, boundaries and units, on a world known by heart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrl_lab.report.open_loop import (
    COPIES,
    OpenLoop,
    change_std,
    every_start,
    no_change_error,
    predict_open_loop,
    spread_out,
    state_error,
    steps_to_termination,
    typical,
)
from mbrl_lab.report.play import observe
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree

SPEC = EnvSpec((2,), torch.float32, 2, discrete=False)


class Adder:
    """Adds the action to the state and `bias` to that, pays the state's sum; each block of rows its own `bias`."""

    spec = SPEC

    def __init__(self, *bias: float) -> None:
        self.bias = torch.tensor(bias)

    def observe(self, state: Tree | None, step: Step) -> Tree:
        return {"at": step.obs}

    def features(self, state: Tree) -> Tensor:
        return state["at"]

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        bias = self.bias.repeat_interleave(len(action) // len(self.bias))[:, None]
        after = state["at"] + action + bias
        return {"at": after}, Outcome(after.sum(-1), torch.full_like(after[:, 0], 0.75))

    def update(self, steps: Step) -> tuple[Tree, Metrics]:
        raise NotImplementedError


def walk(first: Tensor) -> Step:
    """[T + 1, B] rows of the world that an Adder without bias describes; no episode ends."""
    action = torch.rand(*first.shape, 2) * ~first[..., None]
    obs = [action[0]]
    for a, begins in zip(action[1:], first[1:], strict=True):
        obs.append((obs[-1] + a).where(~begins[:, None], 100.0))
    seen = torch.stack(obs)
    return Step(action, seen, seen.sum(-1), torch.zeros_like(first), first)


def rows_of(length: int, *first: tuple[int, int]) -> Step:
    marks = torch.zeros(length, 2, dtype=torch.bool)
    marks[0] = True
    for t, b in first:
        marks[t, b] = True
    return walk(marks)


def look(model: Adder, rows: Step, starts: Tensor, horizon: int) -> OpenLoop:
    return predict_open_loop(model, rows, observe(model, rows), starts, horizon)


def test_the_true_model_makes_no_error_until_termination() -> None:
    rows = rows_of(6, (3, 1))
    starts = torch.tensor([[0, 0], [0, 1], [3, 1], [4, 0]])
    seen = look(Adder(0.0), rows, starts, 4)
    assert seen.valid.T.int().tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]
    error = (seen.predicted - seen.true[:, None]).abs().amax((1, 3))
    assert error[seen.valid].max() < 1e-4
    assert (seen.termination == 0.25).all() and seen.termination.shape == (4, COPIES, 4)


def test_each_block_of_copies_goes_to_another_member() -> None:
    rows = rows_of(6)
    seen = look(Adder(0.0, 1.0), rows, every_start(rows), 2)
    off = (seen.predicted - seen.true[:, None])[0, :, :, 0]
    half = COPIES // 2
    assert off[:half].abs().max() < 1e-4 and (off[half:] - 1).abs().max() < 1e-4


def test_a_bias_adds_up_and_is_in_units_of_change() -> None:
    rows = rows_of(12)
    seen = look(Adder(0.5), rows, torch.tensor([[0, 0], [1, 1]]), 3)
    scale = torch.tensor([0.5, 0.5, 9.0])
    torch.testing.assert_close(state_error(seen, scale)[:, 0], torch.tensor([1.0, 2.0, 3.0]))


def test_errors_are_unknown_beyond_a_termination() -> None:
    rows = rows_of(4, (2, 0))
    seen = look(Adder(0.5), rows, torch.tensor([[0, 0]]), 3)
    for error in (state_error(seen, torch.ones(3)), no_change_error(seen, torch.ones(3))):
        assert error.isnan().tolist() == [[False], [True], [True]]


def test_predicting_no_change_costs_the_change() -> None:
    rows = rows_of(5)
    seen = look(Adder(0.0), rows, torch.tensor([[0, 0]]), 4)
    change = (rows.obs[1:, 0] - rows.obs[0, 0]).square().mean(-1).sqrt()
    torch.testing.assert_close(no_change_error(seen, torch.ones(3))[:, 0], change)


def test_the_unit_of_what_does_not_vary_is_one() -> None:
    rows = rows_of(50)
    rows = rows._replace(reward=torch.ones_like(rows.reward))
    scale = change_std(look(Adder(0.0), rows, every_start(rows), 1))
    torch.testing.assert_close(scale[:2], rows.action[1:].flatten(0, 1).std(0, correction=0))
    assert scale[2] == 1


def test_starts_are_spread_over_all_transitions() -> None:
    starts = every_start(rows_of(101, (50, 0)))
    assert len(starts) == 199 and [49, 0] not in starts.tolist()
    some = spread_out(starts, 10)
    assert len(some) == 10 and some[-1, 0] >= 85
    assert len(spread_out(starts, 1000)) == 199


@pytest.mark.parametrize(
    ("valid", "error", "chosen"),
    [
        ([[1, 1, 1], [1, 1, 1]], [3.0, 1.0, 2.0], (2, 2)),
        ([[1, 1, 1], [1, 0, 0]], [9.0, 1.0, 2.0], (0, 2)),
        ([[1, 1, 1], [0, 0, 0]], [1.0, 2.0, 3.0], (1, 1)),
    ],
)
def test_a_typical_start_is_of_median_error_among_the_furthest(
    valid: list[list[int]], error: list[float], chosen: tuple[int, int]
) -> None:
    true = torch.zeros(2, 3, 2)
    predicted = torch.tensor(error)[None, None, :, None].expand(2, COPIES, 3, 2)
    seen = OpenLoop(torch.zeros(3, 1), predicted, true, true[:, None, :, 0], torch.tensor(valid).bool())
    assert typical(seen, torch.ones(2)) == chosen


def test_steps_to_termination() -> None:
    first = torch.tensor([[1, 0, 0, 1, 0, 0, 1]]).T.bool()
    terminal = torch.tensor([[0, 0, 1, 0, 0, 0, 0]]).T.bool()
    zero = torch.zeros(7, 1)
    left = steps_to_termination(Step(zero, zero, zero, terminal, first))
    assert left[:, 0].tolist() == [2, 1, 0] + [torch.inf] * 4
