"""Checks of all settings before anything is built: ConfigError for the first invalid one."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from mbrl_lab.config.arguments import arguments
from mbrl_lab.config.parts import ConfigError, build, find_here, locate
from mbrl_lab.config.renamed import METRICS, answer_config
from mbrl_lab.config.rules import INT64, RULES, number
from mbrl_lab.protocols import option_of
from mbrl_lab.tracking.settings import flatten, plain


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for the first invalid setting, before any part is built."""
    # Old names first: their new spelling helps more than any other message about them.
    check_old_names(cast(dict[str, Any], OmegaConf.to_container(cfg)))
    for key in left_open(cfg):
        raise ConfigError(f"{key} must be given, e.g. {key}=...")

    # A missing module is reported before interpolations, which may call functions of it.
    find_here(cfg)
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except InterpolationKeyError as error:
        if "env.physics." in str(error):
            models = "grid, latent or rssm_xs" if cfg.family.name == "grid" else "ensemble, latent or rssm_xs"
            needs = "dynamics=analytic and formulas in dynamics.known need this environment's equations"
            raise ConfigError(f"{needs}, which are not known: try dynamics={models}") from error
        advice = "this environment or algorithm does not define it, so choose parts that do not need it"
        raise ConfigError(f"{str(error).splitlines()[0]}: {advice}") from error

    # Each setting by itself, then the settings of each part, then settings that depend on each other.
    check_rules(cfg)
    check_parts(cfg)
    check_frame_skip(cfg)
    if "imagination" in cfg.get("dynamics", {}) and cfg.dynamics.imagination.elites > cfg.dynamics.members:
        elites, allowed = cfg.dynamics.imagination.elites, f"at most dynamics.members, {cfg.dynamics.members}"
        raise ConfigError(f"dynamics.imagination.elites is {elites}; it must be {allowed}")
    check_room(cfg)
    if "length" in cfg.get("dynamics", {}):
        check_length(cfg)
    elif "horizon" in cfg.algo and "dynamics" not in cfg:
        check_horizon(cfg)
    check_score(cfg)
    check_stop(cfg)

    # A planner needs nothing from run time, and its constructor checks its own settings.
    if "planner" in cfg.algo:
        build(cfg.planner)


def check_old_names(config: Mapping[str, Any], source: str = "") -> None:
    """ConfigError for the first setting or class that was renamed; `source`: the file that the config comes from."""
    if answer := answer_config(config):
        raise ConfigError(f"{source}: {answer}; an older version wrote it" if source else answer)


def check_rules(cfg: DictConfig) -> None:
    """ConfigError for the first setting whose value its rule does not allow."""
    # Selecting a node parses its path, and hundreds of rules share a few parents.
    node_of = cache(lambda parent: OmegaConf.select(cfg, parent) if parent else cfg)
    for key, (holds, allowed) in RULES.items():
        parent, _, leaf = key.rpartition(".")
        node = node_of(parent)
        # A setting that this algorithm or part does not have needs no check.
        if isinstance(node, DictConfig) and leaf in node and not holds(value := OmegaConf.select(node, leaf)):
            beyond = f" to {INT64}" if isinstance(value, int) and value > INT64 else ""
            raise ConfigError(f"{key} is {value!r}; it must be {allowed}{beyond}")


def check_frame_skip(cfg: DictConfig) -> None:
    """ConfigError if env.frame_skip is above 1 but nothing in the environment applies it.

    The log would count frames that were never skipped.
    """
    applied = any(
        key.rpartition(".")[2] == "frame_skip" for key in flatten({"make": OmegaConf.to_container(cfg.env.make)})
    )
    if cfg.env.frame_skip > 1 and not applied:
        instead = "it must be 1, but env=gym env.id=... skips frames of any environment of gymnasium"
        raise ConfigError(f"env.frame_skip is {cfg.env.frame_skip}; this environment takes each action once: {instead}")


def left_open(cfg: DictConfig) -> list[str]:
    """The dotted names of settings whose value is still `???`, which means that it must be given."""
    tree = OmegaConf.to_container(cfg)
    assert isinstance(tree, dict), type(tree)
    return sorted(key for key, value in flatten({str(k): v for k, v in tree.items()}).items() if value == "???")


def check_parts(cfg: DictConfig) -> None:
    """ConfigError if a part is not a mapping with a class, or has settings that its class does not take."""
    for key in ("algo", "env.make", "dynamics", "planner", "policy", "encoder"):
        part = OmegaConf.select(cfg, key)
        if _has(cfg, key) and not isinstance(part, DictConfig):
            raise ConfigError(f"{key} is {part!r}; it must be a part, with a _target_ and its settings")
    for group in ("dynamics", "planner", "policy", "encoder"):
        part = cfg.get(group, {})
        if "_target_" in part:
            check_arguments(part, group, option_of(locate(part["_target_"])))


def check_arguments(node: DictConfig, path: str, part: str) -> None:
    """ConfigError for a key that the class of a part, or of a group of its settings, does not take.

    Args:
        node: the part, or the group.
        path: its key.
        part: the name of the part.
    """
    if "_target_" not in node:
        return

    # Hydra would report an unknown argument only when the part is built, after others have been built.
    known = arguments(locate(node["_target_"]))
    keys = [key for key in map(str, node) if not key.startswith("_")]
    for key in (key for key in keys if key not in known):
        value = node[key]
        if isinstance(value, DictConfig):  # the message names one setting, not a group of them
            key, value = next(iter(flatten({key: plain(value)}).items()))
        raise ConfigError(f"{path}.{key} is {value!r}, but {part} has no such setting")

    # Groups of settings are parts themselves; an interpolation points to a part that is checked in its own place.
    for key in keys:
        if isinstance(node[key], DictConfig) and not OmegaConf.is_interpolation(node, key):
            check_arguments(node[key], f"{path}.{key}", part)


def check_room(cfg: DictConfig) -> None:
    """ConfigError if replay is too small for a batch, or the run is over before anything is learned."""
    # A window has one step more than it has transitions; an image model reads its history and what it unrolls.
    num, capacity = cfg.env.num, cfg.replay.capacity
    rows = 1 + max(
        OmegaConf.select(cfg, f"policy.{key}", default=1) for key in ("target.n_step", "resets.n_step_start")
    )
    rows = max(rows, sum(OmegaConf.select(cfg, f"dynamics.{key}", default=0) for key in ("history", "unroll")))
    if num * rows > capacity:
        most = f"it must be at most {capacity // rows}" if rows <= capacity else "replay.capacity must be larger"
        raise ConfigError(f"env.num is {num}; with replay.capacity={capacity} and {rows} steps for each {most}")

    for key in ("algo.update.batch", "algo.warmup"):
        if (given := OmegaConf.select(cfg, key, default=0)) > capacity:
            raise ConfigError(f"{key} is {given}; it must be at most replay.capacity, {capacity}")
    if "warmup" in cfg.algo and cfg.algo.warmup > cfg.steps:
        raise ConfigError(f"algo.warmup is {cfg.algo.warmup}; it must be at most steps, {cfg.steps}")


def check_length(cfg: DictConfig) -> None:
    """ConfigError if a window is longer than the steps of an environment in replay at the first update."""
    # The warm-up adds one step more to each environment: the first one of its first episode.
    rows = {"replay.capacity": cfg.replay.capacity // cfg.env.num, "algo.warmup": cfg.algo.warmup // cfg.env.num + 1}
    limit = min(rows, key=lambda key: rows[key])
    if cfg.dynamics.length > rows[limit]:
        given = f"with {limit}={OmegaConf.select(cfg, limit)} and env.num={cfg.env.num}"
        raise ConfigError(f"dynamics.length is {cfg.dynamics.length}; {given} it must be at most {rows[limit]}")


def check_score(cfg: DictConfig) -> None:
    """ConfigError if scores cannot be normalised by env.score."""
    score = cfg.env.get("score")
    if score is not None and (set(score) != {"random", "human"} or score.random == score.human):
        raise ConfigError(f"env.score is {dict(score)}; it must be two different returns, of random and of human")


EVALUATED = ("return", "return_std", "return_iqm", "return_min", "return_max", "length")


def check_stop(cfg: DictConfig) -> None:
    """ConfigError if the run could never stop early by `stop`, as far as that is known before it runs."""
    metric, target = cfg.stop.metric, cfg.stop.target
    if metric is None and target is not None:
        raise ConfigError(f"stop.target is {target!r}, but stop.metric is null: name one, e.g. stop.metric=eval/return")
    if metric is None:
        return
    if metric in METRICS:
        raise ConfigError(f"stop.metric is {metric}, which is now {METRICS[metric]}")
    if not number(-1e9, 1e9)[0](target):
        raise ConfigError(f"stop.target is {target!r}; with stop.metric={metric} it must be a number")

    # Names under eval/ and train/ are known beforehand; others depend on the parts, and are not checked here.
    phase, _, name = str(metric).partition("/")
    logged = {"eval": (*EVALUATED, *(["hns"] if "score" in cfg.env else [])), "train": ("return", "length")}
    if not name or phase in ("final", "time") or name not in logged.get(phase, (name,)):
        known = ", ".join(f"{phase}/{x}" for x in logged.get(phase, ())) or "such as eval/return or train/return"
        raise ConfigError(f"stop.metric is {metric!r}; it must be a metric that training logs: {known}")

    # Fewer evaluations than the window has values: the target could not be reached.
    times = cfg.steps // cfg.eval.every if cfg.eval.every else 0
    if phase == "eval" and times < cfg.stop.window:
        logged_times = f"with eval.every={cfg.eval.every} and steps={cfg.steps} it is logged {times} times"
        raise ConfigError(f"stop.metric is {metric}, but {logged_times}: fewer than stop.window, {cfg.stop.window}")


def check_horizon(cfg: DictConfig) -> None:
    """ConfigError if an update needs more steps than replay or the run has, or has fewer than its minibatches."""
    # An update also reads the step before its first transition.
    rows = cfg.replay.capacity // cfg.env.num - 1
    most = min(rows, cfg.steps // cfg.env.num)
    if cfg.algo.horizon > most:
        limit = f"replay.capacity={cfg.replay.capacity}" if most == rows else f"steps={cfg.steps}"
        raise ConfigError(
            f"algo.horizon is {cfg.algo.horizon}; with env.num={cfg.env.num} and {limit} it must be at most {most}"
        )

    steps = cfg.algo.horizon * cfg.env.num
    minibatches = OmegaConf.select(cfg, "policy.optim.minibatches", default=1)
    if minibatches > steps:
        given = f"policy.optim.minibatches is {minibatches}; with algo.horizon={cfg.algo.horizon}"
        raise ConfigError(f"{given} and env.num={cfg.env.num} it must be at most {steps}")


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node
