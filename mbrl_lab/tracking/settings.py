"""A stored config as plain values: the algorithm it names, and how two configs differ."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import ListConfig, OmegaConf

MAY_CHANGE = frozenset({"steps", "stop", "runtime", "logger", "video", "checkpoint", "launcher", "name", "sweep_name"})
"""The top-level config keys that may differ when a run is resumed."""

ABSENT = "(absent)"
"""Stands for the value of a setting that a config lacks."""


def no_default(key: str) -> Any:
    """For callers that know no defaults: every setting counts as without one."""
    return ABSENT


def algorithm_of(config: Mapping[str, Any]) -> str:
    """The algorithm's name, and its policy's where it may have several: PPO, MBPO-SVG."""
    loop = config.get("algo") or {}
    nodes = loop, loop.get("policy") or {}
    algo, policy = (str(node.get("_target_", "")).rpartition(".")[2] for node in nodes)
    return {"OffPolicy": policy, "OnPolicy": policy, "MBPO": f"MBPO-{policy}"}.get(algo, algo)


def words_of(config: Mapping[str, Any]) -> str:
    """The algorithm as the command line names it: algo=ppo, or algo=mbpo policy=svg."""
    name = algorithm_of(config)
    algo, _, policy = {"CrossQ": "sac-crossq"}.get(name, name.lower()).partition("-")
    return f"algo={algo} policy={policy}" if policy else f"algo={algo}"


def plain(config: Any) -> dict[str, Any]:
    """A config as nested dicts and lists of plain values, as it would be read back from YAML."""
    nested = OmegaConf.to_container(config) if OmegaConf.is_config(config) else plain_value(config)
    assert isinstance(nested, dict), type(nested)
    return {str(key): value for key, value in nested.items()}


def plain_value(value: Any) -> Any:
    """A copy with tuples as lists; much faster than by way of an OmegaConf config."""
    if isinstance(value, Mapping):
        return {key: plain_value(inner) for key, inner in value.items()}
    return [plain_value(inner) for inner in value] if isinstance(value, list | tuple | ListConfig) else value


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Lists and empty dicts are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], default: Callable[[str], Any] = no_default
) -> list[str]:
    """One line `key: old -> new` for each leaf that differs, except those under MAY_CHANGE.

    A leaf that `old` lacks is no difference if it has its default value: the setting is newer than the run.
    """
    before, after = flatten(old), flatten(new)
    keys = [key for key in before | after if key.partition(".")[0] not in MAY_CHANGE]
    pairs = {key: (before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys}
    changed = {key: pair for key, pair in pairs.items() if not _same(*pair)}

    # Such a setting did not exist when the run began, and its default means the earlier behaviour.
    younger = [key for key, (a, b) in changed.items() if a == ABSENT and _same(default(key), b)]
    changed = {key: pair for key, pair in changed.items() if key not in younger}

    # Interpolations repeat an algorithm's parts inside of it; each difference is shown once.
    copies = {f"algo.{key}" for key in changed}
    return [f"{key}: {_show(a)} -> {_show(b)}" for key, (a, b) in changed.items() if key not in copies]


def _same(a: Any, b: Any) -> bool:
    both_nan = a != a and b != b
    return bool(a == b and isinstance(a, bool) == isinstance(b, bool)) or both_nan


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
