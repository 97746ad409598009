"""The doctor's command line."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mbrl_lab.cli.terminal import attempt, make_parser
from mbrl_lab.config.layers import explain_key
from mbrl_lab.doctor.job import parts
from mbrl_lab.doctor.machine import Finding, findings

WIDTH = 80  # of the findings' column


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 1 if something needed is missing, 2 for an invalid job."""
    parser = make_parser("doctor", "Examine this machine, or the parts of a job.")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: examine that job")
    parser.add_argument("--config-dir", metavar="DIR", help="another folder of config files, as for train.py")
    parser.add_argument("--explain", metavar="KEY", help="where that job's setting, or group of settings, comes from")
    args = parser.parse_intermixed_args(argv)

    if args.explain:
        return attempt(lambda: print(explain_key(args.explain, args.overrides, args.config_dir)))
    return job(args.overrides, args.config_dir) if args.overrides else machine()


def machine() -> int:
    """Print the table and what to do; 1 if something needed is missing."""
    with quiet():
        found = findings()
    print(table(found))
    for f in found:
        if f.state != "ok" and f.cure:
            print(f"{f.state}: {f.name}: {f.cure}")
    return int(any(f.state == "missing" for f in found))


def job(overrides: Sequence[str], config_dir: str | None = None) -> int:
    """Print the parts that a command line builds; 2 and one line if it cannot be built."""

    def show() -> None:
        with quiet():
            lines = parts(overrides, config_dir)
        print("\n".join(lines))

    return attempt(show)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries print and warn, including output from C."""
    # Descriptors 1 and 2 themselves are redirected: C libraries do not use sys.stdout.
    saved: dict[int, int] = {}
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is not None:  # it was closed before we began
            stream.flush()
            saved[descriptor] = os.dup(descriptor)

    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in saved:
            os.dup2(sink, descriptor)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as text:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(text):
                yield
    finally:
        for descriptor, before in saved.items():
            os.dup2(before, descriptor)
        for descriptor in (*saved.values(), sink):
            os.close(descriptor)


def table(found: Sequence[Finding]) -> str:
    """name, finding, state: in aligned columns; a long finding goes on below."""
    name = max(len(f.name) for f in found)
    cells = [textwrap.wrap(f.finding, WIDTH) or [""] for f in found]
    width = max(len(line) for lines in cells for line in lines)
    # The first line of a finding has its name and state; the others continue below it.
    rows = []
    for f, (first, *more) in zip(found, cells, strict=True):
        rows.append(f"{f.name:{name}}  {first:{width}}  {f.state}")
        rows += [f"{'':{name}}  {line}" for line in more]
    return "\n".join(rows)
