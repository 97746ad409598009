"""Numbers of a diagnosis, by hand: a row for each dimension and each number of steps ahead, in CSV and in words."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch

from mbrl_lab.dynamics.validation import Validation
from mbrl_lab.report.calibration import draw_calibration, draw_coverage, draw_output_scatter, draw_quantiles, shown
from mbrl_lab.report.figure import make_panels
from mbrl_lab.report.open_loop import COPIES, OpenLoop, state_spread
from mbrl_lab.report.tables import by_dimension, by_horizon, table, write_csv


def validation(below: torch.Tensor) -> Validation:
    """Two outputs: a state off by 3 and 4 (rms 3.54) with a mean of 3.5, a reward off by -1 and 1."""
    error = torch.tensor([[3.0, -1.0], [4.0, 1.0]])
    none = torch.zeros(2)
    return Validation(torch.ones(2, 2), error, torch.full((2, 2), 0.5), below, none, none.bool())


def test_a_row_for_each_dimension() -> None:
    state, reward = by_dimension(validation(torch.tensor([[0.5, torch.nan], [0.05, torch.nan]])))
    assert state == {"of": "state 0", "error": pytest.approx(12.5**0.5), "bias": 3.5, "spread": 0.5} | {
        "in_50": 0.5,
        "in_80": 0.5,
        "in_95": 1.0,
    }
    assert (reward["of"], reward["error"], reward["bias"]) == ("reward", 1, 0) and math.isnan(reward["in_50"])


def far() -> OpenLoop:
    """Two steps from two starts; copies alternate around an error of 1 at the first step, of 2 at the second."""
    true = torch.zeros(2, 2, 2)
    alternate = torch.tensor([0.5, -0.5]).repeat(COPIES // 2).view(1, COPIES, 1, 1)
    predicted = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1) + alternate.expand(2, COPIES, 2, 2)
    valid = torch.tensor([[True, True], [True, False]])
    return OpenLoop(torch.full((2, 1), -3.0), predicted, true, torch.zeros(2, COPIES, 2), valid)


def test_a_row_for_each_number_of_steps_ahead() -> None:
    """Error: root of 1 + 0.25 and 4 + 0.25, in units of 2; reward: of the mean of copies."""
    first, second = by_horizon(far(), torch.tensor([2.0, 1.0]))
    assert (first["steps"], first["starts"], second["starts"]) == (1, 2, 1)
    assert (first["error"], second["error"]) == pytest.approx((1.25**0.5 / 2, 4.25**0.5 / 2))
    assert (first["spread"], first["no_change"]) == pytest.approx((0.25, 1.5))
    assert (first["reward_error"], second["reward_error"]) == pytest.approx((1, 2))


def test_spread_is_unknown_beyond_a_termination() -> None:
    assert state_spread(far(), torch.ones(2)).isnan().tolist() == [[False, False], [False, True]]


def test_csv_leaves_out_what_is_not_known(tmp_path: Path) -> None:
    path = write_csv([{"of": "a", "x": 0.12345, "y": math.nan}, {"of": "b", "x": 1e6, "y": 1e-9}], tmp_path / "t.csv")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert rows == [{"of": "a", "x": "0.12345", "y": ""}, {"of": "b", "x": "1000000", "y": "1e-09"}]


def test_columns_of_a_table_are_aligned() -> None:
    assert table([{"no_change": 1.0, "n": 10}, {"no_change": math.nan, "n": 2}]) == (
        "no change   n\n        1  10\n        -   2"
    )


@pytest.mark.parametrize("known", [True, False])
def test_it_can_be_drawn(known: bool, tmp_path: Path) -> None:
    seen = validation(torch.rand(2, 2) if known else torch.full((2, 2), torch.nan))
    for draw in (draw_output_scatter, draw_calibration):
        assert draw(seen, "run", tmp_path / "p.png").stat().st_size > 0


def test_the_curve_of_a_calibrated_model_is_the_diagonal_and_its_belief_flat() -> None:
    below = torch.linspace(0.0005, 0.9995, 1000).unsqueeze(-1).expand(-1, 2)
    _, axes = make_panels(2, 2, "")
    draw_coverage(axes[0], below)
    for line in axes[0].lines[1:]:
        assert line.get_ydata() == pytest.approx(line.get_xdata(), abs=2e-3)
    draw_quantiles(axes[1], below)
    assert axes[1].patches[0].get_data().values == pytest.approx([1.0] * 20)  # type: ignore[attr-defined]
    assert len(axes[0].lines) == 3


def test_at_most_eight_outputs_are_drawn_the_reward_among_them() -> None:
    assert shown(3) == {"state 0": 0, "state 1": 1, "reward": 2}
    assert len(shown(100)) == 8 and shown(100)["reward"] == 99
