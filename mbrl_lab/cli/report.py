"""Write a report of runs as one HTML file that opens offline: curves, statistics, videos and diagnostics."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from mbrl_lab.cli.terminal import attempt
from mbrl_lab.config import ConfigError
from mbrl_lab.report.page.runs import read_runs
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.signals import STOPPED

MEGABYTE = 1_000_000


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, with one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    try:
        return attempt(lambda: report(args))
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = argparse.ArgumentParser(prog="report.py", description=__doc__)
    p.add_argument("places", metavar="FOLDER", nargs="+", type=Path, help="runs, sweeps, or folders with runs")
    p.add_argument("--out", metavar="FILE", type=Path, help="the file (report.html in the first folder)")
    p.add_argument("--threshold", type=float, help="a return to count steps to (env.threshold, or gymnasium's own)")
    p.add_argument(
        "--embed",
        metavar="MB",
        type=float,
        default=20.0,
        help="pictures and videos up to this total are inside the file, the others are links (20)",
    )
    return p


def report(args: argparse.Namespace) -> None:
    """Read the runs and write the page."""
    if not args.embed >= 0:
        raise ConfigError(f"--embed is {args.embed:g}; it must be a number of megabytes from 0")

    # The libraries of the page are optional.
    try:
        from mbrl_lab.report.page.content import content
        from mbrl_lab.report.page.render import render
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "mbrl_lab[report]"') from error

    runs, problems = read_runs(args.places)
    out = args.out or args.places[0] / "report.html"
    home = out.resolve().parent
    page = render(content(runs, problems, args.threshold, int(args.embed * MEGABYTE), partial(relative, home)))

    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    print("\n".join(f"note      {line}" for line in problems), end="\n" if problems else "")
    print(f"report    {out} ({len(page.encode()) / MEGABYTE:.1f} MB, {len(runs)} runs)")


def relative(home: Path, path: Path) -> str:
    """The address of a file for a page in `home`."""
    return quote(Path(os.path.relpath(path, home)).as_posix())
