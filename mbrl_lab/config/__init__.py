"""Configs: composed by Hydra, checked before anything runs, and errors in words a user can act on."""

from mbrl_lab.config.checks import EVALUATED, check, check_old_names, check_rules, left_open
from mbrl_lab.config.composition import (
    CONF,
    PACKAGE,
    check_preset,
    compose_config,
    composition_message,
    conf_folders,
    default_of,
    with_family,
)
from mbrl_lab.config.parts import ConfigError, build, choose_device, find_module

__all__ = [
    "CONF",
    "EVALUATED",
    "PACKAGE",
    "ConfigError",
    "build",
    "check",
    "check_old_names",
    "check_preset",
    "check_rules",
    "choose_device",
    "compose_config",
    "composition_message",
    "conf_folders",
    "default_of",
    "find_module",
    "left_open",
    "with_family",
]
