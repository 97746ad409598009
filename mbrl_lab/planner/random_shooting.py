"""Random shooting: one round of uniform sequences, then a vote on the first action."""

from __future__ import annotations

from torch import Tensor

from mbrl_lab.planner.proposal import UniformProposal, require
from mbrl_lab.planner.search import Search, best_weights, softmax_weights
from mbrl_lab.types import EnvSpec


class RandomShooting(Search):
    """The plan of Nagabandi et al. (2018), and a vote for discrete actions.

    Where every step survived pays the same, hundreds of sequences tie and the best one's first action is arbitrary, so
    each sequence votes for its first action with weight exp(score / `vote`). With `vote` null the best one decides, as
    it always does for continuous actions.
    """

    def __init__(self, horizon: int, population: int, particles: int, discount: float, vote: float | None) -> None:
        super().__init__(UniformProposal, horizon, population, 1, particles, discount)
        if vote is not None:
            require(lambda x: x >= 0, "vote", vote, "of at least 0, or null")
        self.vote = vote

    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        if self.vote and spec.discrete:
            return softmax_weights(scores, self.vote)
        return best_weights(scores)
