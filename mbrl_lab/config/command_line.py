"""The words of a command line: how Hydra reads them, and how values are quoted so that it reads them correctly."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
"""Settings whose value is always one text."""

SOURCES = ("init_from", "init_checkpoint")
"""Settings whose value is the path of an existing folder, or a sweep over several."""

TEXTS = (*FOLDERS, *SOURCES, "name", "sweep_name")
"""Settings whose values are texts: a value that Hydra's grammar cannot read is quoted."""


class CommandLine:
    """The words after a script's name, sorted: `overrides`, the `flags` with their values, and our own flag.

    Attributes:
        overrides: `key=value` words, with values quoted where Hydra needs it.
        flags: the other words.
        config_dir: the folder that `--config-dir` names.
        explain: the key that `--explain` names; Hydra has no such flag.

    Raises ValueError, one line, for an unknown flag.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        # argparse prints its usage and exits; here errors are one line, which the caller prints.
        parser = get_args_parser()
        parser.error = _refuse  # type: ignore[method-assign]
        ours = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        ours.error = _refuse  # type: ignore[method-assign]
        ours.add_argument("--explain", metavar="KEY")
        own, argv = ours.parse_known_args(list(argv))
        self.explain: str | None = own.explain

        # Overrides may stand on both sides of flags, which Hydra's own parsing does not allow.
        args = parser.parse_intermixed_args(argv)
        waiting = list(args.overrides)
        for nameless in (o for o in waiting if o.startswith("=")):
            raise ValueError(f"cannot read {nameless!r}: a setting is written key=value")

        # The overrides appear in their order, so the words between them are flags and their values.
        self.flags: list[str] = []
        for given in argv:
            if waiting and given == waiting[0]:
                del waiting[0]
            else:
                self.flags.append(given)
        self.overrides = [readable(override) for override in args.overrides]
        self.config_dir: str | None = args.config_dir

    def words(self) -> list[str]:
        """In an order that Hydra accepts: all overrides, then the flags, since some of these take a value."""
        return [*self.overrides, *self.flags]


def _refuse(message: str) -> NoReturn:
    raise ValueError(f"{message}; settings are written key=value, and --help shows the flags")


def readable(override: str) -> str:
    """The override, its value quoted if it is a text that Hydra would misread, such as the folder `runs/lr=0.1,a`."""
    key, equals, value = override.partition("=")
    if not equals or key not in TEXTS or value.strip() in ("", "null"):
        return override

    # A shell expands ~ only at the beginning of a word, not after a key.
    if key in (*FOLDERS, *SOURCES) and value.split("/")[0] == "~":
        value = os.path.expanduser(value)
        override = f"{key}={value}"

    # `name=a,b` is a sweep over two names; a folder whose path has a comma is one folder.
    read = parsed(override)
    one = key in FOLDERS or (key in SOURCES and Path(value).is_dir())
    odd = read is None or (one and (read.is_sweep_override() or not isinstance(read.value(), str)))
    return f"{key}={quoted(value)}" if odd else override


def parsed(override: str) -> Override | None:
    """The override as Hydra reads it, or None if it cannot."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException:
        return None


def quoted(text: str, quote: str = "'") -> str:
    """The text in Hydra's quotes, in which a backslash is an ordinary letter unless it precedes a quote."""
    inside = re.sub(rf"(\\*)({quote}|$)", lambda m: m[1] * 2 + (f"\\{quote}" if m[2] else ""), text)
    return f"{quote}{inside}{quote}"


def as_shell(override: str) -> str:
    """What to type in a shell so that the value arrives as one text: `'name="a,b"'`."""
    key, _, value = override.partition("=")
    return shlex.quote(f"{key}={quoted(value, chr(34))}")


def override(key: str, value: Any) -> str:
    """A value of Python as an override that Hydra reads as that value; `${...}` points to a setting, as in a file.

    Raises ValueError for a type that a config cannot hold.
    """
    return f"{key}={_value(key, value)}"


def _value(key: str, value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()

    # bool before int, of which it is a subclass.
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Path):
        value = str(value)

    # A text that Hydra would read as something else, such as "1e3" or "null", is quoted.
    if isinstance(value, str):
        return value if _plain(value) else quoted(value)
    if isinstance(value, Mapping):
        for name in value:
            if not _reads_as(f"{{{name}:0}}", {name: 0}):
                raise ValueError(f"{key} is {value!r}; its key {name!r} must be a plain word")
        return "{" + ",".join(f"{name}:{_value(key, v)}" for name, v in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ",".join(_value(key, x) for x in value) + "]"
    what = "it must be None, a bool, a number, a text, a path, or a list or dict of these"
    raise ValueError(f"{key} is {value!r}, a {type(value).__name__}; {what}")


def _plain(text: str) -> bool:
    """Whether Hydra reads the text unchanged without quotes: alone, in a list and in a dict."""
    return _reads_as(text, text) and _reads_as(f"[{text}]", [text]) and _reads_as(f"{{k:{text}}}", {"k": text})


def _reads_as(written: str, value: Any) -> bool:
    read = parsed(f"k={written}")
    return read is not None and not read.is_sweep_override() and bool(read.value() == value)
