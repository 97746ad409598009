"""Write a paper's first draft about runs, as Markdown and LaTeX, whose numbers and figures come from the runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from mbrl_lab.app import check_whole
from mbrl_lab.cli.terminal import add_places, add_threshold, command, make_parser
from mbrl_lab.paper import write_paper
from mbrl_lab.paper.document import todos
from mbrl_lab.report.page.runs import read_runs


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, with one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: paper(args))


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("paper", __doc__)
    add_places(p)
    p.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="a new folder for text and figures")
    add_threshold(p)
    return p


def paper(args: argparse.Namespace) -> None:
    """Read the runs and write the folder."""
    for place in args.places:
        check_whole(place, "curves to write about")
    runs, problems = read_runs(args.places)
    document = write_paper(runs, args.out, args.threshold)
    for line in problems:
        print(f"note      {line}")
    print(f"paper     {args.out}/paper.md, {args.out}/paper.tex: {todos(document)} places marked [write: ...]")
    print(f"numbers   {args.out}/numbers.json: the runs behind each number")
