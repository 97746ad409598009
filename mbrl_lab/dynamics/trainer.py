"""Trainer: what fits a world model to replay. A model's own YAML says which trainer it has."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from mbrl_lab.protocols import WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import FitResult, Step, Tree

Model = TypeVar("Model", bound=WorldModel)


class Trainer(Generic[Model]):
    """Subclasses define `fit`; what else a WorldModel is told that concerns its trainer has defaults."""

    def fit(self, model: Model, replay: Replay, updates: int | None) -> FitResult:
        """Train the model by the trainer's schedule, or for so many gradient `updates`."""
        raise NotImplementedError

    def check_model(self, model: Model) -> None:
        """ValueError, naming settings, for a model that it cannot train."""

    def check_memory(self, model: Model) -> None:
        """ValueError, naming settings, where a fit would not find the memory that it needs."""

    def held_out(self, replay: Replay) -> Step | None:
        """[2, N] steps that the model was never trained on; None where there are none."""
        return None

    def store(self, model: Model, replay: Replay, state: Tree) -> None:
        """Told the states [num_envs] that were inferred while acting, at the step of replay before the newest."""

    def state(self) -> dict[str, Any]:
        """What it needs to go on: plain, as in a state_dict."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
