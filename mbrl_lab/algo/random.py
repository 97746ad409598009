"""Random: the baseline that takes uniform random actions."""

from __future__ import annotations

from torch import Tensor

from mbrl_lab.protocols import Algo
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree


class Random(Algo):
    """Draws actions uniformly and learns nothing."""

    def __init__(self, spec: EnvSpec) -> None:
        super().__init__()
        self.spec = spec

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        return self.spec.sample(len(step.first), step.first.device), carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        return {}
