"""Train: algo=mpc env=cartpole ... starts a run with these settings, or resumes the run in `hydra.run.dir`."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from yaml import YAMLError

from mbrl_lab.app import (
    precision_line,
    start,
)
from mbrl_lab.cli.terminal import UNHEARD, attempt, message_of_error, print_line, write_any_letter
from mbrl_lab.config import (
    CONF,
    check_preset,
    composition_message,
    conf_folders,
    with_family,
)
from mbrl_lab.config.command_line import CommandLine
from mbrl_lab.config.layers import explain_key
from mbrl_lab.replay import nbytes
from mbrl_lab.report import draw
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder, headline
from mbrl_lab.tracking.progress import hush
from mbrl_lab.tracking.provenance import shell_command
from mbrl_lab.tracking.signals import STOPPED
from mbrl_lab.trust import own_modules


def train(cfg: DictConfig) -> None:
    """Run a config in Hydra's output folder: from the start, or from the last checkpoint."""
    given = HydraConfig.get()
    overrides, path = list(given.overrides.task), Path(given.runtime.output_dir)
    confs = [Path(s.path) for s in given.runtime.config_sources if s.schema == "file"]

    def work() -> None:
        check_preset(overrides, confs)
        run(cfg, path, overrides, confs)

    # In a sweep the launcher reports the error; here an exit code does, and an empty folder is not left behind.
    if given.mode == RunMode.MULTIRUN:
        work()
    elif code := attempt(work):
        with suppress(OSError):  # the folder is not empty
            path.rmdir()
        raise SystemExit(code)


def run(cfg: DictConfig, path: Path, overrides: Sequence[str], confs: Sequence[Path] = (CONF,)) -> None:
    """Check, build, train and evaluate; status.json keeps the error of a run that failed."""
    folder = RunFolder(path)
    before = folder.status()
    runner, opening, copied = start(cfg, folder, overrides, confs)
    if opening == "done":
        print_line(f"this run is done: {path}\n{how_to_go_on(folder.status()['step'], cfg)}")
        return

    size = nbytes(runner.envs.spec, cfg.replay.capacity) / 1e6
    print_line(f"run       {path}\nreplay    {cfg.replay.capacity:,} steps, {size:,.1f} MB on {runner.replay.storage}")
    print_line("\n".join([precision_line(runner), *copied]))
    if opening == "resume":
        print_line(resumed_line(folder, before))

    with runner.tracker, closing(runner.envs):
        try:
            final = runner.run()
        except Exception as error:
            folder.mark("failed", runner.steps, error=message_of_error(error) or traceback.format_exc())
            raise
        except KeyboardInterrupt:
            # After a first Ctrl-C the run has saved, and Python's own handler, called then, raises this too.
            if folder.status().get("state") not in ("preempted", "done"):
                folder.mark("failed", runner.steps, error=AT_ONCE)
            raise

        # The run is done, and its results are stored: a picture that fails is only a warning.
        print_line("drawing   what was learned")  # with a planner it takes a minute
        with runner.signals as signals, signals.immediately(signals.hand_over):
            pictures = draw(runner)
        files = [*sorted(folder.videos.glob("*.mp4")), *(path for path in pictures if path.suffix == ".png")]
        runner.tracker.attach(files)

    if runner.steps < cfg.steps:
        print_line(f"stopped   at step {runner.steps:,}: {cfg.stop.metric} is at {cfg.stop.target} or above")
    print_line(last_words(folder, final, cfg.eval.final_episodes, pictures))


AT_ONCE = "stopped immediately by a second Ctrl-C"


def resumed_line(folder: RunFolder, before: Mapping[str, Any]) -> str:
    """A line with the step at which a run resumes, and how its last attempt, whose status is `before`, stopped."""
    state, reason = before["state"], headline(before["error"] or "")
    how = {"preempted": "preempted by a signal", "running": "killed", "done": "done"}.get(state, f"a failure: {reason}")
    if state == "failed" and reason.startswith(("killed", "stopped")):  # a reason that is complete
        how = reason

    step = Checkpoint(folder.last).step()
    if step is None:
        how += ", before its first checkpoint (checkpoint.every)"
    return f"resumed   at step {step or 0:,}, attempt {before['attempt'] + 1}; the last attempt was {how}"


def how_to_go_on(step: int, cfg: DictConfig) -> str:
    """How a finished run can be continued: with more steps, or, if it stopped early, with another target."""
    if step < cfg.steps and cfg.stop.target is not None:
        reason = f"it stopped at step {step:,} of {cfg.steps:,}, as {cfg.stop.metric} had reached {cfg.stop.target}"
        return f"{reason}: it continues with stop.metric=null stop.target=null, or a higher target"
    return f"it continues with more steps, e.g. steps={2 * max(step, cfg.steps)}"


def last_words(folder: RunFolder, final: dict[str, float], episodes: int, pictures: Sequence[Path]) -> str:
    """The lines after a run: its return, its videos and pictures, and the command that evaluates it."""
    mean, std = final["final/return"], final["final/return_std"]
    low, high = final["final/return_min"], final["final/return_max"]
    videos = sorted(folder.videos.glob("final-*.mp4"))
    lines = [f"return    {mean:.1f} ± {std:.1f} over {episodes} episodes of the final policy, {low:.1f} to {high:.1f}"]
    if "final/hns" in final:
        lines[0] += f"; {final['final/hns']:.3f} of human"
    lines += [f"video     {path}" for path in videos]
    kinds = {".png": "picture", ".mp4": "video"}
    lines += [f"{kinds.get(path.suffix, 'numbers'):9} {path}" for path in pictures]
    trust = "".join(f" --trust {module}" for module in own_modules(folder.config()))
    return "\n".join([*lines, f"evaluate  {shell_command('evaluate')} {shlex.quote(str(folder.path))}{trust}"])


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def hydra_main(cfg: DictConfig) -> None:
    train(cfg)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; exits with 2, and a line or two, for errors that a user can fix."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors in its own way, and exits
    write_any_letter()
    try:
        line = CommandLine(sys.argv[1:] if argv is None else argv)
        confs = conf_folders(line.config_dir)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

    try:
        # env=gym: the family is read from the environment's spaces before Hydra composes the recipe.
        line.overrides, found = with_family(line.overrides, confs)
        if found:
            print(found, file=sys.stderr)
        if line.explain:
            print_line(explain_key(line.explain, line.overrides, line.config_dir))
            return

        # Hydra parses sys.argv by itself, so the sorted words are put there.
        sys.argv[1:] = line.words()
        hydra_main()
    except KeyboardInterrupt as stop:
        print(stop.args[0] if stop.args else STOPPED, file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        hush(1)
        raise SystemExit(UNHEARD) from None
    except Exception as error:
        # Errors of the run itself were reported in `train`; these are Hydra's, before it.
        lines = message_of_error(error)
        if isinstance(error, HydraException | YAMLError | UnicodeDecodeError) or type(error) is ValueError:
            lines = composition_message(error, line.overrides, confs)
        elif isinstance(error, OSError):
            lines = f"{error}; hydra.run.dir must be a folder that can be written"
        elif lines is None:
            raise
        print(f"error: {lines}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
