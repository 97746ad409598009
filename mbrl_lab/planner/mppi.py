"""Model predictive path integral control: every sequence counts, by the exponential of its score."""

from __future__ import annotations

from torch import Tensor

from mbrl_lab.planner.proposal import Adaptive, require
from mbrl_lab.planner.search import Search, softmax_weights
from mbrl_lab.types import EnvSpec


class MPPI(Search):
    """Williams et al. (2017). The action is the weighted mean's, so for discrete actions a weighted vote.

    `temperature` is in units of return. With more than one iteration the spread is refitted too, down to `min_std`.
    """

    def __init__(
        self,
        horizon: int,
        population: int,
        iterations: int,
        particles: int,
        discount: float,
        temperature: float,
        init_std: float,
        min_std: float,
        uniform_mix: float,
    ) -> None:
        proposal = Adaptive(init_std, min_std, uniform_mix)
        super().__init__(proposal, horizon, population, iterations, particles, discount)
        require(temperature > 0, "temperature", temperature, "above 0")
        self.temperature = temperature

    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        return softmax_weights(scores, self.temperature)
