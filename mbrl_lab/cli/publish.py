"""Publish a run's agent on the Hugging Face Hub, or write the same as a folder: weights, config, card, results."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mbrl_lab.app import check_whole
from mbrl_lab.cli.terminal import add_checkpoint, add_run, command, make_parser
from mbrl_lab.config import ConfigError
from mbrl_lab.hub import Agent, upload, write_bundle
from mbrl_lab.hub.card import Facts
from mbrl_lab.hub.upload import check_repo


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, and one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: publish(args), "stopped")


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("publish", __doc__)
    add_run(p)
    where = p.add_mutually_exclusive_group()
    where.add_argument("--repo", metavar="USER/NAME", help="the repository, which is made if it does not exist")
    where.add_argument("--out", metavar="FOLDER", type=Path, help="a new folder instead, without any network")
    add_checkpoint(p)
    p.add_argument("--license", metavar="NAME", help="as the Hub names it, e.g. mit; by default the card names none")
    p.add_argument("--private", action=argparse.BooleanOptionalAction, help="of a new repository")
    p.add_argument("--revision", metavar="BRANCH", help="an existing branch of the repository (main)")
    p.add_argument("--token", help="HF_TOKEN by default, or that of `hf auth login`")
    p.add_argument("--replace", action="store_true", help="replace another agent that the repository holds")
    return p


def publish(args: argparse.Namespace) -> None:
    """Write the folder, and upload it unless it stays."""
    if not args.repo and not args.out:
        raise ConfigError("name a place: --out FOLDER writes the agent there, --repo USER/NAME uploads it to the Hub")
    if args.repo:
        check_repo(args.repo)
    check_whole(args.run, "checkpoint to publish")
    agent = Agent.of(args.run, args.checkpoint)
    if args.out:
        show(write_bundle(agent, args.out, license=args.license))
        print(f"publish   {args.out}")
        return

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "bundle"
        facts = write_bundle(agent, folder, args.repo, args.license)
        run = agent.folder.identity()
        address = upload(folder, args.repo, run, args.token, args.private, args.revision, args.replace)
    show(facts)
    print(f"publish   {address}")


def show(facts: Facts) -> None:
    print(f"agent     {facts.title}: mean return {facts.score}, {facts.results['n_eval_episodes']} episodes")
    print(f"files     {', '.join(['README.md', *facts.files])}")
