"""Export a run's policy as files that do not need this package: by torch.export, and as ONNX with the extra export."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from mbrl_lab.app import env_makers, load_run, stored_config
from mbrl_lab.cli.terminal import add_checkpoint, add_run, add_trust, command, count, make_parser
from mbrl_lab.export import Exported, export
from mbrl_lab.export.write import SHEET, Timed
from mbrl_lab.tracking.settings import algorithm_of


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, and one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: write(args), "stopped")


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("export", __doc__)
    add_run(p, "a run's folder, a published agent's, or hf:USER/NAME")
    add_checkpoint(p)
    p.add_argument("--out", metavar="FOLDER", type=Path, help="where to write (export/ in the run's folder)")
    p.add_argument(
        "--steps",
        metavar="N",
        type=partial(count, low=1),
        default=500,
        help="real observations on which the files must act as the run does (500)",
    )
    add_trust(p)
    return p


def write(args: argparse.Namespace) -> None:
    """Write the files, and print what is in them."""
    runner = load_run(args.run, args.checkpoint, device="cpu", trust=args.trust)
    name = runner.folder.checkpoint_name(args.checkpoint)
    out = args.out or runner.folder.results / "export"
    make, _ = env_makers(stored_config(runner.folder, args.trust))
    with closing(runner.envs):
        done = export(runner, make, out, name, args.steps)

    print(f"policy    {algorithm_of(runner.folder.config())}, {name}, step {runner.steps:,}")
    print(f"inputs    {', '.join(map(str, done.module.signature.inputs))}")
    print(f"outputs   {', '.join(map(str, done.module.signature.outputs))}")
    print("\n".join(table(done)))
    print(f"compared  {len(done.played.inputs)} real observations, {done.played.episodes} episodes")
    if done.note:
        print(f"note      no ONNX: {done.note}")
    for file in (*done.files, SHEET):
        print(f"export    {out / file}")


def table(done: Exported) -> list[str]:
    """Aligned lines: size, time and difference of each file, and the time of the package itself."""
    lines = [("", "size", "one action", "largest difference"), row("mbrl_lab", done.package)]
    lines += [row(name, timed) for name, timed in done.files.items()]
    return [f"          {a:12}{b:>10}{c:>14}{d:>22}".rstrip() for a, b, c, d in lines]


def row(name: str, timed: Timed) -> tuple[str, str, str, str]:
    took = f"{1000 * timed.seconds:.3f} ms"
    if timed.parity is None:
        return name, "", took, ""
    return name, f"{timed.size / 1000:,.0f} kB", took, f"{timed.parity.difference:.1e}"
