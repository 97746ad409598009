"""Train several algorithms on one environment with equal seeds, or use existing runs, and draw them in one figure."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mbrl_lab.app import check_whole
from mbrl_lab.cli.terminal import add_threshold, command, make_parser
from mbrl_lab.cli.train import run
from mbrl_lab.config import ConfigError, check, compose_config, conf_folders
from mbrl_lab.report.compare import (
    Curve,
    by_group,
    by_run,
    draw_comparison,
    environment_name,
    find_runs,
    grouped,
    read_run,
    threshold_of,
)
from mbrl_lab.report.tables import table, write_csv
from mbrl_lab.tracking.folder import ConfigMismatch, RunFolder
from mbrl_lab.tracking.settings import plain

ALGOS = {"continuous": ("mpc", "mbpo", "sac"), "discrete": ("mpc", "mbpo", "ddqn")}
"""Algorithms that are compared by default, by family."""

OTHERS = ("ddqn", "ppo", "sac")
"""Those for images, if they have a recipe for the family."""


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, with one line, for errors that a user can fix."""
    args = parser().parse_intermixed_args(argv)
    return command(lambda: compare(args))


def parser() -> argparse.ArgumentParser:
    """Every option."""
    p = make_parser("compare", __doc__)
    p.add_argument(
        "words",
        metavar="FOLDER|KEY=VALUE",
        nargs="*",
        help="runs, or folders with runs; with --env settings of all algorithms, mpc:KEY=VALUE of one algorithm",
    )
    p.add_argument("--env", help="train on this environment")
    p.add_argument("--seeds", metavar="N", type=int, default=3, help="seeds 0 to N - 1 (3)")
    p.add_argument("--algos", help="e.g. mpc,sac; by default mpc, mbpo and sac, or ddqn if actions are discrete")
    p.add_argument("--steps", type=int, help="real steps of each run; by default those of its preset")
    p.add_argument("--config-dir", metavar="DIR", help="another folder of config files, as for train.py")
    add_threshold(p)
    p.add_argument("--into", type=Path, help="the folder of the runs that are trained (outputs/compare/ENV)")
    p.add_argument("--out", type=Path, help="the figure (compare.png in the folder of the runs); a CSV file beside it")
    return p


def compare(args: argparse.Namespace) -> None:
    """Train the runs that are not done yet, then draw and print."""
    # A folder may have a = in its name, so an existing folder is never a setting.
    overrides = [word for word in args.words if "=" in word and not Path(word).is_dir()]
    places = [Path(word) for word in args.words if word not in overrides]

    if bool(args.env) == bool(places):
        raise ConfigError("give either --env, to train, or folders of runs, e.g. outputs/compare/pendulum")
    if overrides and places:
        raise ConfigError(f"{overrides[0]} is a setting; existing runs have their own: leave it out")

    for place in places:
        check_whole(place, "curves to compare")
    if args.env:
        jobs = jobs_of(args, overrides)
        train(jobs, args.config_dir)
        places = list(jobs)
    out = args.out or (places[0].parent if args.env else places[0]) / "compare.png"
    show(places, out, args.threshold)


def algos_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The algorithms of `--algos`, or those for the environment's family."""
    if args.algos:
        return tuple(args.algos.split(","))
    confs = conf_folders(args.config_dir)
    family = compose_config([f"env={args.env}", "algo=random"], args.config_dir).family.name
    known = ALGOS.get(family, OTHERS)
    return tuple(algo for algo in known if any((c / "recipe" / f"{algo}_{family}.yaml").is_file() for c in confs))


def jobs_of(args: argparse.Namespace, overrides: Sequence[str]) -> dict[Path, list[str]]:
    """Folder and overrides of every run: all algorithms with the first seed, then with the next."""
    if args.seeds < 1:
        raise ConfigError(f"--seeds is {args.seeds}; it must be a whole number from 1")
    home = args.into or Path("outputs", "compare", args.env)
    algos = algos_of(args)
    return {
        home / f"{algo}-seed{seed}": words(algo, args.env, seed, args.steps, overrides)
        for seed in range(args.seeds)
        for algo in algos
    }


def train(jobs: dict[Path, list[str]], config_dir: str | None = None) -> None:
    """Check all runs, then train one after the other; those that are done are left as they are."""
    configs = [compose_config(job, config_dir) for job in jobs.values()]
    for cfg in configs:
        check(cfg)

    for k, ((place, job), cfg) in enumerate(zip(jobs.items(), configs, strict=True)):
        print(f"compare   run {k + 1} of {len(jobs)}: {place}", flush=True)
        try:
            if not finished(place, cfg):
                run(cfg, place, job, conf_folders(config_dir))
        except ConfigMismatch as error:
            raise ConfigError(f"{error}\n--into chooses another folder here") from error


def words(algo: str, env: str, seed: int, steps: int | None, overrides: Sequence[str]) -> list[str]:
    """The overrides of one run: those for all, and those that name its algorithm."""
    # Its own come last, so that they win over the common ones.
    common, own = [f"steps={steps}"] if steps else [], []
    for override in overrides:
        before, colon, after = override.partition(":")
        if not colon or "=" in before:
            common.append(override)
        elif before == algo:
            own.append(after)
    return [f"algo={algo}", f"env={env}", f"seed={seed}", f"name={algo}", "video.final=0", *common, *own]


def finished(place: Path, cfg: DictConfig) -> bool:
    """Whether this run exists and needs no more steps. One of another config is not: starting it will be rejected."""
    folder = RunFolder(place)
    if not (place / "status.json").exists() or folder.status()["state"] != "done":
        return False

    # `auto` keeps the precision that the run began with, so it is no difference.
    stored, given = folder.config(), plain(OmegaConf.to_container(cfg, resolve=True))
    if given["runtime"]["precision"] == "auto":
        given["runtime"]["precision"] = stored.get("runtime", {}).get("precision")
    return stored == given


def show(places: Sequence[Path], out: Path, threshold: float | None) -> None:
    """A figure and a table for each environment, since their returns cannot be compared, and one CSV file."""
    found = list(map(read_run, find_runs(places)))
    curves = [curve for curve in found if len(curve.steps)]
    if not curves:
        raise ConfigError(
            f"nothing was evaluated during training in {places[0]}: a curve needs eval.every from 1 to steps, and a "
            "run that came so far"
        )
    for curve in found:
        if not len(curve.steps):
            print(f"note      {curve.folder} was not evaluated during training: it has no curve")

    environments: dict[str, list[Curve]] = {}
    for curve in curves:
        environments.setdefault(environment_name(curve), []).append(curve)
    if several := len(environments) > 1:
        print(f"note      runs of {len(environments)} environments: a table and a picture of each")

    out.parent.mkdir(parents=True, exist_ok=True)
    rows, pictures = [], []
    for name, members in environments.items():
        # Values only: nothing of a stored config is built here.
        groups = grouped(members)
        target = threshold if threshold is not None else threshold_of(members[0].settings)

        picture = out.with_stem(f"{out.stem}-{re.sub(r'[^A-Za-z0-9.]+', '-', name).strip('-')}") if several else out
        pictures.append(draw_comparison(groups, name, target, picture))
        rows += by_run(groups, target)
        print((f"\n{name}\n" if several else "") + table(by_group(groups, target)))

    for picture in pictures:
        print(f"picture   {picture}")
    print(f"numbers   {write_csv(rows, out.with_suffix('.csv'))}")
