"""Configs: composed by Hydra, checked before anything runs, and errors in words a user can act on."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import logging
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from mbrl_lab import presets
from mbrl_lab.env.envs import spec_of
from mbrl_lab.explain import explain, flat_keys, groups_of, missing
from mbrl_lab.renamed import TARGETS, answer_config
from mbrl_lab.rules import INT64, RULES, number
from mbrl_lab.tracking.folder import ABSENT, flatten, plain
from mbrl_lab.words import quoted, readable

PACKAGE = Path(__file__).resolve().parent
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs, in several lines, what it raises too

OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(3), use_cache=True, replace=True)
OmegaConf.register_new_resolver(
    "sweep_dir", lambda name, otherwise: f"sweeps/{name}" if name else otherwise, replace=True
)


class ConfigError(ValueError):
    """A setting that cannot be: which, what was given, what is allowed."""


def compose_config(overrides: Sequence[str], config_dir: Path | str | None = None, look: bool = True) -> DictConfig:
    """What `scripts/train.py` would run with these overrides, and with this `--config-dir`. Raises ConfigError.

    look: whether an environment may be made to find its family, where env=gym leaves that open.
    """
    confs = conf_folders(config_dir)
    overrides = [readable(override) for override in overrides]
    refuse_unknown_preset(overrides, confs)
    if look:
        overrides, _ = with_family(overrides, confs)
    try:
        return composed(overrides, confs)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        problem = error
    raise ConfigError(explain_here(problem, overrides, confs)) from problem


def default_of(overrides: Sequence[str], confs: Sequence[Path], key: str) -> Any:
    """A setting's value in the chosen parts' own files: without preset, experiment and the command line.

    `ABSENT` where these parts have no such setting.
    """
    try:
        value = OmegaConf.select(_defaults(tuple(overrides), tuple(confs)), key, default=ABSENT)
    except OmegaConfBaseException:  # it points to what only the command line gives
        return ABSENT
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


TUNED = ("budget", "preset", "experiment", "debug", "shrink", "sweep")
"""Config groups that change other groups' values."""


@cache
def _defaults(overrides: tuple[str, ...], confs: tuple[Path, ...]) -> DictConfig:
    """The config of the same parts with the values of their own files."""
    choices = composed(overrides, confs, return_hydra_config=True).hydra.runtime.choices
    own = {name for name in choices if name in groups_of(confs) and not name.startswith("hydra")}
    parts = [f"{name}={choices[name]}" for name in sorted(own - set(TUNED)) if choices[name] is not None]
    return composed([*parts, "preset=none", "budget=none"], confs)


def conf_folders(config_dir: Path | str | None = None) -> list[Path]:
    """Our folder of configs, and another that adds to it. ConfigError where that is none."""
    if config_dir is None:
        return [CONF]
    there = Path(config_dir).absolute()
    if not there.is_dir():
        raise ConfigError(f"--config-dir is {str(config_dir)!r}; it must be a folder, and {there} is none")
    return [CONF, there]


def composed(overrides: Sequence[str], confs: Sequence[Path], **how: Any) -> DictConfig:
    """A config from the folders; what stands in an earlier one hides what stands in a later one."""
    presets.FOLDERS[:] = confs[1:]
    where = [f"hydra.searchpath=[{','.join(quoted(f'file://{conf}') for conf in confs[1:])}]"]
    with initialize_config_dir(str(confs[0]), version_base="1.3"):
        return compose("train", [*overrides, *(where if confs[1:] else [])], **how)


def with_family(words: Sequence[str], confs: Sequence[Path] = (CONF,)) -> tuple[list[str], str]:
    """The words of a command line, with `family=` where env=gym leaves it open, and what was seen, or "".

    Every environment that they sweep over is made once. ConfigError where one cannot be, or where families differ.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    if "env=gym" not in words or "family" in keys:
        return list(words), ""
    own = [word for word, key in zip(words, keys, strict=True) if key.partition(".")[0] == "env"]
    try:
        parsed = OverridesParser.create().parse_overrides(own)
        choices = [
            [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
            if o.is_sweep_override()
            else [str(o.input_line)]
            for o in parsed
        ]
        looked = [family_of(chosen, confs) for chosen in itertools.product(*choices)]
    except (HydraException, OmegaConfBaseException):
        return list(words), ""  # whoever composes the whole of it explains
    found = dict(seen for seen in looked if seen)
    if len(found) > 1:
        raise ConfigError(f"these environments are of several families ({', '.join(found)}): give each its own sweep")
    if not found:
        return list(words), ""
    ((family, seen),) = found.items()
    return [*words, f"family={family}"], f"family={family}: {seen}"


def family_of(words: Sequence[str], confs: Sequence[Path]) -> tuple[str, str] | None:
    """The family of the environment that words of `env` describe, and its spaces; None without an id."""
    cfg = composed([*words, "algo=random"], confs)
    if OmegaConf.is_missing(cfg.env, "id"):
        return None
    check_rules(cfg)
    find_here(cfg)
    try:
        env = build(cfg.env.make)()
        with contextlib.suppress(Exception):  # a run says so when it closes its own
            env.close()
        spec, space = spec_of(env.observation_space, env.action_space), env.observation_space
    except ValueError as error:
        raise ConfigError(str(error)) from error
    actions = f"{spec.action_dim} actions" if spec.discrete else f"actions [{spec.action_dim}]"
    shown = f"observations {list(spec.obs_shape)} {str(spec.obs_dtype).removeprefix('torch.')}, {actions}"
    if len(spec.obs_shape) == 1:
        return "discrete" if spec.discrete else "continuous", shown
    return "grid" if space.high.max() <= 1 else "pixels", shown


def refuse_unknown_preset(overrides: Sequence[str], confs: Sequence[Path]) -> None:
    """ConfigError for a preset or a budget that does not exist: they are optional, so Hydra would say nothing."""
    for group, _, name in (o.partition("=") for o in overrides):
        there = any((conf / "preset" / f"{name}.yaml").is_file() for conf in confs)
        if group in ("preset", "budget") and name != "null" and not there:
            raise ConfigError(missing(f"preset/{name}", confs, group))


def explain_here(error: Exception, overrides: Sequence[str], confs: Sequence[Path]) -> str:
    """`explain` with the settings that the chosen groups have."""
    known = groups_of(confs)
    groups = [o for o in overrides if o.partition("=")[0] in known and not o.endswith("=null")]
    keys: list[str] = []
    for chosen in (groups, [o for o in groups if o.startswith(("env=", "algo="))], []):
        with contextlib.suppress(HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError):
            keys = flat_keys(cast(dict[str, Any], OmegaConf.to_container(composed(chosen, confs))))
            break
    return explain(error, overrides, confs, keys)


def build(node: DictConfig) -> Any:
    """The one place where a `_target_` becomes an object, or a partial that waits for what exists at run time.

    It gets a copy without interpolations: what they point to would be resolved in the config itself. Arguments are
    plain dicts and lists.
    """
    try:
        return instantiate(OmegaConf.to_container(node, resolve=True), _convert_="all")
    except HydraException as error:
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(str(error.__cause__)) from error
        if isinstance(error.__cause__, ImportError | AttributeError):
            raise ConfigError(not_found(str(node.get("_target_")), error.__cause__)) from error
        raise


def find_here(cfg: DictConfig) -> None:
    """Let modules of the current folder be found, if this config names one and it is nowhere else.

    A script has its own folder on the path, and not the current one. That goes last, and only then, so that no file
    which happens to lie here takes the place of a package, or of one that some library would like to have.
    """
    for key, value in flatten(plain(cfg)).items():
        name = str(value).partition(":" if key.endswith("id") else ".")[0].partition(".")[0]
        named = key.split(".")[-1] == "_target_" or (key in ("env.id", "env.make.id") and ":" in str(value))
        if named and name.isidentifier() and not find_module(name):
            where = f"{Path.cwd()} and what is installed; PYTHONPATH=FOLDER before the command adds a folder"
            raise ConfigError(f"{key} is {value!r}, but there is no module {name!r} in {where}")


def find_module(name: str) -> bool:
    """Whether a top-level module can be imported. The current folder joins the path if the module is only there."""
    if name in sys.modules or find_spec(name) is not None:
        return True
    here = Path(f"{name}.py").is_file() or Path(name).is_dir()
    if here:
        sys.path.append(str(Path.cwd()))
    return here


def check(cfg: DictConfig) -> None:
    """Raise ConfigError for the first setting that cannot be, before any part is built."""
    refuse_old_names(cast(dict[str, Any], OmegaConf.to_container(cfg)))
    for key in left_open(cfg):
        raise ConfigError(f"{key} must be given, e.g. {key}=...")
    find_here(cfg)
    try:
        OmegaConf.resolve(cfg.copy())
    except InterpolationKeyError as error:
        lacking = "this environment or algorithm does not give it, so choose parts that do without"
        raise ConfigError(f"{str(error).splitlines()[0]}: {lacking}") from error
    check_rules(cfg)
    check_parts(cfg)
    check_frame_skip(cfg)
    if "elites" in cfg.get("dynamics", {}) and cfg.dynamics.elites > cfg.dynamics.members:
        raise ConfigError(
            f"dynamics.elites is {cfg.dynamics.elites}; it must be at most dynamics.members, {cfg.dynamics.members}"
        )
    check_room(cfg)
    if "length" in cfg.get("dynamics", {}):
        check_length(cfg)
    elif "horizon" in cfg.algo:
        check_horizon(cfg)
    check_score(cfg)
    check_stop(cfg)
    if "planner" in cfg.algo:
        build(cfg.planner)


def refuse_old_names(config: Mapping[str, Any], source: str = "") -> None:
    """ConfigError for the first setting or class that has another name now; `source` is where the config was read."""
    if answer := answer_config(config):
        raise ConfigError(f"{source}: {answer}; an older version wrote it" if source else answer)


def check_rules(cfg: DictConfig) -> None:
    """ConfigError for the first setting that cannot be by itself."""
    node_of = cache(lambda parent: OmegaConf.select(cfg, parent) if parent else cfg)
    for key, (holds, allowed) in RULES.items():
        parent, _, leaf = key.rpartition(".")
        node = node_of(parent)
        if isinstance(node, DictConfig) and leaf in node and not holds(value := OmegaConf.select(node, leaf)):
            beyond = f" to {INT64}" if isinstance(value, int) and value > INT64 else ""
            raise ConfigError(f"{key} is {value!r}; it must be {allowed}{beyond}")


def check_frame_skip(cfg: DictConfig) -> None:
    """ConfigError where frames would be counted that nobody skips."""
    applied = any(
        key.rpartition(".")[2] == "frame_skip" for key in flatten({"make": OmegaConf.to_container(cfg.env.make)})
    )
    if cfg.env.frame_skip > 1 and not applied:
        instead = "it must be 1, but env=gym env.id=... skips frames of any environment of gymnasium"
        raise ConfigError(f"env.frame_skip is {cfg.env.frame_skip}; this environment takes each action once: {instead}")


def left_open(cfg: DictConfig) -> list[str]:
    """The dotted names of settings that still are `???`."""
    tree = OmegaConf.to_container(cfg)
    assert isinstance(tree, dict), type(tree)
    return sorted(key for key, value in flatten({str(k): v for k, v in tree.items()}).items() if value == "???")


def locate(target: str) -> Any:
    """What a `_target_` names. Raises ConfigError where there is no such thing."""
    try:
        return get_object(target)
    except (ImportError, AttributeError) as error:
        raise ConfigError(not_found(target, error)) from error


def not_found(target: str, error: BaseException) -> str:
    """Hydra's several lines on a `_target_` as one."""
    if target in TARGETS:
        return f"_target_ is {target}, which is now {TARGETS[target]}"
    why = " ".join(line.strip() for line in str(error).splitlines()[1:2]) or str(error)
    return f"_target_ is {target!r}, which cannot be loaded: {why}"


def check_parts(cfg: DictConfig) -> None:
    """ConfigError where a part is none, or has settings that it does not know."""
    for key in ("algo", "env.make", "dynamics", "planner", "policy", "encoder"):
        part = OmegaConf.select(cfg, key)
        if _has(cfg, key) and not isinstance(part, DictConfig):
            raise ConfigError(f"{key} is {part!r}; it must be a part, with a _target_ and its settings")
    for group in ("dynamics", "planner", "policy", "encoder"):
        check_arguments(cfg.get(group, {}), group)


def check_arguments(node: DictConfig, path: str) -> None:
    """ConfigError for a key that the class of a part, or of a group of its settings, does not take."""
    if "_target_" not in node:
        return
    known = inspect.signature(locate(node["_target_"])).parameters
    keys = [key for key in map(str, node) if not key.startswith("_")]
    for key in (key for key in keys if key not in known):
        value = node[key]
        if isinstance(value, DictConfig):  # name a setting, not a group of them
            key, value = next(iter(flatten({key: plain(value)}).items()))
        raise ConfigError(f"{path}.{key} is {value!r}, but {class_name(node)} has no such setting")
    for key in keys:
        if isinstance(node[key], DictConfig) and not OmegaConf.is_interpolation(node, key):
            check_arguments(node[key], f"{path}.{key}")


def class_name(node: DictConfig) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def check_room(cfg: DictConfig) -> None:
    """ConfigError where replay cannot hold what is asked of it, or the run ends before anything is learned."""
    num, capacity = cfg.env.num, cfg.replay.capacity
    rows = 1 + max(OmegaConf.select(cfg, f"policy.{key}", default=1) for key in ("n_step", "resets.n_step_start"))
    rows = max(rows, sum(OmegaConf.select(cfg, f"dynamics.{key}", default=0) for key in ("history", "unroll")))
    if num * rows > capacity:
        most = f"it must be at most {capacity // rows}" if rows <= capacity else "replay.capacity must be larger"
        raise ConfigError(f"env.num is {num}; with replay.capacity={capacity} and {rows} rows for each {most}")
    for key in ("batch", "warmup"):
        if key in cfg.algo and cfg.algo[key] > capacity:
            raise ConfigError(f"algo.{key} is {cfg.algo[key]}; it must be at most replay.capacity, {capacity}")
    if "warmup" in cfg.algo and cfg.algo.warmup > cfg.steps:
        raise ConfigError(f"algo.warmup is {cfg.algo.warmup}; it must be at most steps, {cfg.steps}")


def check_length(cfg: DictConfig) -> None:
    """ConfigError where a window of rows is longer than what replay holds when it is first asked for one."""
    rows = {"replay.capacity": cfg.replay.capacity // cfg.env.num, "algo.warmup": cfg.algo.warmup // cfg.env.num + 1}
    limit = min(rows, key=lambda key: rows[key])
    if cfg.dynamics.length > rows[limit]:
        given = f"with {limit}={OmegaConf.select(cfg, limit)} and env.num={cfg.env.num}"
        raise ConfigError(f"dynamics.length is {cfg.dynamics.length}; {given} it must be at most {rows[limit]}")


def check_score(cfg: DictConfig) -> None:
    """ConfigError where scores cannot be normalised by what env.score says."""
    score = cfg.env.get("score")
    if score is not None and (set(score) != {"random", "human"} or score.random == score.human):
        raise ConfigError(f"env.score is {dict(score)}; it must be two different returns, of random and of human")


EVALUATED = ("return", "return_std", "return_iqm", "return_min", "return_max", "length")


def check_stop(cfg: DictConfig) -> None:
    """ConfigError where a run would wait for what cannot come, as far as that is known before it runs."""
    metric, target = cfg.stop.metric, cfg.stop.target
    if metric is None and target is not None:
        raise ConfigError(f"stop.target is {target!r}, but stop.metric is null: name one, e.g. stop.metric=eval/return")
    if metric is None:
        return
    if not number(-1e9, 1e9)[0](target):
        raise ConfigError(f"stop.target is {target!r}; with stop.metric={metric} it must be a number")
    phase, _, name = str(metric).partition("/")
    logged = {"eval": (*EVALUATED, *(["hns"] if "score" in cfg.env else [])), "train": ("return", "length")}
    if not name or phase in ("final", "time") or name not in logged.get(phase, (name,)):
        known = ", ".join(f"{phase}/{x}" for x in logged.get(phase, ())) or "such as eval/return or train/return"
        raise ConfigError(f"stop.metric is {metric!r}; it must be a metric that training logs: {known}")
    times = cfg.steps // cfg.eval.every if cfg.eval.every else 0
    if phase == "eval" and times < cfg.stop.window:
        said = f"with eval.every={cfg.eval.every} and steps={cfg.steps} it is logged {times} times"
        raise ConfigError(f"stop.metric is {metric}, but {said}: fewer than stop.window, {cfg.stop.window}")


def check_horizon(cfg: DictConfig) -> None:
    """ConfigError where an update's rows are more than replay holds or the run has, or fewer than its minibatches."""
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


def choose_device(name: str, key: str = "runtime.device") -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device that is there; ConfigError naming the setting `key` otherwise."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(name)):
        raise ConfigError(f"{key} is {name!r}; it must be auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= there:
        raise ConfigError(f"{key} is {name}, but this machine has {there} CUDA devices: use auto or cpu")
    return device


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, leaf = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and leaf in node
