"""Composes a config from the files in conf/, another folder of such files, and the words of a command line."""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mbrl_lab.config import presets
from mbrl_lab.config.checks import check_rules
from mbrl_lab.config.command_line import quoted, readable
from mbrl_lab.config.messages import explain, flat_keys, groups_of, missing
from mbrl_lab.config.parts import ConfigError, build, find_here
from mbrl_lab.env.envs import spec_of
from mbrl_lab.tracking.settings import ABSENT

PACKAGE = Path(__file__).resolve().parents[1]
# An installed package holds its own copy of the config files; in a checkout they are beside it.
CONF = next(path for path in (PACKAGE / "conf", PACKAGE.parent / "conf") if path.is_dir())

# Run folders get a random suffix, cached so that one composition uses the same one everywhere.
OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(3), use_cache=True, replace=True)
OmegaConf.register_new_resolver(
    "sweep_dir", lambda name, otherwise: f"sweeps/{name}" if name else otherwise, replace=True
)


def compose_config(overrides: Sequence[str], config_dir: Path | str | None = None, look: bool = True) -> DictConfig:
    """The config that `scripts/train.py` would run with these overrides. Raises ConfigError.

    Args:
        overrides: words of the command line.
        config_dir: another folder of config files, like `--config-dir`.
        look: whether an environment may be made to find its family, if env=gym leaves that open.
    """
    confs = conf_folders(config_dir)
    overrides = [readable(override) for override in overrides]
    check_preset(overrides, confs)
    if look:
        overrides, _ = with_family(overrides, confs)
    try:
        return composed(overrides, confs)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        problem = error
    # Outside of `except`: composing once more for the message must not chain its own errors to this one.
    raise ConfigError(composition_message(problem, overrides, confs)) from problem


def default_of(overrides: Sequence[str], confs: Sequence[Path], key: str) -> Any:
    """A setting's value in the files of the chosen parts, without preset, experiment and the command line.

    `ABSENT` if these parts have no such setting.
    """
    try:
        value = OmegaConf.select(_defaults(tuple(overrides), tuple(confs)), key, default=ABSENT)
    except OmegaConfBaseException:  # it refers to a setting that only the command line gives
        return ABSENT
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


TUNED = ("budget", "preset", "experiment", "debug", "shrink", "sweep")
"""Config groups that change other groups' values."""


@cache
def _defaults(overrides: tuple[str, ...], confs: tuple[Path, ...]) -> DictConfig:
    """The config of the same parts with the values of their own files."""
    choices = choices_of(overrides, confs)
    own = {name for name in choices if name in groups_of(confs) and not name.startswith("hydra")}
    # The recipe follows from algo and family. If it were named explicitly, Hydra would read it before it knows them.
    named = sorted(own - {*TUNED, "recipe"})
    parts = [f"{name}={choices[name]}" for name in named if choices[name] is not None]
    return composed([*parts, "preset=none", "budget=none"], confs)


def choices_of(overrides: Sequence[str], confs: Sequence[Path]) -> dict[str, str | None]:
    """The option of every group that these words choose, `policy` -> `sac`, by themselves or through a recipe."""
    return dict(composed(overrides, confs, return_hydra_config=True).hydra.runtime.choices)


def conf_folders(config_dir: Path | str | None = None) -> list[Path]:
    """Our folder of configs, and another one that adds to it. ConfigError if there is no such folder."""
    if config_dir is None:
        return [CONF]
    there = Path(config_dir).absolute()
    if not there.is_dir():
        raise ConfigError(f"--config-dir is {str(config_dir)!r}; it must be a folder, but there is no folder {there}")
    return [CONF, there]


def composed(overrides: Sequence[str], confs: Sequence[Path], **how: Any) -> DictConfig:
    """A config from the folders; a file in an earlier folder hides one of the same name in a later folder."""
    presets.FOLDERS[:] = confs[1:]
    with hydra_set_aside(), initialize_config_dir(str(confs[0]), version_base="1.3"):
        return compose("train", [*overrides, *search_path(confs)], **how)


@contextlib.contextmanager
def hydra_set_aside() -> Iterator[None]:
    """Allow another composition while Hydra runs a command: Hydra has one global state, which is restored after it."""
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = running


def search_path(confs: Sequence[Path]) -> list[str]:
    """The override that makes Hydra search the other folders too, if there are any."""
    others = ",".join(quoted(f"file://{conf}") for conf in confs[1:])
    return [f"hydra.searchpath=[{others}]"] if others else []


def with_family(words: Sequence[str], confs: Sequence[Path] = (CONF,)) -> tuple[list[str], str]:
    """The words of a command line, with `family=` if env=gym leaves it open, and a line about the spaces, or "".

    Every environment that they sweep over is made once. ConfigError if one cannot be made, or if families differ.
    """
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    if "env=gym" not in words or "family" in keys:
        return list(words), ""

    # Only settings of the environment can change its spaces; a comma list among them is a sweep.
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
        return list(words), ""  # composing the whole command line will explain the error

    # A sweep has one recipe for all its runs, so it needs one family.
    found = dict(family for family in looked if family)
    if len(found) > 1:
        raise ConfigError(f"these environments are of several families ({', '.join(found)}): give each its own sweep")
    if not found:
        return list(words), ""
    ((family, spaces),) = found.items()
    return [*words, f"family={family}"], f"family={family}: {spaces}"


def family_of(words: Sequence[str], confs: Sequence[Path]) -> tuple[str, str] | None:
    """The family of the environment that words of `env` describe, and its spaces; None without an id."""
    # algo=random has a recipe for every family, so it composes before the family is known.
    cfg = composed([*words, "algo=random"], confs)
    if OmegaConf.is_missing(cfg.env, "id"):
        return None
    check_rules(cfg)
    find_here(cfg)
    try:
        env = build(cfg.env.make)()
        with contextlib.suppress(Exception):  # a run reports it when it closes its own
            env.close()
        spec, space = spec_of(env.observation_space, env.action_space), env.observation_space
    except ValueError as error:
        raise ConfigError(str(error)) from error

    actions = f"{spec.action_dim} actions" if spec.discrete else f"actions [{spec.action_dim}]"
    shown = f"observations {list(spec.obs_shape)} {str(spec.obs_dtype).removeprefix('torch.')}, {actions}"

    # Images of zeros and ones are grids, for which small networks suffice.
    if len(spec.obs_shape) == 1:
        return "discrete" if spec.discrete else "continuous", shown
    return "grid" if space.high.max() <= 1 else "pixels", shown


def check_preset(overrides: Sequence[str], confs: Sequence[Path]) -> None:
    """ConfigError for a preset or a budget that does not exist: they are optional, so Hydra would ignore it."""
    for group, _, name in (o.partition("=") for o in overrides):
        there = any((conf / "preset" / f"{name}.yaml").is_file() for conf in confs)
        if group in ("preset", "budget") and name != "null" and not there:
            raise ConfigError(missing(f"preset/{name}", confs, group))


def composition_message(error: Exception, overrides: Sequence[str], confs: Sequence[Path]) -> str:
    """`explain` with the settings that the chosen groups have."""
    known = groups_of(confs)
    groups = [o for o in overrides if o.partition("=")[0] in known and not o.endswith("=null")]

    # The groups themselves may be the problem: fall back to fewer of them, at last to none.
    keys: list[str] = []
    for chosen in (groups, [o for o in groups if o.startswith(("env=", "algo="))], []):
        with contextlib.suppress(HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError):
            keys = flat_keys(cast(dict[str, Any], OmegaConf.to_container(composed(chosen, confs))))
            break
    return explain(error, overrides, confs, keys)
