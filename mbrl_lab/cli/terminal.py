"""Used by all commands: errors in a line or two, exit codes, and output to a closed pipe."""

from __future__ import annotations

import argparse
import errno
import io
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch
from omegaconf.errors import OmegaConfBaseException

from mbrl_lab.config import ConfigError
from mbrl_lab.config.messages import deleted_key
from mbrl_lab.tracking.folder import RunRefused
from mbrl_lab.tracking.progress import hush
from mbrl_lab.tracking.provenance import shell_command
from mbrl_lab.tracking.signals import STOPPED


def message_of_error(error: BaseException) -> str | None:
    """One or two lines for an error that a user can fix; None for a bug."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return (
            "out of memory: make planner.population, planner.particles, dynamics.width, dynamics.members,"
            " dynamics.trainer.batch, eval.num or replay.capacity smaller"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error}: free some space there, and run the same command again"
    if isinstance(error, OmegaConfBaseException):
        return deleted_key(error)
    if isinstance(error, ConfigError | RunRefused | FloatingPointError | OSError | ValueError):
        return str(error)
    return None


def attempt(work: Callable[[], None]) -> int:
    """A script's exit code: 0, or 2 and a line for an error that a user can fix. Bugs are raised, with a traceback."""
    write_any_letter()
    try:
        work()
    except BrokenPipeError:
        hush(1)
        return UNHEARD
    except Exception as error:
        lines = message_of_error(error)
        if lines is None:
            raise
        print(f"error: {lines}", file=sys.stderr)
        return 2
    return 0


def command(work: Callable[[], None], stopped: str = STOPPED) -> int:
    """`attempt`, and the line `stopped` with exit code 130 after Ctrl-C."""
    try:
        return attempt(work)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130


class Parser(argparse.ArgumentParser):
    """The options of a command; a mistake in them is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help shows the options\n")


def make_parser(name: str, description: str | None) -> Parser:
    """The parser of the command `name`."""
    return Parser(prog=shell_command(name), description=description)


def add_run(parser: argparse.ArgumentParser, what: str = "a run's folder") -> None:
    """`RUN`, by its folder."""
    parser.add_argument("run", metavar="RUN", type=Path, help=what)


def add_places(parser: argparse.ArgumentParser) -> None:
    """`FOLDER...`, in and below which there are runs."""
    parser.add_argument("places", metavar="FOLDER", nargs="+", type=Path, help="runs, sweeps, or folders with runs")


def add_threshold(parser: argparse.ArgumentParser) -> None:
    """`--threshold`, for a command that counts steps to a return."""
    text = "a return to count steps to (env.threshold, or gymnasium's own)"
    parser.add_argument("--threshold", type=float, help=text)


def count(text: str, low: int) -> int:
    """An option's whole number from `low`."""
    if not text.isdecimal() or int(text) < low:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low}")
    return int(text)


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """`--checkpoint`: whose weights."""
    parser.add_argument("--checkpoint", default="last", help="last (default), best, or another checkpoint's folder")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """`--trust`, for a command that builds what a run's config names."""
    parser.add_argument(
        "--trust",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module of your own that the run's config may build from, beside mbrl_lab; may be given several times",
    )


def write_any_letter() -> None:
    """Print letters that the terminal's encoding lacks as escapes, so that no run fails because of them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # the stream is closed
                stream.reconfigure(errors="backslashreplace")


def print_line(text: str) -> None:
    """Print; a run continues if nobody reads its output any more, as after `| head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        hush(1)


UNHEARD = 128 + 13
"""The exit code of a script whose output nobody reads any more, as after SIGPIPE."""
