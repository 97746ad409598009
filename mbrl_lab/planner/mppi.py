"""Model predictive path integral control: sequences are weighted by the exponential of their scores.

w_n = exp(R_n / temperature) / sum_m exp(R_m / temperature)       Williams et al. 2017, without the control cost
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.ops import pick
from mbrl_lab.planner.proposal import Adaptive, Plan, Proposal, require
from mbrl_lab.planner.search import Search, elite_weights, softmax_weights
from mbrl_lab.types import EnvSpec


class MPPI(Search):
    """Williams et al. (2017). The action is the weighted mean's, so for discrete actions a weighted vote.

    `temperature` is in units of return. Where `elites` is given only the best so many count, as in TD-MPC (Hansen et
    al. 2022). With more than one iteration the spread is refitted too.
    `proposals` of the sequences are rollouts of a policy in the model, the same ones in each iteration (Hansen et al.).
    The action is then the first of a sequence drawn by its weight: where good sequences differ, their mean is none of
    them.
    """

    def __init__(
        self,
        horizon: int,
        population: int,
        elites: int | None,
        iterations: int,
        particles: int,
        discount: float,
        temperature: float,
        proposals: int = 0,
    ) -> None:
        super().__init__(Adaptive(), horizon, population, iterations, particles, discount)
        require(lambda x: x > 0, "temperature", temperature, "above 0")
        allowed = f"between 1 and planner.population, {population}, or null"
        if elites is not None:
            require(lambda x: 1 <= x <= population, "elites", elites, allowed, whole=True)
        allowed = f"from 0 to less than planner.population, {population}"
        require(lambda x: 0 <= x < population, "proposals", proposals, allowed, whole=True)
        self.temperature, self.elites, self.proposals = temperature, elites, proposals

    def candidates(self, proposal: Proposal, plan: Plan, iteration: int) -> Tensor:
        return proposal.sample(plan, self.population - self.proposals)

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Plan:
        first = {"first": spec.zero_action(batch, device)} if self.proposals else {}
        return super().start(spec, batch, device) | first

    def improve(self, proposal: Proposal, plan: Plan, sequences: Tensor, scores: Tensor, weights: Tensor) -> Plan:
        fitted = super().improve(proposal, plan, sequences, scores, weights)
        if not self.proposals:
            return fitted
        drawn = torch.multinomial(weights, 1).squeeze(1)
        return fitted | {"first": pick(sequences, drawn)[:, 0]}

    def first_action(self, proposal: Proposal, plan: Plan) -> Tensor:
        return plan["first"] if self.proposals else super().first_action(proposal, plan)

    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        # Among a thousand sequences the many bad ones together may outweigh the few good ones.
        if self.elites is not None:
            scores = scores.where(elite_weights(scores, self.elites) > 0, -torch.inf)
        return softmax_weights(scores, self.temperature)
