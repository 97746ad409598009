"""From a config to a run: the functions that the commands and the Python API share."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from mbrl_lab.arithmetic import PRECISION, choose_arithmetic
from mbrl_lab.config import (
    CONF,
    ConfigError,
    build,
    check,
    check_old_names,
    choose_device,
    compose_config,
    conf_folders,
    default_of,
)
from mbrl_lab.config.command_line import override
from mbrl_lab.data import fill, read_episodes
from mbrl_lab.env import Envs
from mbrl_lab.env.actions import units_of
from mbrl_lab.env.vector import DIFFERENT
from mbrl_lab.hub.fetch import PREFIX, fetch
from mbrl_lab.hub.weights import WEIGHTS, read_weights
from mbrl_lab.monitor import Monitor, Stop
from mbrl_lab.nets.speed import compile_parts, keep_freed_memory
from mbrl_lab.replay import Replay
from mbrl_lab.runner import TRAIN, Compute, Runner, Schedule
from mbrl_lab.scores import Reference
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import Opening, RunFolder, RunRefused, no_run
from mbrl_lab.tracking.settings import plain
from mbrl_lab.tracking.state import load_module_state
from mbrl_lab.tracking.tracker import Tracker
from mbrl_lab.tracking.video import Camera
from mbrl_lab.trust import check_stored
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
    """A run as the command line would make it. `.run()` starts or resumes it.

    make_run("mpc", "cartpole", "planner.horizon=20", folder="outputs/mine", steps=1000).run()

    Args:
        overrides: words of the command line, quoted as there.
        folder: the run's folder, new or existing.
        config_dir: another folder of config files, like `--config-dir`.
        settings: literal values, `**{"stop.metric": None, "name": "a=b"}`; `${...}` refers to another setting.

    Raises ConfigError for an invalid setting, RunRefused if the folder holds another run.
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

    Args:
        folder: the run's folder, one that `mbrl-lab publish` wrote, or hf:USER/NAME for an agent on the Hub.
        checkpoint: `last`, `best`, or the folder of another checkpoint; a published agent has only `last`.
        device: `auto`, `cpu` or `cuda`.
        with_replay: load its replay too, if the checkpoint holds it; `best` does not.
        trust: modules of the caller's own that the run's config may build parts from, e.g. ["mymodule"].

    Raises ConfigError if there is no run or no checkpoint, or if its config names parts that are not trusted.
    """
    home = RunFolder(find_run(folder))
    if published(home):
        # What others signed and may send on stays as it is.
        home = RunFolder(home.path, home.path.with_name(f"{home.path.name}-results"))
    stored = stored_config(home, trust)

    # Without training nothing is logged, and a stored logger could send data to an address in its config.
    stored.logger = {}
    # Replay of two steps: an evaluation does not use it, and the run's own could exceed this machine's memory.
    changes: dict[str, Any] = {"runtime": {"device": device, "precision": "auto"}} | (
        {} if with_replay else {"replay": {"capacity": 2}}
    )
    cfg = OmegaConf.merge(stored, changes)
    assert isinstance(cfg, DictConfig)

    if checkpoint == "last" and published(home):
        state, step = read_weights(home.path / WEIGHTS)
        runner = build_runner(cfg, home)
        runner.steps = step
        load_module_state(runner.algo, state)
        return runner

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


def find_run(place: Path | str) -> Path:
    """The folder of a run; for hf:USER/NAME that of a copy on this machine."""
    return fetch(str(place)) if str(place).startswith(PREFIX) else Path(place)


def published(folder: RunFolder) -> bool:
    """Whether a folder holds a published agent: weights alone, nothing to resume."""
    return (folder.path / WEIGHTS).exists() and not folder.last.exists()


def check_whole(place: Path | str, what: str) -> None:
    """ConfigError if a place is a published agent, which lacks `what`; nothing is fetched for this."""
    if str(place).startswith(PREFIX) or published(RunFolder(place)):
        raise ConfigError(f"{place} is a published agent, which has no {what}: name the folder of the run itself")


def stored_config(folder: RunFolder, trust: Sequence[str] = ()) -> DictConfig:
    """The config of a run's last start, checked and without the launcher, which only a sweep's command needs.

    Raises ConfigError if there is no run, or if its config names parts that are neither ours nor in `trust`.
    """
    stored = folder.config()
    if not stored:
        raise ConfigError(no_run(folder.path))

    # Before anything is built: a folder from somebody else must neither run code nor write outside of itself.
    folder.check_links()
    check_old_names(stored, str(folder.path / "config.yaml"))
    check_stored(stored, str(folder.path / "config.yaml"), trust)
    return OmegaConf.create({key: value for key, value in stored.items() if key != "launcher"})


def build_runner(cfg: DictConfig, folder: RunFolder) -> Runner:
    """Build every part from its config, and the runner from the parts."""
    device = choose_device(cfg.runtime.device)
    torch.set_num_threads(cfg.runtime.threads)
    keep_freed_memory()
    torch.backends.cudnn.deterministic = True

    # Initial weights depend on these generators, so they are seeded before any part is built.
    random.seed(cfg.seed)
    np.random.seed(cfg.seed % 2**32)
    torch.manual_seed(cfg.seed)

    make, make_envs = env_makers(cfg)
    envs = make_envs(cfg.env.num, TRAIN)
    # `get`: the config of an older run lacks these settings.
    camera = Camera(make, steps=cfg.video.get("steps", 0))
    if cfg.eval.get("shared", False):
        # Only one simulator may exist, so evaluations borrow the training one, and a video closes it first.
        make_envs, camera.before = lambda num, stream: envs.lend(stream), envs.put_away
    check_family(envs, cfg.family.name)

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

    # After the networks exist: whether bf16 pays depends on their sizes.
    last, began = stored_precisions(folder)
    chosen = choose_arithmetic(cfg.runtime.precision, last, device, algo, began)
    if chosen.warning:
        log.warning(chosen.warning)
    compute = Compute(device, chosen.dtype, chosen.why)
    return Runner(algo, make_envs, envs, replay, tracker, monitor, schedule, cfg.seed, compute, reference)


def stored_precisions(folder: RunFolder) -> tuple[str | None, str | None]:
    """The precision of the last attempt in this folder, and that of the first; None where there was none."""
    last = folder.config().get("runtime", {}).get("precision")
    if last not in PRECISION:
        return None, None
    return last, folder.env().get("precision")


def env_makers(cfg: DictConfig) -> tuple[Callable[..., gymnasium.Env], Callable[[int, int], Envs]]:
    """Two functions: one makes a single environment, for videos; the other makes `num` environments of a stream."""
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
        # A simulator may draw its sizes at random; the networks are built for the first one's.
        if envs.spec != specs[0]:
            envs.close()
            raise ValueError(DIFFERENT)
        return envs

    return make, make_envs


def check_family(envs: Envs, family: str) -> None:
    """ConfigError if the environment's spaces do not belong to the config's family."""
    actions = "discrete" if envs.spec.discrete else "continuous"
    vectors = len(envs.spec.obs_shape) == 1
    fits = (actions,) if vectors else ("pixels", "grid") if len(envs.spec.obs_shape) == 3 else ()
    if not fits:
        raise ConfigError(f"observations of shape {list(envs.spec.obs_shape)} are neither vectors nor images [C, H, W]")

    # A family of the user's own is not checked: only its author knows which spaces belong to it.
    if family in ("discrete", "continuous", "pixels", "grid") and family not in fits:
        what = (
            f"actions are {actions}"
            if vectors and family in ("discrete", "continuous")
            else ("observations are vectors" if vectors else "observations are images")
        )
        raise ConfigError(f"family is {family}, but this environment's {what}: use family={fits[0]}")


def start(
    cfg: DictConfig, folder: RunFolder, overrides: Sequence[str], confs: Sequence[Path] = (CONF,)
) -> tuple[Runner, Opening, list[str]]:
    """Check and build everything, then open the folder.

    Returns the run, whether it is new, to be resumed or done, and lines that list what `init_from` copied and
    `replay.init` read.
    """
    check(cfg)
    check_old_names(folder.config(), str(folder.path / "config.yaml"))

    # The folder is opened last, so that a config that cannot be built leaves no trace in it.
    runner = build_runner(cfg, folder)
    runner.algo.allocate_memory()
    copied = [*warm_start(runner.algo, cfg, folder), *begin_replay(runner, cfg)]
    opening = folder.open(as_started(cfg, runner), overrides, partial(default_of, overrides, confs))
    return runner, opening, copied


def begin_replay(runner: Runner, cfg: DictConfig) -> list[str]:
    """Put the recorded steps of `replay.init` into replay; returns a line for them. A resumed run has them already."""
    place = cfg.replay.init
    if place is None or Checkpoint(runner.folder.last).exists():
        return []
    make, _ = env_makers(cfg)
    runner.envs.put_away()  # of some simulators only one may exist
    steps = fill(runner.replay, read_episodes(place), units_of(make), place)
    return [f"replay    {steps:,} recorded steps, with resets, from {place}"]


def as_started(cfg: DictConfig, runner: Runner) -> dict[str, Any]:
    """The config as plain values, with the chosen precision instead of `auto`: a resume keeps it on any machine."""
    config = plain(OmegaConf.to_container(cfg, resolve=True))
    config["runtime"]["precision"] = precision_name(runner)
    return config


def precision_name(runner: Runner) -> str:
    return "bf16" if runner.precision == torch.bfloat16 else "fp32"


def precision_line(runner: Runner) -> str:
    """The precision of a run, and the reason for it."""
    return f"precision {precision_name(runner)}, {runner.precision_why}"
