"""The search space: a file with the ranges of settings, and the overrides that all trials have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, Trial

from mbrl_lab.config import ConfigError, check, compose_config, conf_folders

KEYS = {"overrides", "metric", "startup", "space"}
RANGE = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Space:
    """conf/tune/NAME.yaml: for each setting `{low, high, log, step}` or `{choices}`.

    Attributes:
        name: of the file.
        overrides: of every trial.
        metric: the metric to maximise.
        startup: number of random trials before the sampler and the pruner begin.
        distributions: Optuna's, by setting.
        config_dir: another folder of config files.
    """

    name: str
    overrides: tuple[str, ...]
    metric: str
    startup: int
    distributions: Mapping[str, BaseDistribution]
    config_dir: str | None = None

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial."""
        return [*self.overrides, "video.final=0", *(f"{key}={_word(value)}" for key, value in values.items())]

    def check_trial(self, trial: Trial | FrozenTrial) -> None:
        """ConfigError for a trial in a study's journal that sets what is not searched, or not in these ranges."""
        other = {**trial.distributions, **self.distributions}
        wrong = [key for key in other if trial.distributions.get(key) != self.distributions.get(key)]
        if wrong:
            what = f"its {wrong[0]} is from {trial.distributions.get(wrong[0])}, not {self.distributions.get(wrong[0])}"
            raise ConfigError(f"trial {trial.number} is not of the search {self.name}: {what}")

    def describe(self) -> dict[str, str]:
        """The search as a study stores it, to be compared: one text per setting."""
        ranges = {key: distribution_to_json(d) for key, d in self.distributions.items()}
        return {"overrides": " ".join(self.overrides), "metric": self.metric} | ranges


def read_space(name: str, more: Sequence[str] = (), config_dir: str | None = None) -> Space:
    """The space in conf/tune, or `tune` of `config_dir`, or at a path. ConfigError if something in it is invalid."""
    homes = [conf / "tune" for conf in conf_folders(config_dir)]
    path = next((home / f"{name}.yaml" for home in homes if (home / f"{name}.yaml").is_file()), Path(name))
    if not path.is_file():
        known = ", ".join(sorted(p.stem for home in homes for p in home.glob("*.yaml")))
        raise ConfigError(f"there is no search space {name!r}; there are {known}, or give a file's path")

    content = OmegaConf.to_container(OmegaConf.load(path))
    if not isinstance(content, dict) or set(content) != KEYS or not content["space"]:
        raise ConfigError(f"{path} must have {', '.join(sorted(KEYS))}, and at least one setting in space")
    distributions = {str(key): distribution(str(key), given) for key, given in content["space"].items()}
    overrides = (*map(str, content["overrides"]), *more)

    # One trial is composed and checked, so that a misspelt setting is found before the search begins.
    space = Space(path.stem, overrides, str(content["metric"]), int(content["startup"]), distributions, config_dir)
    check(compose_config(space.words({key: _first(d) for key, d in distributions.items()}), config_dir))
    return space


def distribution(key: str, given: Any) -> BaseDistribution:
    """{choices} or {low, high, log, step} as Optuna's distribution; of integers if both bounds are integers."""
    given = given if isinstance(given, dict) else {}
    if set(given) == {"choices"} and isinstance(given["choices"], list) and given["choices"]:
        return CategoricalDistribution([_choice(x) for x in given["choices"]])
    bounds = [given.get("low"), given.get("high")]
    if not set(given) <= RANGE or not all(isinstance(x, int | float) for x in bounds) or bounds[0] >= bounds[1]:
        raise ConfigError(f"space.{key} is {given}; it must be {{choices: [...]}} or {{low, high}}, low below high")
    kind = IntDistribution if all(isinstance(x, int) for x in bounds) else FloatDistribution
    try:
        return kind(**given)
    except ValueError as error:
        raise ConfigError(f"space.{key} is {given}: {error}") from error


def _choice(x: Any) -> Any:
    """Optuna's choices cannot be lists, so these are stored as text."""
    return x if isinstance(x, bool | int | float | str | None) else json.dumps(x, separators=(",", ":"))


def _first(d: BaseDistribution) -> Any:
    return d.choices[0] if isinstance(d, CategoricalDistribution) else getattr(d, "low")  # noqa: B009


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
