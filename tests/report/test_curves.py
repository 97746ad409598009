"""Curves are read from a run's logs as they are, whole lines only, and only what was logged is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mbrl_lab.report.curves import draw_curves, draw_lengths, draw_losses, draw_returns, panels_of, read_metrics, series
from mbrl_lab.report.figure import make_panels
from mbrl_lab.tracking.folder import RunFolder

TRAIN = {"step": 10, "train/return": 5.0, "train/length": 5.0}
EVAL = {"step": 20, "eval/return": 8.0, "eval/return_std": 2.0, "eval/length": 8.0}
FIT = {"step": 30, "model/train/loss": -0.5, "model/holdout/loss": 0.25}
EPISODE = {"phase": "train", "step": 7, "return": 7.0, "length": 7}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    home = RunFolder(tmp_path)
    home.diagnostics.mkdir()
    return home


def test_metrics_are_whole_lines(folder: RunFolder) -> None:
    assert read_metrics(folder.metrics) == []
    folder.metrics.write_text(json.dumps(TRAIN) + "\n" + json.dumps(EVAL)[:9])
    assert read_metrics(folder.metrics) == [TRAIN]


def test_a_series_skips_rows_without_a_number() -> None:
    rows = [{"step": 1, "a": 3.0, "b": 1.0}, {"step": 2, "a": None, "b": 1.0}, {"step": 3, "a": 4.0}]
    np.testing.assert_array_equal(series(rows, "a"), [[1, 3], [3, 4]])
    np.testing.assert_array_equal(series(rows, "a", "b"), [[1], [3], [1]])
    assert series(rows, "c").shape == (2, 0)


def test_panels_are_those_with_data() -> None:
    assert panels_of([], []) == []
    assert panels_of([EVAL], []) == [draw_returns, draw_lengths]
    assert panels_of([], [EPISODE]) == [draw_returns, draw_lengths]
    assert panels_of([FIT], []) == [draw_losses]
    assert panels_of([TRAIN, FIT], [EPISODE]) == [draw_returns, draw_lengths, draw_losses]


def test_returns_show_what_was_logged() -> None:
    axes = make_panels(1, 1, "")[1][0]
    draw_returns(axes, [TRAIN, EVAL], [EPISODE])
    lines = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert lines["training episode"] == [[7, 7]]
    assert lines["training, mean"] == [[10, 5]]
    (evaluation,) = axes.containers
    assert evaluation.get_label() == "evaluation" and evaluation[0].get_xydata().tolist() == [[20, 8]]
    assert evaluation[2][0].get_segments()[0].tolist() == [[20, 6], [20, 10]]


@pytest.mark.parametrize(("loss", "scale"), [(0.5, "log"), (-0.5, "linear")])
def test_losses_are_on_a_log_scale_while_they_are_positive(loss: float, scale: str) -> None:
    axes = make_panels(1, 1, "")[1][0]
    draw_losses(axes, [FIT | {"model/train/loss": loss}], [])
    assert axes.get_yscale() == scale


def test_a_run_without_logs_has_no_picture(folder: RunFolder) -> None:
    assert draw_curves(folder) == []
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in (TRAIN, EVAL, FIT)))
    assert draw_curves(folder) == [folder.diagnostics / "curves.png"]
    assert (folder.diagnostics / "curves.png").read_bytes().startswith(b"\x89PNG")
