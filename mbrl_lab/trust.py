"""Trust: a stored config builds parts of this package, and of modules that the caller names; it runs nothing else.

A run's folder may come from somebody else, and Hydra would build whatever its config.yaml names: `torch.load`,
`pathlib.Path.write_text`. So every stored config is checked here before any name in it is imported or built. Configs
that the user composes (conf/, --config-dir, the command line) are the user's own and need no trust.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import gymnasium

from mbrl_lab.config import ConfigError, find_module
from mbrl_lab.tracking.state import leaves

PARTS = tuple(f"mbrl_lab.{x}" for x in ("env", "nets", "dynamics", "planner", "policy", "algo", "tracking.loggers"))
"""Where the parts of a run are defined. Other modules of the package may write files and start processes."""

ENVIRONMENTS = ("gymnasium", "ale_py", "gymnasium_robotics", "minigrid")
"""Packages whose environments may be made by their ids. Not shimmy: its ids import modules named in their arguments."""

NEVER_BUILT = frozenset({"logger", "name", "sweep_name", "runtime", "replay", "init_from", "init_checkpoint"})
"""Top-level keys that cannot contain an environment's id, so `cuda:0` and paths under them may have a colon."""

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def check_stored(config: Mapping[str, Any], source: str, trust: Sequence[str] = ()) -> None:
    """ConfigError, in one line, for the first entry of a stored config that could run code the user has not chosen.

    Args:
        config: plain values, as they were read. `launcher` is for a sweep's command and is never built here.
        source: the file it was read from, for the message.
        trust: modules of the caller's own, with everything in them, e.g. ["mymodule"].
    """
    check_names(trust)
    entries = list(leaves({key: value for key, value in config.items() if key != "launcher"}, ""))

    # Names first, so that no trusted module is imported for a rejected config.
    for key, value in entries:
        parts = key.split(".")
        if "_target_" in parts:
            check_target_name(key, value, source, trust)
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(f"{source}: {key} is {value!r}; a stored config holds values, no interpolations")
        elif isinstance(value, str) and parts[0] not in NEVER_BUILT:
            check_id(key, value, source, trust)

    # Only now is anything imported: what each name refers to can be checked in no other way.
    for module in trust:
        find_module(module.partition(".")[0])
    for key, value in entries:
        if key.split(".")[-1] == "_target_":
            check_target(key, value, source, trust)


def check_names(trust: Sequence[str]) -> None:
    """ConfigError if `trust` is not a list of modules' names."""
    wrong = [x for x in trust if not isinstance(x, str) or not MODULE.fullmatch(x)]
    if isinstance(trust, str) or wrong:
        given = trust if isinstance(trust, str) else wrong[0]
        raise ConfigError(f"trust is {given!r}; it must be a list of modules' names, e.g. trust=['mymodule']")
    for name in trust:
        # `os` or `subprocess` would allow everything.
        if name.partition(".")[0] in sys.stdlib_module_names:
            raise ConfigError(f"trust names {name}, one of Python's own modules; it must name modules of yours")


def check_target_name(key: str, target: Any, source: str, trust: Sequence[str]) -> None:
    """ConfigError unless a `_target_` is a dotted name in this package's parts or in a trusted module."""
    if not key.endswith("_target_") or not isinstance(target, str) or not MODULE.fullmatch(target):
        raise ConfigError(f"{source}: {key} is {target!r}; it must be the dotted name of a class or a function")
    if not within(target, (*PARTS, *trust)):
        raise ConfigError(f"{source}: {key} names {target}, which is not part of mbrl_lab; {cure(target)}")


def check_target(key: str, target: str, source: str, trust: Sequence[str]) -> None:
    """ConfigError unless a `_target_` names something that was defined in that module, and not only imported there."""
    # A trusted module that imports `os` would otherwise lend `mymodule.os.system`.
    found = trusted_part(key, target, source) if within(target, trust) else own_part(target)
    home = getattr(found, "__module__", None) or type(found).__module__
    if found is None:
        raise ConfigError(f"{source}: {key} names {target}, which is no class or function of mbrl_lab's parts")
    if not within(home, (*PARTS, *trust)):
        raise ConfigError(f"{source}: {key} names {target}, which comes from {home}; {cure(home)}")


def own_part(target: str) -> Any:
    """A class or function of this package by its module's and its own public name; None if there is none."""
    place, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(place)  # one of ours, whose import has no side effects
    except ImportError:
        return None
    found = None if name.startswith("_") else vars(module).get(name)
    return found if isinstance(found, type | FunctionType) else None


def trusted_part(key: str, target: str, source: str) -> Any:
    """The object that a trusted module holds. ConfigError if it cannot be imported."""
    try:
        return pkgutil.resolve_name(target)
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise ConfigError(f"{source}: {key} names {target}, which cannot be imported: {text}") from error


def check_id(key: str, value: str, source: str, trust: Sequence[str]) -> None:
    """ConfigError if gymnasium would import a module that is not trusted to make an environment of this id."""
    module, colon, _ = value.partition(":")
    if colon and not within(module, trust):
        raise ConfigError(f"{source}: {key} is {value!r}, which imports the module {module}; {cure(module)}")
    for home in homes(value):
        if not within(home, (*ENVIRONMENTS, *trust)):
            raise ConfigError(f"{source}: {key} is {value!r}, an environment of {home}; {cure(home)}")


def homes(id: str) -> Iterator[str]:
    """The modules behind a registered environment's id, with or without its version."""
    for spec in gymnasium.registry.values():
        if id in (spec.id, spec.id.rpartition("-v")[0]):
            maker = spec.entry_point
            yield maker.partition(":")[0] if isinstance(maker, str) else str(getattr(maker, "__module__", maker))


def within(name: str, roots: Iterable[str]) -> bool:
    """Whether a dotted name is one of `roots` or below one."""
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def own_modules(config: Mapping[str, Any]) -> list[str]:
    """The modules, beside this package, that a config builds from: those to trust, if they are the user's own."""
    found = set()
    for key, value in leaves(config, ""):
        name = key.split(".")[-1]
        if name == "_target_":
            found.add(str(value).partition(".")[0])
        elif name == "id" and ":" in str(value):
            found.add(str(value).partition(":")[0].partition(".")[0])
    return sorted(found - {"mbrl_lab"})


def cure(name: str) -> str:
    """Advice for the user's own modules; none of ours is to be trusted as a whole."""
    root = name.partition(".")[0]
    if root == "mbrl_lab":
        return f"there are {', '.join(PARTS)}"
    if root in sys.stdlib_module_names:
        return "no part is made by Python's own modules, so this folder may be malicious"
    return f"if you wrote {root} yourself: --trust {root}, from Python trust=['{root}']"
