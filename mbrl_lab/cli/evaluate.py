"""Evaluate a run: play whole episodes with a checkpoint's weights, replay a logged one, or validate its model."""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mbrl_lab import scores
from mbrl_lab.app import check_whole, find_run, load_run, precision_line, stored_config
from mbrl_lab.arithmetic import AS_BEGAN
from mbrl_lab.cli.terminal import add_checkpoint, add_run, add_trust, command, count, make_parser
from mbrl_lab.config import CONF, ConfigError, build
from mbrl_lab.env import Envs, Episode
from mbrl_lab.runner import Runner
from mbrl_lab.scores import Reference
from mbrl_lab.tracking.atomic import write_text
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import words_of
from mbrl_lab.tracking.video import headless, lacks_mode, origin, reason, record_episode

STOPPED = "stopped before the end; the same command begins again"


def main(argv: Sequence[str]) -> int:
    """The command line; returns its exit code: 2, and one line, for errors that a user can fix."""
    args = parser().parse_args(argv)
    return command(lambda: answer(args), STOPPED)


def answer(args: argparse.Namespace) -> None:
    """Do the one thing that the options select."""
    if lacking := lacks(args):
        check_whole(args.run, lacking)
    args.run = find_run(args.run)
    if args.episode:
        record_logged(RunFolder(args.run), args.episode, args.trust)
    elif args.render:
        render_live(args.run, args.checkpoint, args.trust)
    elif args.model:
        validate_model(args.run, args.checkpoint, args.trust)
    else:
        evaluate(args.run, args.checkpoint, args.episodes, args.video, args.logger, args.trust)


def lacks(args: argparse.Namespace) -> str:
    """The part of a run that the options need and a published agent does not have; otherwise empty."""
    if args.episode:
        return "logged episodes"
    if args.model:
        return "replay on which its model could be validated"
    return "run in Weights & Biases" if args.logger else ""


def parser() -> argparse.ArgumentParser:
    """Every option; with --episode, --render or --model nothing is evaluated."""
    p = make_parser("evaluate", __doc__)
    add_run(p, "a run's folder, a published agent's, or hf:USER/NAME")
    p.add_argument("--episodes", metavar="N", type=partial(count, low=1), default=20, help="how many to play (20)")
    add_checkpoint(p)
    p.add_argument("--video", metavar="N", type=partial(count, low=0), default=0, help="film the first N of them")
    p.add_argument("--logger", choices=["wandb"], help="add the results to the run in Weights & Biases")
    add_trust(p)
    alone = p.add_mutually_exclusive_group()
    alone.add_argument(
        "--episode", metavar="PHASE:K", help="only film the K-th logged episode: train:0 the first, eval:-1 the latest"
    )
    alone.add_argument("--render", action="store_true", help="only show the first episode, live in a window")
    alone.add_argument("--model", action="store_true", help="only validate the world model: errors, calibration, plans")
    return p


def evaluate(
    run: Path, checkpoint: str, episodes: int, films: int, logger: str | None, trust: Sequence[str] = ()
) -> None:
    """Play, print, and write results, videos and figures into the run's folder; of a published agent, beside it."""
    runner = load_run(run, checkpoint, trust=trust)
    name = runner.folder.checkpoint_name(checkpoint)
    if runner.precision_why != AS_BEGAN:
        print(precision_line(runner))

    with closing(runner.envs):
        played = played_with_progress(runner, episodes)
        results = {"checkpoint": name, "step": runner.steps, **statistics(played, runner.reference)}
        print(table(results))
        written = write_results(runner.folder.evaluations / f"{name}-{episodes}.json", results, played)
        print(f"results   {written}")

        # After the results are written: a failing video or picture costs only itself.
        print_paths("video", record_videos(runner, played[:films], name))
        if logger == "wandb":
            log_to_wandb(runner, name, results, trust)
            print_paths("wandb", [runner.folder.path / "wandb"])
        print_paths("report", draw_report(runner, name))


def played_with_progress(runner: Runner, episodes: int) -> list[Episode]:
    """Play, with a line of progress; after Ctrl-C a line says how many episodes were played."""
    played: list[Episode] = []
    runner.tracker.start(0, 0)
    try:
        with ExitStack() as line:
            line.callback(runner.tracker.stop)
            return runner.evaluate(episodes, played=played)
    except KeyboardInterrupt:
        print(f"played    {len(played):,} of {episodes:,} episodes; nothing was written", file=sys.stderr)
        raise


def statistics(played: Sequence[Episode], reference: Reference | None = None) -> dict[str, Any]:
    """The numbers of the table; `at_time_limit` counts truncated episodes."""
    at_limit = sum(e.truncated for e in played)
    return {"episodes": len(played), **scores.statistics(played, reference), "at_time_limit": at_limit}


def table(results: dict[str, Any]) -> str:
    """Two aligned lines: names and values."""
    shown = {key.replace("_", " "): display(value, 3 if key == "hns" else 1) for key, value in results.items()}
    widths = [max(len(key), len(value)) for key, value in shown.items()]
    lines = [[x.rjust(w) for x, w in zip(row, widths, strict=True)] for row in (shown.keys(), shown.values())]
    return "\n".join("  ".join(line) for line in lines)


def display(value: Any, digits: int = 1) -> str:
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_results(path: Path, results: dict[str, Any], played: Sequence[Episode]) -> Path:
    """The statistics, and a row for each episode, as JSON."""
    rows = [{"env": e.env, "index": e.index, "seed": e.seed, "return": e.ret, "length": e.length} for e in played]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(results | {"played": rows}, indent=2, allow_nan=False) + "\n")
    return path


def record_videos(runner: Runner, played: Sequence[Episode], name: str) -> list[Path]:
    """A video of each episode; those that could not be made gave a warning and are left out."""
    # An older video of this name must not be mistaken for one that could not be made now.
    paths = [runner.folder.videos / f"evaluation-{name}-{k}.mp4" for k in range(len(played))]
    for path, e in zip(paths, played, strict=True):
        path.unlink(missing_ok=True)
        runner.tracker.film(path, e.seed, e.actions)
    return [path for path in paths if path.exists()]


def draw_report(runner: Runner, name: str) -> list[Path]:
    """The report's figures of the run at a checkpoint."""
    from mbrl_lab.report import draw  # matplotlib takes a while to import

    return draw(runner, name)


def validate_model(run: Path, checkpoint: str, trust: Sequence[str]) -> None:
    """Validate the run's world model: prints numbers, writes pictures and CSV files into diagnostics/."""
    from mbrl_lab.report import draw_model, fitted  # matplotlib takes a while to import

    # With replay: its held-out steps are the only data from training that the model has never been fitted to.
    runner = load_run(run, checkpoint, with_replay=True, trust=trust)
    with closing(runner.envs):
        if runner.algo.world_model is None:
            raise ConfigError(f"--model: {run} is a run of {words_of(runner.folder.config())}, without a world model")
        if not fitted(runner):
            raise ConfigError(f"--model: the model of {run} is not fitted yet at step {runner.steps:,}")
        text, paths = draw_model(runner, runner.folder.checkpoint_name(checkpoint))
    print(text)
    print_paths("report", paths)


def print_paths(kind: str, paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"{kind:8}  {path}")


def log_to_wandb(runner: Runner, name: str, results: dict[str, Any], trust: Sequence[str]) -> None:
    """One more row in the run's Weights & Biases run, under evaluation/<checkpoint>/."""
    # A run without this logger gets the default settings.
    node = stored_config(runner.folder, trust).logger.get("wandb") or OmegaConf.load(CONF / "logger" / "wandb.yaml")
    assert isinstance(node, DictConfig), node
    logger = build(node)(runner.folder)
    numbers = {f"evaluation/{name}/{key}": v for key, v in results.items() if isinstance(v, int | float)}
    logger.log({"step": runner.steps, "frames": runner.steps * runner.envs.frame_skip} | numbers)
    logger.close(ok=True)


def record_logged(folder: RunFolder, episode: str, trust: Sequence[str]) -> None:
    """A video of a logged episode, `train:K` or `eval:K`, from its seed and actions; no weights are needed."""
    make = build(stored_config(folder, trust).env.make)
    phase, k = parse_episode(episode)

    log = EpisodeLog(folder)
    there = len(log.finished(phase))
    if not -there <= k < there:
        known = f"0 to {there - 1}, or -1 for the latest" if there else "none yet"
        raise ConfigError(f"--episode {episode} does not exist; {phase} episodes of this run: {known}")

    path = folder.videos / f"{phase}-{k % there}.mp4"
    try:
        record_episode(path, make, *log.read(phase, k))
    except Exception as error:
        raise ValueError(f"no video {path.name}: {reason(error)}") from error
    print_paths("video", [path])


def parse_episode(text: str) -> tuple[Any, int]:
    """`train:3` -> (train, 3)."""
    phase, _, k = text.partition(":")
    if phase not in ("train", "eval") or not k.removeprefix("-").isdecimal():
        raise ConfigError(f"--episode is {text!r}; it must be train:K or eval:K, such as train:0 or eval:-1")
    return phase, int(k)


def render_live(run: Path, checkpoint: str, trust: Sequence[str]) -> None:
    """Play the first episode in a window."""
    if headless():
        raise ConfigError("--render needs a display, and there is none here; --video 1 films the episode instead")
    runner = load_run(run, checkpoint, trust=trust)
    runner.envs.close()

    make = partial(build(stored_config(runner.folder, trust).env.make), render_mode="human")
    # The same runner with another kind of environments: evaluation is not written twice.
    shown = copy.copy(runner)
    shown.make_envs = lambda num, stream: Envs(make, num, runner.seed, stream, False, runner.envs.frame_skip)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium's advice to the environment's author
            (episode,) = shown.evaluate(1)
    except Exception as error:
        cause = origin(error)
        why = "it has no render_mode" if lacks_mode(cause) else reason(cause)
        instead = "--video 1 films the episode, if it draws frames"
        raise ValueError(f"--render: the environment cannot be shown ({why}); {instead}") from error
    print(f"return    {display(episode.ret)}\nlength    {episode.length:,}")
