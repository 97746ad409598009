"""Search for settings: python scripts/tune.py SPACE, as often at the same time as there are machines for it."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from mbrl_lab.cli.terminal import attempt
from mbrl_lab.config import ConfigError
from mbrl_lab.sweep.jobs import SCRIPT
from mbrl_lab.tracking.signals import STOPPED

PRESET = "preset.yaml"


def main(argv: Sequence[str], script: Path = SCRIPT) -> int:
    """The command line; `script` starts runs. Returns the exit code: 2, and one line, for errors a user can fix."""
    args = parser().parse_intermixed_args(argv)
    try:
        return attempt(lambda: tune(args, script))
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = argparse.ArgumentParser(prog="tune.py", description=__doc__)
    p.add_argument("space", help="a file of conf/tune, or a path: what is searched")
    p.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings of all trials, e.g. steps=5000")
    p.add_argument("--trials", type=int, default=30, help="until the study has so many, other workers' counted in (30)")
    p.add_argument("--workers", type=int, default=1, help="trials at once, of this worker (1)")
    p.add_argument("--study", type=Path, help="its folder, which workers share (outputs/tune/SPACE)")
    p.add_argument("--config-dir", metavar="DIR", help="another folder of config files, as for train.py")
    p.add_argument("--seed", type=int, help="of the search, for a single worker that is to repeat it")
    return p


def tune(args: argparse.Namespace, script: Path) -> None:
    """Work until there are enough trials, then write the best one down."""
    for name in ("trials", "workers"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}; it must be a whole number from 1")

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
        command = f"python scripts/sweep.py status {shlex.quote(str(path))}"
        raise ConfigError(f"no trial came to a finite {space.metric}: {command} shows the runs")
    print(f"best      trial {found.number}: {space.metric} {found.value:.4g}")
    print(f"preset    {preset}\n          copied to conf/preset/NAME.yaml it is used by preset=NAME")
