"""Configs: composed by Hydra, checked before anything runs, and errors in words a user can act on."""

from mbrl_lab.config.checks import EVALUATED, check, check_rules, left_open, refuse_old_names
from mbrl_lab.config.composition import (
    CONF,
    PACKAGE,
    compose_config,
    conf_folders,
    default_of,
    explain_here,
    refuse_unknown_preset,
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
    "check_rules",
    "choose_device",
    "compose_config",
    "conf_folders",
    "default_of",
    "explain_here",
    "find_module",
    "left_open",
    "refuse_old_names",
    "refuse_unknown_preset",
    "with_family",
]
