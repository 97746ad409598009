"""The arguments of the classes and functions that a config names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def arguments(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a class or function is called with, by name. Those that a class takes by ** are its base's."""
    found = dict(inspect.signature(target).parameters)
    handed_on = [name for name, p in found.items() if p.kind is p.VAR_KEYWORD]
    if isinstance(target, type) and handed_on:
        del found[handed_on[0]]
        found = arguments(target.__base__) | found  # type: ignore[arg-type]
    return found
