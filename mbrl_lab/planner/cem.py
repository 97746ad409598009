"""The cross-entropy method: refit the proposal to the best sequences in each iteration."""

from __future__ import annotations

from torch import Tensor

from mbrl_lab.planner.proposal import Adaptive, require
from mbrl_lab.planner.search import Search, elite_weights
from mbrl_lab.types import EnvSpec

MOMENTUM = 0.1
"""Fraction of the old parameters that an iteration keeps (PETS)."""


class CEM(Search):
    """As in PETS (Chua et al. 2018): part of the old parameters stays, and the mean's first action is taken.

    PETS's code cuts the Gaussian off at two standard deviations and narrows it near the bounds of actions; here samples
    are clamped to the bounds.
    """

    def __init__(
        self,
        horizon: int,
        population: int,
        elites: int,
        iterations: int,
        particles: int,
        discount: float,
    ) -> None:
        super().__init__(Adaptive(momentum=MOMENTUM), horizon, population, iterations, particles, discount)
        allowed = f"between 1 and planner.population, {population}"
        require(lambda x: 1 <= x <= population, "elites", elites, allowed, whole=True)
        self.elites = elites

    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        return elite_weights(scores, self.elites)
