"""How well a world model of Atari frames keeps what is small, on play that it did not learn from.

    OMP_NUM_THREADS=1 nice python benchmarks/frames_quality.py --updates 20_000 --bf16 --save /tmp/breakout
    OMP_NUM_THREADS=1 nice python benchmarks/frames_quality.py --updates 2_000 --bf16 --target delta
    OMP_NUM_THREADS=1 nice python benchmarks/frames_quality.py --game spaceinvaders --updates 5_000 --bf16

Data is made here: half of the environments follow the ball (Space Invaders: move and shoot), with some share of random
actions, each of its own, the others play at random. What is held out comes from other episodes of the same players.
Beside the model: the last frame again (`copy`), and a straight line of the true ball (`line`), which knows no walls.

Ball recall at k: over starts with the ball visible in the last two real frames and the true one k steps on, and no life
lost between, the share where the predicted ball has 0.4 to 2.5 times the true grey and its centre within 2 pixels.
Changed pixels: those that differ from the last real frame by more than 16. `bricks_f1`: the same in rows 22 to 37, and
of Space Invaders `aliens_f1` in rows 10 to 53, `shots_f1` in 54 to 73, `cannon_f1` in 74 to 77. The aliens march by a
pixel every eight steps, so that their recall tells nothing: the last frame has all of it.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mbrl_lab.dynamics import FrameModel, ImageTrainer
from mbrl_lab.dynamics.image_trainer import model_steps
from mbrl_lab.dynamics.optim import Optim
from mbrl_lab.dynamics.quality import (
    FramePredictions,
    changed,
    f1,
    matches,
    open_loop,
    rare,
    recall_of,
    tiles_right,
    trusted_horizon,
)  # fmt: skip
from mbrl_lab.env import Envs
from mbrl_lab.env.atari import AtariVector
from mbrl_lab.env.objects import breakout, grey_in, spaceinvaders
from mbrl_lab.nets.speed import keep_freed_memory
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

GAMES = {"breakout": ("breakout", breakout), "spaceinvaders": ("space_invaders", spaceinvaders)}
BANDS = {
    "breakout": {"bricks_f1": slice(22, 38)},
    "spaceinvaders": {"aliens_f1": slice(10, 54), "shots_f1": slice(54, 74), "cannon_f1": slice(74, 78)},
}
NUM, AHEAD, FIRE, RIGHT, LEFT = 16, 10, 1, 2, 3


def play(game: str, steps: int, seed: int, stack: int) -> Replay:
    """A replay of so many steps of players from random to good."""
    rows = played(game, steps, seed, stack)
    spec, first = next(rows)
    replay = Replay(spec, steps + 32 * NUM, NUM, seed)
    replay.add(first)
    for _, row in rows:
        replay.add(row)
    return replay


def played(game: str, steps: int, seed: int, stack: int) -> Iterator[tuple[EnvSpec, Step]]:
    """The rows of such players, one of NUM environments after the other, with what environments are like."""
    rules: dict[str, Any] = {"protocol": "100k", "frame_skip": 4, "serve": True, "actions": None}
    make = partial(AtariVector, game=GAMES[game][0], frame_stack=stack, **rules)
    torch.manual_seed(seed)
    envs = Envs(make, NUM, seed, make_vector=make)
    random = torch.cat([torch.ones(NUM // 4), torch.linspace(0.5, 0.02, NUM - NUM // 4)])
    row = envs.reset()
    yield envs.spec, row
    held = envs.spec.sample(NUM)
    for _ in range(steps // NUM):
        held = torch.where(torch.rand(NUM) < 0.2, envs.spec.sample(NUM), held)
        wise = follow(row.obs[:, -2:]) if game == "breakout" else held
        row = envs.step(torch.where(torch.rand(NUM) < random, envs.spec.sample(NUM), wise))
        yield envs.spec, row
    envs.close()


def follow(frames: Tensor) -> Tensor:
    """[N] actions that bring the paddle below where Breakout's ball [N, 2, 84, 84] is going."""
    ball, before = breakout(frames[:, 1])["ball"], breakout(frames[:, 0])["ball"]
    paddle = grey_in(frames[:, 1], [(76, 77)], (5, 79), 0, 1e9)
    apart = ball.centre[:, 1] + 1.5 * (ball.centre - before.centre)[:, 1] * before.visible - paddle.centre[:, 1]
    action = torch.where(apart > 2, RIGHT, torch.where(apart < -2, LEFT, 0))
    return torch.where(ball.visible, action, 0)


class Copy:
    """The last frame again."""

    def __init__(self, model: FrameModel) -> None:
        self.begin, self.lead, self.shape, self.model = model.begin, model.lead, model.shape, model

    def expect(self, state: Tensor, action: Tensor) -> tuple[Tensor, Any]:
        _, outcome = self.model.expect(state[:1], action[:1])
        zeros = torch.zeros(len(state))
        return self.model.push_frame(state, state[:, -1:]), outcome._replace(reward=zeros, cont=1 - zeros)


def line(seen: FramePredictions) -> Tensor:
    """[H]: the recall of a ball that goes on as it did from the frame before to the last real one."""
    past, now = (breakout(x[:, 0])["ball"] for x in (seen.before, seen.start))
    found = []
    for h in range(len(seen.true)):
        true = breakout(seen.true[h, :, 0])["ball"]
        counts = seen.valid[h] & true.visible & past.visible & now.visible
        guess = now._replace(centre=now.centre + (h + 1) * (now.centre - past.centre))
        found.append((matches(guess, true) & counts).sum() / counts.sum())
    return torch.stack(found)


def windows(model: FrameModel, replay: Replay, fit: ImageTrainer, most: int) -> list[Step]:
    """Rows in chunks, evenly spread over what is held out."""
    indices = fit.windows(model, replay, AHEAD)
    indices = indices[torch.linspace(0, len(indices) - 1, min(most, len(indices))).long()]
    return [model_steps(model, replay, part, AHEAD) for part in indices.split(250)]


def look(model: Any, rows: list[Step], bf16: bool) -> FramePredictions:
    """All chunks as one."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16, cache_enabled=False):
        seen = [open_loop(model, x) for x in rows]
    start, before, *rest = zip(*seen, strict=True)
    return FramePredictions(torch.cat(start), torch.cat(before), *(torch.cat(x, 1) for x in rest))


def measure(seen: FramePredictions, game: str) -> dict[str, float]:
    """One line of the table."""
    said, was = changed(seen, FrameModel.change_threshold)
    every = {"f1": f1(said, was, seen.valid), "tiles": tiles_right(said, was, seen.valid)}
    every |= {name: f1(said[..., rows, :], was[..., rows, :], seen.valid) for name, rows in BANDS[game].items()}
    every |= recall_of(GAMES[game][1], seen)
    found = {f"{k}_{h}": round(float(x[h - 1]), 3) for k, x in every.items() for h in (1, 2, 5, 10)[: len(x)]}
    first = seen.first[0]
    for name, score, label in (
        ("reward", seen.reward[0].abs(), seen.true_reward[0] != 0),
        ("end", seen.termination[0], seen.true_termination[0]),
    ):
        found |= {
            k.removeprefix("model/"): round(float(v), 3) for k, v in rare(name, score[first], label[first]).items()
        }
        found[f"{name}_rate"] = round(float(label[first].float().mean()), 5)
    return found | {"trusted_horizon": trusted_horizon(every["tiles"])}


def train(model: FrameModel, fit: ImageTrainer, replay: Replay, args: argparse.Namespace, report: Any) -> None:
    """So many updates, with a learning rate that falls to nothing over the last half."""
    indices, _ = fit.split(fit.windows(model, replay, args.unroll))
    kinds = fit.prepare(model, replay, indices)
    begun = time.monotonic()
    for k in range(args.begun, args.updates):
        model.opt.param_groups[0]["lr"] = args.lr * min(1.0, 2 * (1 - k / args.updates))
        drawn = indices[torch.randint(len(indices), (model.members, args.batch))]
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16, cache_enabled=False):
            metrics = model.update(model_steps(model, replay, fit.oversample_events(drawn, kinds), args.unroll))[1]
        if (k + 1) % args.every == 0 or k + 1 == args.updates:
            report(k + 1, time.monotonic() - begun, {n: float(v) for n, v in metrics.items()})


def parsed() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--game", choices=sorted(GAMES), default="breakout")
    p.add_argument("--steps", type=int, default=60_000, help="of play to learn from")
    p.add_argument("--held-out", type=int, default=8_000, help="of play to validate on")
    p.add_argument("--windows", type=int, default=1_800, help="of it, to validate on")
    p.add_argument("--updates", type=int, default=2_000)
    p.add_argument("--begun", type=int, default=0, help="updates that --load was saved after")
    p.add_argument("--every", type=int, default=1_000, help="updates between tables")
    p.add_argument("--target", choices=["levels", "delta"], default="levels")
    p.add_argument("--members", type=int, default=1)
    p.add_argument("--history", type=int, default=4)
    p.add_argument("--unroll", type=int, default=1)
    p.add_argument("--patch", type=int, default=4)
    p.add_argument("--width", type=int, default=64)
    p.add_argument("--depth", type=int, default=2)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--clip", type=float, default=10.0)
    p.add_argument("--events", type=float, default=0.25)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--save", type=Path)
    p.add_argument("--load", type=Path)
    p.add_argument("--csv", type=Path)
    return p.parse_args()


def main() -> None:
    args = parsed()
    torch.manual_seed(args.seed)
    keep_freed_memory()
    unseen, replay = play(args.game, args.held_out, args.seed + 1, 4), play(args.game, args.steps, args.seed, 4)
    spec: EnvSpec = replay.spec
    model = FrameModel(
        spec,
        args.members,
        args.history,
        args.unroll,
        args.patch,
        args.width,
        args.depth,
        args.target,
        Optim(args.lr, args.clip),
        fit := ImageTrainer(args.batch, 0.0, 1, 0, 0.0, 0, False, args.events, GAMES[args.game][1]),
    )
    if args.load:
        model.load_state_dict(torch.load(args.load))
    rows = windows(model, unseen, fit, args.windows)
    rewards, ends = unseen.rewards_and_terminals(unseen.transitions())
    print(
        f"{spec}; held out: {len(rewards)} steps, {int((rewards != 0).sum())} rewards, {int(ends.sum())} ends",
        flush=True,
    )
    table: list[dict[str, Any]] = []

    def report(
        updates: int, seconds: float, losses: dict[str, float], of: Any = model, name: str = args.target
    ) -> None:
        seen = look(of, rows, args.bf16)
        result = {"model": name, "game": args.game, "updates": updates, "samples": updates * args.batch * args.members,
                  "minutes": round(seconds / 60, 1)} | measure(seen, args.game)  # fmt: skip
        if of is not model and args.game == "breakout":
            table.append(
                {"model": "line", "game": args.game}
                | {f"ball_{h}": round(float(line(seen)[h - 1]), 3) for h in (1, 2, 5, 10)}
            )
            print(table[-1], flush=True)
        table.append(result)
        print(result, {k: round(v, 4) for k, v in losses.items()}, flush=True)
        if args.save and of is model:
            torch.save(model.state_dict(), args.save)
        if args.csv:
            write(table, args.csv)

    report(0, 0.0, {}, Copy(model), "copy")
    if args.load:
        report(args.begun, 0.0, {})
    train(model, fit, replay, args, report)


def write(table: list[dict[str, Any]], path: Path) -> None:
    names = list(dict.fromkeys(name for row in table for name in row))
    with path.open("w") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
