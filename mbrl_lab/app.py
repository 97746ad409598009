"""From a config to a run: what the scripts and the plain-Python way share."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mbrl_lab.arithmetic import PRECISION, choose_arithmetic
from mbrl_lab.config import (
    CONF,
    ConfigError,
    build,
    check,
    choose_device,
    compose_config,
    conf_folders,
    default_of,
    explain_here,
    refuse_old_names,
    refuse_unknown_preset,
    with_family,
)
from mbrl_lab.config.command_line import CommandLine, override
from mbrl_lab.config.messages import deleted_key
from mbrl_lab.env import Envs
from mbrl_lab.env.vector import DIFFERENT
from mbrl_lab.monitor import Monitor, Stop
from mbrl_lab.nets.speed import compile_parts, keep_freed_memory
from mbrl_lab.replay import Replay, nbytes
from mbrl_lab.report import draw
from mbrl_lab.runner import TRAIN, Runner, Schedule
from mbrl_lab.scores import Reference
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import Opening, RunFolder, RunRefused, headline, plain
from mbrl_lab.tracking.progress import hush
from mbrl_lab.tracking.signals import STOPPED
from mbrl_lab.tracking.state import load_module_state
from mbrl_lab.tracking.tracker import Tracker
from mbrl_lab.tracking.video import Camera
from mbrl_lab.trust import check_stored, own_modules
from mbrl_lab.types import EnvSpec
from mbrl_lab.warm_start import warm_start

log = logging.getLogger("mbrl_lab")


def make_run(
    algo: str = "mpc",
    env: str = "cartpole",
    *overrides: str,
    folder: Path | str,
    config_dir: Path | str | None = None,
    **settings: Any,
) -> Runner:
    """A run as the command line would make it, to be started or gone on with by `.run()`.

    make_run("mpc", "cartpole", "planner.horizon=20", folder="outputs/mine", steps=1000).run()

    Args:
        overrides: words of the command line, quoted as there.
        folder: where the run is, or will be.
        config_dir: another folder of config files, as `--config-dir` is.
        settings: values as they are, `**{"stop.metric": None, "name": "a=b"}`; `${...}` points to another setting.

    Raises ConfigError for a setting that cannot be, RunRefused where the folder holds another run.
    """
    try:
        words = [f"algo={algo}", f"env={env}", *overrides, *(override(k, v) for k, v in settings.items())]
    except ValueError as error:
        raise ConfigError(str(error)) from error
    cfg, confs = compose_config(words, config_dir), conf_folders(config_dir)
    runner, opening, copied = start(cfg, RunFolder(folder), words, confs)
    if opening == "done":
        raise RunRefused(f"the run in {runner.folder.path} is done: load_run reads it")
    print("\n".join(copied), end="\n" if copied else "")
    return runner


def load_run(
    folder: Path | str,
    checkpoint: str = "last",
    device: str = "auto",
    with_replay: bool = False,
    trust: Sequence[str] = (),
) -> Runner:
    """A run with the weights of its `last` or `best` checkpoint, or those in another checkpoint's folder, to evaluate.

    `with_replay`: what it had in replay too, where the checkpoint keeps that; `best` does not.
    `trust`: modules of one's own that the run's config may build from, e.g. ["mymodule"], beside this package.
    Raises ConfigError where there is no run or no checkpoint, or its config asks for what is not trusted.
    """
    home = RunFolder(folder)
    stored = stored_config(home, trust)
    stored.logger = {}  # nobody trains here, and a stored logger would send numbers where its config says
    changes: dict[str, Any] = {"runtime": {"device": device, "precision": "auto"}} | (
        {} if with_replay else {"replay": {"capacity": 2}}
    )
    cfg = OmegaConf.merge(stored, changes)
    assert isinstance(cfg, DictConfig)
    place = home.checkpoint(checkpoint)
    loaded = Checkpoint(place).load()
    if loaded is None:
        raise ConfigError(f"{place} holds no checkpoint; --checkpoint can be last, best or a checkpoint's folder")
    runner = build_runner(cfg, home)
    runner.steps = loaded.state["step"]
    load_module_state(runner.algo, loaded.state["algo"])
    if with_replay and "replay" in loaded.state:
        runner.load_replay(loaded.state["replay"], loaded.steps)
    return runner


def stored_config(folder: RunFolder, trust: Sequence[str] = ()) -> DictConfig:
    """What a run was last started with, to build from: but for the launcher, which only a sweep's command needs.

    Raises ConfigError where there is no run, or its config asks for what is neither ours nor in `trust`.
    """
    stored = folder.config()
    if not stored:
        raise ConfigError(f"{folder.path} holds no run: it has no config.yaml")
    folder.refuse_links()
    refuse_old_names(stored, str(folder.path / "config.yaml"))
    check_stored(stored, str(folder.path / "config.yaml"), trust)
    return OmegaConf.create({key: value for key, value in stored.items() if key != "launcher"})


def build_runner(cfg: DictConfig, folder: RunFolder) -> Runner:
    """Every part, from its config."""
    device = choose_device(cfg.runtime.device)
    torch.set_num_threads(cfg.runtime.threads)
    keep_freed_memory()
    torch.backends.cudnn.deterministic = True
    random.seed(cfg.seed)
    np.random.seed(cfg.seed % 2**32)
    torch.manual_seed(cfg.seed)
    make, make_envs = env_makers(cfg)
    envs = make_envs(cfg.env.num, TRAIN)
    camera = Camera(make)
    if cfg.eval.get("shared", False):  # an older run's config has no such setting
        make_envs, camera.before = lambda num, stream: envs.lend(stream), envs.put_away
    refuse_other_family(envs, cfg.family.name)
    algo = build(cfg.algo)(envs.spec).to(device)
    if cfg.runtime.compile:
        compile_parts(algo)
    place = device if cfg.replay.device == "auto" else choose_device(cfg.replay.device, "replay.device")
    replay = Replay(envs.spec, cfg.replay.capacity, cfg.env.num, cfg.seed, device, place)
    loggers = {str(name): build(node) for name, node in cfg.logger.items()}
    tracker = Tracker(folder, loggers, camera, cfg.video.every)
    schedule = Schedule(
        steps=cfg.steps,
        log_every=cfg.log_every,
        eval_every=cfg.eval.every,
        eval_episodes=cfg.eval.episodes,
        eval_num=cfg.eval.num,
        final_episodes=cfg.eval.final_episodes,
        checkpoint_every=cfg.checkpoint.every,
        video_final=cfg.video.final,
        keep_last=cfg.checkpoint.keep_last,
        best=cfg.checkpoint.best,
    )
    monitor = Monitor(envs.spec, Stop(**cfg.stop))
    reference = Reference(**cfg.env.score) if "score" in cfg.env else None
    last, began = stored_precisions(folder)
    chosen = choose_arithmetic(cfg.runtime.precision, last, device, algo, began)
    if chosen.warning:
        log.warning(chosen.warning)
    parts = (algo, make_envs, envs, replay, folder, tracker, monitor, schedule)
    return Runner(*parts, cfg.seed, device, chosen.dtype, reference, chosen.why)


def stored_precisions(folder: RunFolder) -> tuple[str | None, str | None]:
    """The precision of the last attempt in this folder, and that of the first; None where there was none."""
    last = folder.config().get("runtime", {}).get("precision")
    if last not in PRECISION:
        return None, None
    return last, folder.env().get("precision")


def env_makers(cfg: DictConfig) -> tuple[Callable[..., gymnasium.Env], Callable[[int, int], Envs]]:
    """How to make one environment, to look at, and how to make `num` of a stream of episodes, to play in."""
    env = cfg.env
    make = build(env.make)
    how = {
        "asynchronous": env.get("asynchronous", False),
        "frame_skip": env.frame_skip,
        "make_vector": build(env.make_vector) if "make_vector" in env else None,
    }
    specs: list[EnvSpec] = []

    def make_envs(num: int, stream: int) -> Envs:
        envs = Envs(make, num, cfg.seed, stream, **how)
        specs.append(envs.spec)
        if envs.spec != specs[0]:  # a network would stumble over it
            envs.close()
            raise ValueError(DIFFERENT)
        return envs

    return make, make_envs


def refuse_other_family(envs: Envs, family: str) -> None:
    """ConfigError where the environment's spaces are not what the config's family says."""
    actions = "discrete" if envs.spec.discrete else "continuous"
    vectors = len(envs.spec.obs_shape) == 1
    fits = (actions,) if vectors else ("pixels", "grid") if len(envs.spec.obs_shape) == 3 else ()
    if not fits:
        raise ConfigError(f"observations of shape {list(envs.spec.obs_shape)} are neither vectors nor images [C, H, W]")
    if family in ("discrete", "continuous", "pixels", "grid") and family not in fits:
        what = (
            f"actions are {actions}"
            if vectors and family in ("discrete", "continuous")
            else ("observations are vectors" if vectors else "observations are images")
        )
        raise ConfigError(f"family is {family}, but this environment's {what}: say family={fits[0]}")


def train(cfg: DictConfig) -> None:
    """Run a config in Hydra's output folder: from the start, or from where it was stopped."""
    hydra = HydraConfig.get()
    overrides, path = list(hydra.overrides.task), Path(hydra.runtime.output_dir)

    confs = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]

    def work() -> None:
        refuse_unknown_preset(overrides, confs)
        run(cfg, path, overrides, confs)

    if hydra.mode == RunMode.MULTIRUN:
        work()
    elif code := attempt(work):
        with suppress(OSError):  # it holds something
            path.rmdir()
        raise SystemExit(code)


def run(cfg: DictConfig, path: Path, overrides: Sequence[str], confs: Sequence[Path] = (CONF,)) -> None:
    """Check, build, train and evaluate; what goes wrong is left in status.json."""
    folder = RunFolder(path)
    before = folder.status()
    runner, opening, copied = start(cfg, folder, overrides, confs)
    if opening == "done":
        tell(f"this run is done: {path}\n{how_to_go_on(folder.status()['step'], cfg)}")
        return
    size = nbytes(runner.envs.spec, cfg.replay.capacity) / 1e6
    tell(f"run       {path}\nreplay    {cfg.replay.capacity:,} steps, {size:,.1f} MB on {runner.replay.storage}")
    tell("\n".join([precision_line(runner), *copied]))
    if opening == "resume":
        tell(resumed_line(folder, before))
    with runner.tracker, closing(runner.envs):
        try:
            final = runner.run()
        except Exception as error:
            folder.mark("failed", runner.steps, error=say(error) or traceback.format_exc())
            raise
        except KeyboardInterrupt:
            folder.mark("failed", runner.steps, error=AT_ONCE)
            raise
        tell("drawing   what was learned")  # with a planner it takes a minute
        pictures = draw(runner)
        seen = [*sorted(folder.videos.glob("*.mp4")), *(path for path in pictures if path.suffix == ".png")]
        runner.tracker.attach(seen)
    if runner.steps < cfg.steps:
        tell(f"stopped   at step {runner.steps:,}: {cfg.stop.metric} is at {cfg.stop.target} or above")
    tell(last_words(folder, final, cfg.eval.final_episodes, pictures))


AT_ONCE = "stopped at once by a second Ctrl-C"


def resumed_line(folder: RunFolder, before: Mapping[str, Any]) -> str:
    """Where a run goes on, and how its last attempt, of which `before` is the status, came to stop."""
    state, reason = before["state"], headline(before["error"] or "")
    how = {"preempted": "preempted by a signal", "running": "killed", "done": "done"}.get(state, f"a failure: {reason}")
    if state == "failed" and reason.startswith(("killed", "stopped")):  # a reason that says it all
        how = reason
    step = Checkpoint(folder.last).step()
    if step is None:
        how += ", before its first checkpoint (checkpoint.every)"
    return f"resumed   at step {step or 0:,}, attempt {before['attempt'] + 1}; the last attempt was {how}"


def start(
    cfg: DictConfig, folder: RunFolder, overrides: Sequence[str], confs: Sequence[Path] = (CONF,)
) -> tuple[Runner, Opening, list[str]]:
    """Check and build everything, then open the folder: the run, what is to be done, and what `init_from` copied."""
    check(cfg)
    refuse_old_names(folder.config(), str(folder.path / "config.yaml"))
    runner = build_runner(cfg, folder)
    runner.algo.allocate()
    copied = warm_start(runner.algo, cfg, folder)
    opening = folder.open(as_started(cfg, runner), overrides, partial(default_of, overrides, confs))
    return runner, opening, copied


def as_started(cfg: DictConfig, runner: Runner) -> dict[str, Any]:
    """The config as plain values, with the precision that was taken: a resume keeps to it on any machine."""
    config = plain(OmegaConf.to_container(cfg, resolve=True))
    config["runtime"]["precision"] = precision_name(runner)
    return config


def precision_name(runner: Runner) -> str:
    return "bf16" if runner.precision == torch.bfloat16 else "fp32"


def precision_line(runner: Runner) -> str:
    """What a run computes in, and why."""
    return f"precision {precision_name(runner)}, {runner.precision_why}"


def how_to_go_on(step: int, cfg: DictConfig) -> str:
    """What a finished run needs to go further: more steps, or, where it stopped early, no reason to stop."""
    if step < cfg.steps and cfg.stop.target is not None:
        reason = f"it stopped at step {step:,} of {cfg.steps:,}, as {cfg.stop.metric} had come to {cfg.stop.target}"
        return f"{reason}: it goes on with stop.metric=null stop.target=null, or a higher target"
    return f"more steps go on from here, e.g. steps={2 * max(step, cfg.steps)}"


def last_words(folder: RunFolder, final: dict[str, float], episodes: int, pictures: Sequence[Path]) -> str:
    """What a run came to, and where its pictures lie."""
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
    return "\n".join([*lines, f"evaluate  python scripts/evaluate.py {shlex.quote(str(folder.path))}{trust}"])


def say(error: BaseException) -> str | None:
    """One or two lines for what a user can mend; None for what is a fault of the program."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return (
            "out of memory: make planner.population, planner.particles, dynamics.width, dynamics.members,"
            " dynamics.trainer.batch, eval.num or replay.capacity smaller"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"{error}: make room there, and give the same command again"
    if isinstance(error, OmegaConfBaseException):
        return deleted_key(error)
    if isinstance(error, ConfigError | RunRefused | FloatingPointError | OSError | ValueError):
        return str(error)
    return None


def attempt(work: Callable[[], None]) -> int:
    """A script's exit code: 0, or 2 and a line for what a user can mend. Faults of the program are raised."""
    write_any_letter()
    try:
        work()
    except BrokenPipeError:
        hush(1)
        return UNHEARD
    except Exception as error:
        lines = say(error)
        if lines is None:
            raise
        print(f"error: {lines}", file=sys.stderr)
        return 2
    return 0


def write_any_letter() -> None:
    """Print letters that the terminal's encoding lacks as escapes: none of them is worth a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # it is closed
                stream.reconfigure(errors="backslashreplace")


def tell(text: str) -> None:
    """Print; a run goes on where nobody reads any more, as after `| head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        hush(1)


UNHEARD = 128 + 13
"""The exit code of a script whose output nobody reads on, as if by SIGPIPE."""


def main(hydra_main: Callable[[], None]) -> None:
    """Call a function decorated by `hydra.main`, its errors in words instead of tracebacks."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors in its own way, and exits
    write_any_letter()
    try:
        line = CommandLine(sys.argv[1:])
        confs = conf_folders(line.config_dir)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    try:
        line.overrides, seen = with_family(line.overrides, confs)
        if seen:
            print(seen, file=sys.stderr)
        sys.argv[1:] = line.words()
        hydra_main()
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        hush(1)
        raise SystemExit(UNHEARD) from None
    except Exception as error:
        lines = say(error)
        if isinstance(error, HydraException | YAMLError | UnicodeDecodeError) or type(error) is ValueError:
            lines = explain_here(error, line.overrides, confs)
        elif isinstance(error, OSError):
            lines = f"{error}; hydra.run.dir must be a folder that can be written"
        elif lines is None:
            raise
        print(f"error: {lines}", file=sys.stderr)
        raise SystemExit(2) from None
