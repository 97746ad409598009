"""The libraries of the extra `hub`, which few runs need."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from mbrl_lab.config import ConfigError


def require(name: str) -> ModuleType:
    """A module of the extra. ConfigError, one line, if it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "mbrl_lab[hub]"') from error
