"""Show the runs of a sweep, start unfinished ones again, and collect all results in one file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mbrl_lab.cli.terminal import command, make_parser
from mbrl_lab.config import ConfigError, conf_folders
from mbrl_lab.sweep.jobs import SCRIPT, Job, Sweep
from mbrl_lab.sweep.start import start
from mbrl_lab.sweep.table import TO_RETRY, collect, open_sweep, run_states, table
from mbrl_lab.sweep.trust import check_sweep


def main(argv: Sequence[str], script: Path = SCRIPT) -> int:
    """The command line; `script` starts runs. Returns the exit code: 2, with a line, for errors a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: {"status": show, "retry": retry, "collect": gather}[args.verb](args, script))


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("sweep", __doc__)
    verbs = p.add_subparsers(dest="verb", required=True)
    status = verbs.add_parser("status", help="a table of the runs: state, step, return, and why a run stopped")
    again = verbs.add_parser("retry", help="start the runs that failed, were stopped or killed, or never began")
    results = verbs.add_parser("collect", help="all results in one CSV file")
    for verb in (status, again, results):
        verb.add_argument("sweep", type=Path, help="its folder, or its sweep_name")
    again.add_argument("runs", nargs="*", help="only these runs, by their names in the table")
    again.add_argument("--workers", type=int, help="runs at once, on this machine")
    again.add_argument(
        "--trust",
        metavar="WORD",
        action="append",
        default=[],
        help="a module of your own that the runs may build from, or sweep.json: all commands in it are yours",
    )
    again.add_argument("--config-dir", metavar="DIR", help="another folder of config files, as for train.py")
    results.add_argument("--out", type=Path, help="the file (results.csv in the sweep's folder)")
    return p


def found(args: argparse.Namespace, script: Path) -> Sweep:
    """The sweep by its folder or its name."""
    named = Path("outputs", "sweeps", args.sweep)
    path = args.sweep if args.sweep.is_dir() or not named.is_dir() else named
    if not path.is_dir():
        raise ConfigError(f"there is no sweep {args.sweep}: give its folder or its sweep_name")
    return open_sweep(path, script)


def show(args: argparse.Namespace, script: Path) -> None:
    """status"""
    print(table(run_states(found(args, script))))


def retry(args: argparse.Namespace, script: Path) -> None:
    """retry"""
    sweep = found(args, script)
    jobs = to_retry(sweep, args.runs)

    # Another launcher than the sweep was started with, e.g. for the last runs of a SLURM sweep.
    if args.workers is not None:
        if args.workers < 1:
            raise ConfigError(f"--workers is {args.workers}; it must be a whole number from 1")
        launcher = {"kind": "parallel", "workers": args.workers, "per_gpu": 1}
        sweep = Sweep(sweep.path, sweep.script, sweep.cwd, launcher, sweep.jobs, sweep.submitted)
    if args.config_dir is not None:
        jobs = [replace(job, flags=("--config-dir", str(conf_folders(args.config_dir)[-1]))) for job in jobs]

    # The jobs' commands are stored in the folder, which may be somebody else's.
    check_sweep(sweep, jobs, script, args.trust, args.config_dir)
    start(sweep, jobs, skipped=len(sweep.jobs) - len(jobs))


def to_retry(sweep: Sweep, names: Sequence[str]) -> list[Job]:
    """The named runs, or all that can be retried; ConfigError for one that is unknown, running or done."""
    states = {run.name: run.state for run in run_states(sweep)}
    for name in names:
        if name not in states:
            raise ConfigError(f"the sweep has no run {name!r}; it has {', '.join(states)}")
        if states[name] not in TO_RETRY:
            raise ConfigError(f"run {name} is {states[name]}; only one that is {', '.join(TO_RETRY)} can be retried")
    return [sweep.jobs[name] for name in names or states if states[name] in TO_RETRY]


def gather(args: argparse.Namespace, script: Path) -> None:
    """collect"""
    sweep = found(args, script)
    out = args.out or sweep.path / "results.csv"
    print(f"results   {out}: {collect(sweep, out):,} rows of {len(sweep.jobs)} runs")
