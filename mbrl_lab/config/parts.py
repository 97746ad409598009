"""Build the parts that a config names by `_target_`, and find what they need: modules and devices."""

from __future__ import annotations

import logging
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from mbrl_lab.config.renamed import TARGETS
from mbrl_lab.tracking.folder import flatten, plain

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs, in several lines, what it raises too


class ConfigError(ValueError):
    """A setting that cannot be: which, what was given, what is allowed."""


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
