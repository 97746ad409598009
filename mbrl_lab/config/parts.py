"""Builds the parts that a config names by `_target_`, and finds the modules and devices that they need."""

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
from mbrl_lab.tracking.settings import flatten, plain

# It logs every error, in several lines, in addition to raising it.
logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)


class ConfigError(ValueError):
    """An invalid setting. The message has its name, the given value, and the allowed ones."""


def build(node: DictConfig) -> Any:
    """Build the object that `node` describes, or a partial of it. No other function calls Hydra's `instantiate`.

    It gets a copy without interpolations, since Hydra would resolve them in the config itself. Arguments arrive as
    plain dicts and lists.
    """
    try:
        return instantiate(OmegaConf.to_container(node, resolve=True), _convert_="all")
    except HydraException as error:
        # Hydra wraps what a constructor raised; a ValueError is about a setting, and says so by itself.
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(str(error.__cause__)) from error
        if isinstance(error.__cause__, ImportError | AttributeError):
            raise ConfigError(not_found(str(node.get("_target_")), error.__cause__)) from error
        raise


def locate(target: str) -> Any:
    """The class or function that a `_target_` names. Raises ConfigError if it does not exist."""
    try:
        return get_object(target)
    except (ImportError, AttributeError) as error:
        raise ConfigError(not_found(target, error)) from error


def not_found(target: str, error: BaseException) -> str:
    """Hydra's message about a `_target_`, which has several lines, as one line."""
    if target in TARGETS:
        return f"_target_ is {target}, which is now {TARGETS[target]}"
    why = " ".join(line.strip() for line in str(error).splitlines()[1:2]) or str(error)
    return f"_target_ is {target!r}, which cannot be loaded: {why}"


def find_here(cfg: DictConfig) -> None:
    """Make modules of the current folder importable, if this config names one and it is not installed.

    A script has its own folder on the path, but not the current one. The current folder is added last, and only in this
    case, so that an unrelated file in it cannot replace a package, or one that a library tries to import.
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
    """`auto`, `cpu`, `cuda` or `cuda:N` as an available device; otherwise ConfigError with the setting `key`."""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if there else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", str(name)):
        raise ConfigError(f"{key} is {name!r}; it must be auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= there:
        raise ConfigError(f"{key} is {name}, but this machine has {there} CUDA devices: use auto or cpu")
    return device
