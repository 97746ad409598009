"""How well a run of Dreamer on Atari's Breakout or Space Invaders decodes and predicts, on play that is not its own.

    OMP_NUM_THREADS=1 python benchmarks/imagination_quality.py outputs/RUN
    OMP_NUM_THREADS=1 python benchmarks/imagination_quality.py outputs/RUN --game spaceinvaders --csv quality.csv

The play is what benchmarks/frames_quality.py holds out, and figures have the names and meanings that they have there.
The model sees all of it. `seen`: its reconstruction of the newest frame. `imagined`: its predictions so many steps
after the last frame that it observed, from the actions that were taken. `copy`: the last frame again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from frames_quality import AHEAD, GAMES, measure, played, write
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab import load_run
from mbrl_lab.config import ConfigError
from mbrl_lab.dynamics.quality import FramePredictions
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.report.play import observe
from mbrl_lab.types import Outcome, Step, Tree


def from_second(rows: Step, steps: int, later: int) -> Step:
    """Rows `later` after each of the rows [T, B] that have one before them and `steps` after them, flat."""
    return Step(*(x[1 + later : len(x) - steps + later].flatten(0, 1) for x in rows))


def telling(model: SequenceModel, state: Tree, outcome: Outcome, row: Step, goes_on: Tensor) -> tuple[Tensor, ...]:
    """What an FramePredictions holds of one step [N] of episodes that went on until then."""
    first = goes_on & ~row.first
    predicted = torch.cat([model.decode(part).round().byte() for part in parts(state)])
    return predicted, row.obs, first & ~row.terminal, outcome.reward, row.reward, 1 - outcome.cont, row.terminal, first


def parts(state: Tree) -> list[Tree]:
    """States [N, ...] in few enough at a time to decode."""
    count = len(next(iter(state.values())))
    return [tree_map_only(Tensor, lambda x, i=i: x[i : i + 256], state) for i in range(0, count, 256)]


def seen(model: SequenceModel, rows: Step, states: Tree) -> FramePredictions:
    """What is predicted of each of the rows [T, B] from the state in which it has been seen."""
    after = tree_map_only(Tensor, lambda x: x[2:].flatten(0, 1), states)
    row = from_second(rows, 1, 1)
    predicted = telling(model, after, model.outcome(model.features(after)), row, torch.ones_like(row.first))
    return compared(rows, 1, [predicted])


def imagined(model: SequenceModel, rows: Step, states: Tree, steps: int) -> FramePredictions:
    """What is predicted of `steps` rows that were not seen, from the actions that were taken."""
    state = tree_map_only(Tensor, lambda x: x[1 : len(x) - steps].flatten(0, 1), states)
    goes_on = torch.ones_like(from_second(rows, steps, 0).first)
    predicted = []
    for h in range(1, steps + 1):
        row = from_second(rows, steps, h)
        state, outcome = model.imagine(state, row.action)
        predicted.append(telling(model, state, outcome, row, goes_on))
        goes_on = predicted[-1][2]
    return compared(rows, steps, predicted)


def compared(rows: Step, steps: int, predicted: list[tuple[Tensor, ...]]) -> FramePredictions:
    """What was predicted of each step, beside the two frames that were last seen."""
    start, before = (from_second(rows, steps, later).obs for later in (0, -1))
    return FramePredictions(start, before, *(torch.stack(x) for x in zip(*predicted, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--game", choices=sorted(GAMES), default="breakout")
    parser.add_argument("--steps", type=int, default=8_000, help="of play to validate on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        runner = load_run(given.run, device="cpu")
    except ConfigError as error:
        parser.error(str(error))
    model = getattr(runner.algo, "model", None)
    if not isinstance(model, SequenceModel) or model.spec.obs_shape[1:] != (84, 84):
        parser.error(f"{given.run} holds no Dreamer that learned from frames of 84 x 84")
    play = [row for _, row in played(given.game, given.steps, given.seed, 4)]
    rows = Step(*map(torch.stack, zip(*play, strict=True)))
    rows = rows._replace(obs=rows.obs[:, :, -model.spec.obs_shape[0] :])
    with torch.no_grad(), runner.autocast():
        states = observe(model, rows)
        now, later = seen(model, rows, states), imagined(model, rows, states, AHEAD)
    copied = later._replace(
        predicted=later.start.expand_as(later.true),
        reward=torch.zeros_like(later.reward),
        termination=torch.zeros_like(later.termination),
    )
    table: list[dict[str, Any]] = []
    for name, x in {"copy": copied, "seen": now, "imagined": later}.items():
        figures = measure(x, given.game)
        table.append({"what": name, "game": given.game} | {k: v for k, v in figures.items() if k not in REWARDS})
        print(table[-1], flush=True)
    if given.csv:
        write(table, given.csv)


REWARDS = {"reward_precision", "reward_recall", "reward_calibration"}
"""Figures of a sign's probability: here rewards are predicted as they are."""


if __name__ == "__main__":
    main()
