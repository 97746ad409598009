"""The report of a model of images: windows, colours, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mbrl_lab import load_run, make_run
from mbrl_lab.cli.evaluate import main
from mbrl_lab.dynamics import Visual
from mbrl_lab.report.images import SIZE, coloured, diagnose_images, video_frames, windows
from mbrl_lab.types import Step


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    words = ["debug=smoke", "steps=60", "eval.every=0", "video.final=0", "env.num=1", "dynamics.members=2"]
    runner = make_run("mbpo", "minatar_breakout", *words, "preset=none", folder=folder)
    runner.run()
    runner.envs.close()
    return folder


def test_windows_begin_within_an_episode() -> None:
    first = torch.zeros(8, 2, dtype=torch.bool)
    first[0] = first[3, 1] = True
    rows = Step(*[torch.arange(16).view(8, 2)] * 4, first)
    assert windows(rows, 3, 99).action[0].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    assert windows(rows, 3, 3).action.T.tolist() == [[0, 2, 4], [6, 8, 10], [11, 13, 15]]


def test_pictures_are_large_and_grids_have_colours() -> None:
    grey = coloured(torch.full((1, 84, 84), 7, dtype=torch.uint8))
    assert grey.shape == (252, 252, 3) and (grey == 7).all()
    channels = torch.zeros(3, 10, 10, dtype=torch.uint8)
    channels[1, 0, 0] = 1
    picture = coloured(channels)
    assert picture.shape[0] >= SIZE and picture[0, 0].any() and not picture[-1, -1].any()


@pytest.mark.parametrize("channels", [10, 20])
def test_more_channels_than_colours_have_a_colour_each(channels: int) -> None:
    """A channel in each cell of the first rows: all are drawn, those of a repeated colour, too."""
    grid = torch.zeros(channels, 10, 10, dtype=torch.uint8)
    for k in range(channels):
        grid[k, k // 10, k % 10] = 1
    picture = coloured(grid)
    side = len(picture) // 10
    cells = picture[::side, ::side].reshape(100, 3)
    assert cells[:channels].any(1).all() and not cells[channels:].any()
    assert len({tuple(c) for c in cells[:8]}) == 8 and (cells[8] == cells[0]).all()


def test_evaluate_validates_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--model"]) == 0
    said = capsys.readouterr().out
    assert "open loop on fresh episodes" in said and "members  disagree by" in said and "trusted  rollouts of" in said
    numbers = json.loads((run / "diagnostics" / "model.json").read_text())
    assert 0 <= numbers["model/openloop/obs/changed_f1_1"] <= 1 and numbers["model/rollout/disagreement"] >= 0
    assert (run / "diagnostics" / "frames.csv").read_text().startswith("steps,changed f1,tiles right\n1,")
    assert all((run / "diagnostics" / name).stat().st_size for name in ("frames.mp4", "frames.png"))


def test_it_is_the_same_each_time_and_the_film_begins_with_the_truth(run: Path) -> None:
    runner = load_run(run)
    runner.envs.close()
    one, two = (diagnose_images(runner, runner.algo, num=1, steps=40) for _ in range(2))
    assert one.numbers == two.numbers
    model = runner.algo.model
    assert isinstance(model, Visual)
    pictures = video_frames(model, one.steps)
    assert len(pictures) == 40 and pictures[0].shape[1] == 3 * pictures[0].shape[0]
