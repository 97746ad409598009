"""SAC and SVG, small and quick to learn."""

from __future__ import annotations

from typing import Any, TypeVar

from mbrl_lab.nets.encoder import Vector
from mbrl_lab.policy import SAC, SVG
from mbrl_lab.policy.sac import Critics, SACOptim, Temperature
from mbrl_lab.policy.svg import SVGOptim
from mbrl_lab.types import EnvSpec

Soft = TypeVar("Soft", bound=SAC)


def make_soft(kind: type[Soft], spec: EnvSpec, **changed: Any) -> Soft:
    """A SAC, or one of its subclasses; `changed`: settings of it or of one of its groups."""
    settings: dict[str, Any] = {
        "encoder": Vector,
        "normalise_obs": False,
        "width": 16,
        "depth": 2,
        "gamma": 0.9,
        "tau": 0.1,
    }
    rates: dict[str, Any] = {"actor_lr": 1e-2, "critic_lr": 1e-2, "alpha_lr": 1e-2}
    groups: dict[str, tuple[type, dict[str, Any]]] = {
        "critic": (Critics, {"number": 2, "target_subset": None, "norm": False, "dropout": 0.0, "bins": 0}),
        "temperature": (Temperature, {"alpha": 0.5, "target_entropy": None, "entropy_fraction": 0.98}),
        "optim": (SVGOptim, rates | {"clip": 0.0}) if issubclass(kind, SVG) else (SACOptim, rates),
    }
    for name, (group, default) in groups.items():
        settings[name] = group(**{key: changed.pop(key, value) for key, value in default.items()})
    return kind(spec, **settings | changed)
