"""Write a report of runs as one HTML file that opens offline: curves, statistics, videos and diagnostics."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

from mbrl_lab.app import check_whole
from mbrl_lab.cli.terminal import add_places, add_threshold, command, make_parser, print_line
from mbrl_lab.config import ConfigError
from mbrl_lab.report.page.runs import UNREADABLE, Run, Waiting, read_runs
from mbrl_lab.report.page.serve import Pages, make_server
from mbrl_lab.sweep.jobs import NAME, read_sweep
from mbrl_lab.sweep.table import not_started
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.folder import one_line

Read = tuple[list[Run], list[str], list[Waiting]]

MEGABYTE = 1_000_000
PORT = 8265


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, with one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: report(args))


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("report", __doc__)
    add_places(p)
    where = p.add_mutually_exclusive_group()
    where.add_argument(
        "--out", metavar="FILE", type=Path, help="the file (report.html, in the folder if only one is given)"
    )
    where.add_argument(
        "--serve",
        metavar="PORT",
        type=int,
        nargs="?",
        const=PORT,
        help=f"no file, but a page at http://localhost:PORT ({PORT}) that follows runs while they train",
    )
    add_threshold(p)
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

    for place in args.places:
        check_whole(place, "curves to report")

    # The libraries of the page are optional.
    try:
        from mbrl_lab.report.page.content import content
        from mbrl_lab.report.page.render import render
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "mbrl_lab[report]"') from error

    def page_of(read: Read, link: Callable[[Path], str], version: str | None = None) -> str:
        runs, problems, waiting = read
        shown = content(runs, problems, args.threshold, int(args.embed * MEGABYTE), link, waiting)
        return render(shown, version)

    if args.serve is not None:
        # The first page before the server: an error is a line here, not in the browser.
        pages = Pages(args.places, lambda link, version: page_of(read(args.places), link, version))
        pages.current()
        with make_server(pages, args.serve) as server, suppress(KeyboardInterrupt):
            print_line(f"report    http://localhost:{server.server_port} follows the runs; Ctrl-C stops")
            server.serve_forever()
        return

    out = args.out or home_of(args.places) / "report.html"
    runs, problems, waiting = read(args.places)
    page = page_of((runs, problems, waiting), partial(relative, out.resolve().parent))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    for line in problems:
        print(f"note      {line}")
    print(f"report    {out} ({len(page.encode()) / MEGABYTE:.1f} MB, {len(runs)} run{'' if len(runs) == 1 else 's'})")


def home_of(places: Sequence[Path]) -> Path:
    """Where a report goes: into the folder that it is about, if that is one; else here."""
    return places[0] if len(places) == 1 else Path()


def read(places: Sequence[Path]) -> Read:
    """The runs in and below some places, the jobs of sweeps there that have not started, and a line for each problem.

    ValueError, one line, if no run has started.
    """
    runs, problems = read_runs(places)
    waiting = []
    for file in sorted({file.resolve() for place in places for file in place.rglob(NAME)}):
        try:
            sweep = read_sweep(file.parent)
            assert sweep is not None, file
            states = not_started(sweep)
            commands = {name: shlex.join(["mbrl-lab", "train", *sweep.jobs[name].overrides]) for name in states}
        except UNREADABLE as error:
            problems.append(f"{file} is damaged: {one_line(error) or type(error).__name__}")
            continue
        waiting += [Waiting(name, state, commands[name]) for name, state in states.items()]
    return runs, problems, waiting


def relative(home: Path, path: Path) -> str:
    """The address of a file for a page in `home`."""
    return quote(Path(os.path.relpath(path, home)).as_posix())
