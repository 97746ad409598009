"""Search for hyperparameters: python scripts/tune.py SPACE, on any number of machines at the same time."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from mbrl_lab.cli.terminal import command, make_parser
from mbrl_lab.config import ConfigError
from mbrl_lab.sweep.jobs import SCRIPT
from mbrl_lab.tracking.provenance import shell_command

PRESET = "preset.yaml"


def main(argv: Sequence[str], script: Path = SCRIPT) -> int:
    """The command line; `script` starts runs. Returns the exit code: 2, with a line, for errors a user can fix."""
    args = parser().parse_intermixed_args(argv)
    return command(lambda: tune(args, script))


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("tune", __doc__)
    p.add_argument("space", help="the search space: a file of conf/tune, or a path")
    p.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings of all trials, e.g. steps=5000")
    p.add_argument(
        "--trials", type=int, default=30, help="stop when the study has this number, including other workers' (30)"
    )
    p.add_argument("--workers", type=int, default=1, help="trials at a time of this worker (1)")
    p.add_argument("--study", type=Path, help="the study's folder, which workers share (outputs/tune/SPACE)")
    p.add_argument("--config-dir", metavar="DIR", help="another folder of config files, as for train.py")
    p.add_argument("--seed", type=int, help="seed of the search, to repeat it with a single worker")
    return p


def tune(args: argparse.Namespace, script: Path) -> None:
    """Run trials until there are enough, then write a preset with the best one."""
    for name in ("trials", "workers"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}; it must be a whole number from 1")

    # Optuna is an optional dependency.
    try:
        from mbrl_lab.tune.space import read_space
        from mbrl_lab.tune.study import best, open_study, write_preset
        from mbrl_lab.tune.worker import Worker
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "mbrl_lab[tune]"') from error

    space = read_space(args.space, args.overrides, args.config_dir)
    path = (args.study or Path("outputs", "tune", space.name)).resolve()
    study = open_study(path, space, args.seed)
    Worker(study, space, path, script, args.trials, args.workers).run()

    found, preset = best(study), write_preset(study, space, path / PRESET)
    if found is None or preset is None:
        command = f"{shell_command('sweep')} status {shlex.quote(str(path))}"
        raise ConfigError(f"no trial has a finite {space.metric}: {command} shows the runs")
    print(f"best      trial {found.number}: {space.metric} {found.value:.4g}")
    print(f"preset    {preset}\n          copied to conf/preset/NAME.yaml it is used by preset=NAME")
