"""The metrics of predicted images, on images and scores made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mbrl_lab.dynamics.quality import (
    FramePredictions,
    average_precision,
    changed,
    f1,
    image_metrics,
    matches,
    open_loop,
    rare,
    recall_of,
    tiles_right,
    trusted_horizon,
)
from mbrl_lab.env.objects import breakout, grey_in, spaceinvaders
from mbrl_lab.types import Outcome, Step


def field(*balls: tuple[float, int]) -> Tensor:
    """[N, 1, 84, 84]: the paddle, and a ball of 2 x 2 at each (row, column), none where the column is negative."""
    out = torch.zeros(len(balls), 1, 84, 84, dtype=torch.uint8)
    out[:, :, 76, 10:20] = 140
    for n, (row, column) in enumerate(balls):
        if column >= 0:
            out[n, 0, int(row) : int(row) + 2, column : column + 2] = 60
    return out


def seen(predicted: Tensor, true: Tensor, start: Tensor, valid: Tensor | None = None) -> FramePredictions:
    """[H, N, ...] predictions of frames, and of nothing else."""
    valid = torch.ones(predicted.shape[:2], dtype=torch.bool) if valid is None else valid
    zero = torch.zeros_like(valid, dtype=torch.float32)
    return FramePredictions(start, start, predicted, true, valid, zero, zero, zero, zero.bool(), valid)


def test_the_ball_is_found_where_it_is_and_nowhere_else() -> None:
    ball = breakout(field((50, 30), (30, 30), (50, -1), (76, 40))[:, 0])["ball"]
    assert ball.visible.tolist() == [True, False, False, False], "not among bricks, not lost, not beside the paddle"
    assert ball.mass[0] == 240 and ball.centre[0].tolist() == [50.5, 30.5]


def test_parts_of_space_invaders() -> None:
    image = torch.zeros(1, 84, 84, dtype=torch.uint8)
    image[0, 75:77, 20:24] = 98
    image[0, 58, 40] = 70
    image[0, 20:40, 10:20] = 80
    found = spaceinvaders(image)
    assert all(x.visible for x in found.values())
    assert found["cannon"].centre[0].tolist() == [75.5, 21.5] and found["shots"].centre[0].tolist() == [58, 40]
    assert not spaceinvaders(torch.zeros(1, 84, 84, dtype=torch.uint8))["shots"].visible


def test_a_part_matches_within_two_pixels_and_with_about_its_mass() -> None:
    def of(row: int, column: int, grey: int) -> Tensor:
        image = torch.zeros(1, 9, 9, dtype=torch.uint8)
        image[0, row, column] = grey
        return image

    def sees(image: Tensor) -> bool:
        true, said = (grey_in(x, [(0, 9)], (0, 9), 1, 1_000) for x in (of(4, 4, 100), image))
        return bool(matches(said, true))

    assert sees(of(4, 6, 100)) and not sees(of(4, 7, 100)) and sees(of(4, 4, 40)) and not sees(of(4, 4, 39))
    assert sees(of(4, 4, 250)) and not sees(of(4, 4, 251))


def test_ball_recall_counts_where_it_can_be_seen_and_no_life_was_lost() -> None:
    start, true = field((50, 30), (50, 30), (50, 30), (50, -1)), field((52, 32), (52, 32), (52, 32), (52, 32))
    said = field((53, 33), (56, 36), (56, 36), (56, 36))
    valid = torch.tensor([[True, True, False, True]])
    assert recall_of(breakout, seen(said[None], true[None], start, valid))["ball"].tolist() == [0.5]
    nothing = recall_of(breakout, seen(said[None], true[None], start, torch.zeros(1, 4, dtype=torch.bool)))
    assert nothing["ball"].isnan().all()


def test_f1_and_tiles_of_changed_pixels_by_hand() -> None:
    start, true = field((50, 30), (60, 60)), field((50, 40), (60, 62))
    said = field((50, 40), (60, 60))
    loop = seen(torch.stack([said, start]), torch.stack([true, true]), start)
    a, b = changed(loop, 16)
    assert f1(a, b, loop.valid)[0] == pytest.approx(2 * 8 / (8 + 16)), "8 of 16 pixels, none wrong"
    right = tiles_right(a, b, loop.valid)
    assert right[0] == pytest.approx(2 / 3), (
        "the first ball leaves a tile and comes to another, the second stays in one"
    )
    assert right[1] == 0 and f1(a, b, loop.valid)[1] == 0
    only_first = seen(said[None], true[None], start, torch.tensor([[True, False]]))
    assert f1(*changed(only_first, 16), only_first.valid)[0] == 1


def test_small_grids_have_a_tile_for_each_cell() -> None:
    start = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    true, said = start.clone(), start.clone()
    true[0, 0, 1, 1] = true[0, 1, 2, 2] = said[0, 0, 1, 1] = said[0, 0, 3, 3] = 1
    loop = seen(said[None], true[None], start)
    assert tiles_right(*changed(loop, 0), loop.valid).tolist() == [0.5]


def test_the_trusted_horizon_ends_before_the_first_step_below_the_threshold() -> None:
    assert trusted_horizon(torch.tensor([0.95, 0.91, 0.8, 0.99])) == 2
    assert trusted_horizon(torch.tensor([0.5])) == 0


def test_average_precision_by_hand() -> None:
    label = torch.tensor([1, 0, 1, 0]).bool()
    assert average_precision(torch.tensor([0.9, 0.8, 0.7, 0.1]), label) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(torch.full((4,), 0.3), label) == pytest.approx(0.5), "the base rate, if nothing is known"
    assert math.isnan(average_precision(torch.rand(4), torch.zeros(4).bool()))


def test_rare_outcomes_in_numbers() -> None:
    found = rare("termination", torch.tensor([0.9, 0.6, 0.2, 0.1]), torch.tensor([True, False, True, False]))
    assert found["model/openloop/termination/precision"] == 0.5 and found["model/openloop/termination/recall"] == 0.5
    assert found["model/openloop/termination/calibration"] == pytest.approx(0.9)
    assert rare("termination", torch.rand(3), torch.zeros(3).bool()) == {}


class Ticker:
    """Its frame is one number that goes up by the action; pays what it shows."""

    lead, shape = 1, (1, 4, 4)

    def initial_state(self, steps: Step) -> Tensor:
        return torch.cat([steps.obs[0], steps.obs[1]], 1)

    def expect(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        frame = state[:, -1:] + action.view(-1, 1, 1, 1).byte()
        return torch.cat([state[:, 1:], frame], 1), Outcome(frame[:, 0, 0, 0].float(), torch.full((len(action),), 0.75))

    def closest_outcome(self, state: Tensor, action: Tensor, frame: Tensor) -> Tensor:
        return torch.cat([state[:, 1:], frame // 2 * 2], 1)  # only even numbers are possible


def test_open_loop_takes_the_true_actions_until_a_termination_or_truncation() -> None:
    count = torch.tensor([0, 2, 5, 9, 9])
    obs = count.view(5, 1, 1, 1, 1).expand(5, 3, 1, 4, 4).byte()
    action = torch.tensor([0, 2, 3, 4, 0]).view(5, 1).expand(5, 3)
    terminal, first = torch.zeros(5, 3, dtype=torch.bool), torch.zeros(5, 3, dtype=torch.bool)
    terminal[3, 1] = first[3, 2] = True
    steps = Step(action, obs, count.view(5, 1).float().expand(5, 3), terminal, first)
    loop = open_loop(Ticker(), steps)  # type: ignore[arg-type]
    assert loop.predicted[:, 0, 0, 0, 0].tolist() == [5, 9, 9] and loop.reward[:, 0].tolist() == [5, 9, 9]
    assert loop.start[0, 0, 0, 0] == 2 and loop.before[0, 0, 0, 0] == 0 and loop.termination[0, 0] == 0.25
    assert loop.valid.T.tolist() == [[True, True, True], [True, False, False], [True, False, False]]
    assert loop.first.T.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    oracle = open_loop(Ticker(), steps, oracle=True)  # type: ignore[arg-type]
    assert oracle.predicted[:, 0, 0, 0, 0].tolist() == [4, 8, 8] and oracle.reward[:, 0].tolist() == [5, 8, 8]
    found, trusted = image_metrics(loop, oracle, 0, None)
    assert found["model/openloop/obs/changed_f1_1"] == 1.0 and found["model/openloop/trusted_horizon"] == trusted == 3
    oracle.predicted[1] = oracle.start
    assert image_metrics(loop, oracle, 0, None)[1] == 1, "the horizon is that of the oracle"
