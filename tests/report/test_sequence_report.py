"""Windows of open-loop prediction: where they begin, what is beside what, and what is written."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mbrl_lab import make_run
from mbrl_lab.report import draw
from mbrl_lab.report.sequence import CONTEXT, IMAGINED, DecodedWindows, by_step, coloured, imagined, starts, typical
from mbrl_lab.types import Outcome, Step, Tree


class Counts:
    """Its state is the observation, of one number; imagines that it grows by the action and pays what it was."""

    def decode(self, state: Tree) -> Tensor:
        return state

    def imagine(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        return state + action, Outcome(state[:, 0], torch.ones_like(state[:, 0]))


def rows(first: list[int], length: int = 60) -> Step:
    """One environment that counts rows; its actions are 1, but from row 30 on the world counts by 2."""
    flags = torch.zeros(length, 1, dtype=torch.bool)
    flags[first] = True
    time = torch.arange(float(length)).view(-1, 1, 1)
    obs = torch.where(time < 30, time, 2 * time - 30)
    return Step(torch.ones(length, 1, 1), obs, obs[:, :, 0] - 1, torch.zeros_like(flags), flags)


def test_contexts_lie_within_an_episode_and_something_follows_them() -> None:
    begun = starts(rows([0, 20, 23], length=30))
    times = [*range(4, 20), *range(27, 29)]
    assert begun[:, 0].tolist() == times and not begun[:, 1].any()
    assert len(starts(rows(list(range(30)), length=30))) == 0


def test_predictions_stand_beside_what_was_observed() -> None:
    steps = rows([0, 50])
    seen = imagined(Counts(), steps, steps.obs, torch.tensor([[25, 0], [45, 0]]))  # type: ignore[arg-type]
    assert seen.true.shape == seen.decoded_obs.shape == (CONTEXT + IMAGINED, 2, 1)
    assert seen.decoded_obs[:CONTEXT, 0, 0].tolist() == [21, 22, 23, 24, 25]
    assert seen.decoded_obs[CONTEXT : CONTEXT + 4, 0, 0].tolist() == [26, 27, 28, 29]
    assert seen.true[CONTEXT + 6, 0, 0] == 34 and seen.decoded_obs[CONTEXT + 6, 0, 0] == 32
    assert seen.decoded_reward[CONTEXT, 0] == 25 and seen.decoded_reward[:CONTEXT].isnan().all()
    assert seen.valid[:, 1].tolist() == [t < CONTEXT + 4 for t in range(CONTEXT + IMAGINED)]
    assert seen.valid[:, 0].sum() == CONTEXT + 24, "up to the row before the next episode"
    table = by_step(seen)
    assert [r["steps"] for r in table] == list(range(IMAGINED + 1))
    assert table[0]["error"] == 0 and table[1]["windows"] == 2 and table[-1]["windows"] == 0
    assert typical(seen) == 0


def test_pictures_have_three_colours() -> None:
    for channels in (1, 3, 6):
        picture = coloured(torch.ones(channels, 4, 5))
        assert picture.shape == (5, 6, 3) and picture.max() == 255
    assert coloured(torch.zeros(6, 4, 5))[:4, :5].max() == 0


@pytest.mark.parametrize(("env", "video"), [("cartpole", False), ("minatar_breakout", True)])
def test_a_run_leaves_its_open_loop(env: str, video: bool, tmp_path: Path) -> None:
    runner = make_run("dreamer", env, "debug=smoke", "video.final=0", "eval.every=0", folder=tmp_path, steps=110)
    runner.run()
    runner.envs.close()
    written = {path.name for path in draw(runner)}
    assert written == {"curves.png", "open_loop.csv", "open_loop.png", *(["open_loop.mp4"] if video else [])}
    table = list(csv.DictReader((runner.folder.diagnostics / "open_loop.csv").read_text().splitlines()))
    assert len(table) == IMAGINED + 1 and float(table[1]["error"]) > 0


def test_errors_are_unknown_after_the_episode() -> None:
    true = torch.zeros(CONTEXT + IMAGINED, 1, 2)
    seen = DecodedWindows(
        true, true + 1, true[..., 0], true[..., 0], torch.arange(CONTEXT + IMAGINED)[:, None] < CONTEXT + 1
    )
    assert [r["error"] for r in by_step(seen)[:2]] == [1, 1] and by_step(seen)[2]["error"] != by_step(seen)[2]["error"]
