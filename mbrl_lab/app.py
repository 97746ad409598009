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
from mbrl_lab.env import Envs
from mbrl_lab.env.vector import DIFFERENT
from mbrl_lab.monitor import Monitor, Stop
from mbrl_lab.nets.speed import compile_parts, keep_freed_memory
from mbrl_lab.replay import Replay
from mbrl_lab.runner import TRAIN, Runner, Schedule
from mbrl_lab.scores import Reference
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import Opening, RunFolder, RunRefused, plain
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
    stored.logger = {}  # nobody trains here, and a stored logger would send numbers to where its config points
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
    folder.check_links()
    check_old_names(stored, str(folder.path / "config.yaml"))
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
    camera = Camera(make, steps=cfg.video.get("steps", 0))  # an older run's config has no such setting
    if cfg.eval.get("shared", False):  # an older run's config has no such setting
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


def check_family(envs: Envs, family: str) -> None:
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


def start(
    cfg: DictConfig, folder: RunFolder, overrides: Sequence[str], confs: Sequence[Path] = (CONF,)
) -> tuple[Runner, Opening, list[str]]:
    """Check and build everything, then open the folder: the run, what is to be done, and what `init_from` copied."""
    check(cfg)
    check_old_names(folder.config(), str(folder.path / "config.yaml"))
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
