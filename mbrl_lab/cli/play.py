"""Play in a run's learned model by keyboard, on a page beside the real environment under the same actions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing, suppress

from mbrl_lab.app import load_run, stored_config
from mbrl_lab.cli.terminal import add_checkpoint, add_run, add_trust, command, make_parser, print_line
from mbrl_lab.config import ConfigError, build

PORT = 8266
FPS = 10.0


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, with one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: play(args))


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("play", __doc__)
    add_run(p)
    p.add_argument("--port", type=int, default=PORT, help=f"of the page, http://localhost:PORT ({PORT}; 0: a free one)")
    p.add_argument("--fps", metavar="N", type=float, default=FPS, help=f"steps per second, at most ({FPS:g})")
    add_checkpoint(p)
    add_trust(p)
    return p


def play(args: argparse.Namespace) -> None:
    """Load the run and serve the page until Ctrl-C."""
    if not 0 < args.fps <= 1000:
        raise ConfigError(f"--fps is {args.fps:g}; it must be a number above 0, at most 1000")

    # The library of the page is optional.
    try:
        from mbrl_lab.play.serve import make_server
        from mbrl_lab.play.session import Session, playable
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "mbrl_lab[play]"') from error

    runner = load_run(args.run, args.checkpoint, trust=args.trust)
    make = build(stored_config(runner.folder, args.trust).env.make)
    with closing(runner.envs):
        playable(runner, args.run)
        with make_server(lambda: Session(runner, make), args.port, args.fps) as server, suppress(KeyboardInterrupt):
            port = server.socket.getsockname()[1]
            print_line(f"play      http://localhost:{port} in a browser; Ctrl-C stops")
            server.serve_forever()
