"""Export the steps in a run's replay as recorded episodes: .npz files, or a Minari dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mbrl_lab.app import check_whole, env_makers, stored_config
from mbrl_lab.cli.terminal import add_run, add_trust, command, make_parser
from mbrl_lab.config import ConfigError
from mbrl_lab.data import MINARI, episodes_of, write_minari, write_npz
from mbrl_lab.data.replay import joined
from mbrl_lab.env.actions import units_of
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import algorithm_of


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, and one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: export(args), "stopped")


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("data", __doc__)
    verbs = p.add_subparsers(dest="verb", required=True)
    out = verbs.add_parser("export", help="write the steps in a run's replay")
    add_run(out)
    where = out.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="FOLDER", type=Path, help="a new folder, with a file for each episode")
    where.add_argument("--minari", metavar="NAME", help="a new dataset of Minari, e.g. pendulum/random-v0")
    add_trust(out)
    return p


def export(args: argparse.Namespace) -> None:
    """Read the last checkpoint's replay, and write it."""
    check_whole(args.run, "replay to export")
    folder = RunFolder(args.run)
    config = stored_config(folder, args.trust)
    loaded = Checkpoint(folder.last).load()
    chunks = list(loaded.steps) if loaded else []
    if not loaded or not chunks:
        raise ConfigError(f"{folder.last} holds no replay to export")

    make, _ = env_makers(config)
    units = units_of(make)
    held = joined(chunks)
    episodes = episodes_of(held, units)
    if not episodes:
        raise ConfigError(f"{folder.last} holds no whole step to export")
    steps = sum(x.length for x in episodes)
    about = {
        "format": 1,
        "environment": folder.config()["env"]["make"],
        "algorithm": algorithm_of(folder.config()),
        "description": f"{steps} steps in {len(episodes)} episodes from the replay of a run of mbrl_lab",
        "episodes": len(episodes),
        "steps": steps,
    }
    if args.minari:
        write_minari(episodes, about, args.minari, units.space)
    else:
        write_npz(episodes, about, args.out)

    place = f"{MINARI}{args.minari}" if args.minari else args.out
    print(f"data      {steps:,} steps, {len(episodes):,} episodes")
    starts = held.first.numel() - steps
    print(f"left out  {starts:,} resets, one per episode: without an action; a run counts all but its first as steps")
    if gone := loaded.state["replay"]["added"] * held.first.shape[1] - held.first.numel():
        print(f"left out  {gone:,} older steps, which replay.capacity={config.replay.capacity} did not keep")
    print(f"data      {place}: train with replay.init={place}")
