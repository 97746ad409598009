"""Improved CEM (Pinneri et al. 2020): CEM with fewer sequences to the same result.

coloured noise         neighbouring steps of a sequence are similar, which explores further than white noise
kept elites            a fraction of them competes again in the next iteration, and, shifted, in the next step
decaying population    each iteration draws fewer sequences, as the proposal narrows
mean as a candidate    in the last iteration
best sequence          its first action is taken, not the mean's
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.planner.cem import MOMENTUM
from mbrl_lab.planner.proposal import Adaptive, Plan, Proposal, require
from mbrl_lab.planner.search import Search, elite_weights
from mbrl_lab.types import EnvSpec

INIT_STD = 0.5
"""Standard deviation of continuous actions before the first fit (Pinneri et al. 2020)."""

DECAY = 1.25
"""Factor by which the population shrinks in each iteration (Pinneri et al. 2020)."""

KEPT = 0.3
"""Fraction of the elites that is kept for the next iteration (Pinneri et al. 2020)."""


class ICEM(Search):
    """See the top of this file. The plan keeps its best sequences in "elites" [B, K, H(, A)], best first.

    The paper has continuous actions only. Discrete ones are drawn with the same noise (see CategoricalProposal), which
    makes them sticky, and chosen by the elites' vote, since where many sequences tie the best one is arbitrary.
    """

    def __init__(
        self,
        horizon: int,
        population: int,
        elites: int,
        iterations: int,
        particles: int,
        discount: float,
        noise_beta: float,
    ) -> None:
        proposal = Adaptive(INIT_STD, momentum=MOMENTUM, noise_beta=noise_beta)
        super().__init__(proposal, horizon, population, iterations, particles, discount)
        allowed = f"between 1 and planner.population, {population}"
        require(lambda x: 1 <= x <= population, "elites", elites, allowed, whole=True)
        self.elites = elites
        self.kept = max(1, round(KEPT * elites))

    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        return elite_weights(scores, self.elites)

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Plan:
        # There are no elites yet: sequences of zero actions take their place.
        still = spec.zero_action(batch * self.kept * self.horizon, device)
        elites = still.view(batch, self.kept, self.horizon, *still.shape[1:])
        return super().start(spec, batch, device) | {"elites": elites}

    def shift(self, proposal: Proposal, previous: Plan) -> Plan:
        """Shift the elites with the plan; their last action is drawn."""
        elites = previous["elites"]
        batch, kept = elites.shape[:2]
        last = proposal.spec.sample(batch * kept, elites.device).view_as(elites[:, :, :1])
        return super().shift(proposal, previous) | {"elites": torch.cat([elites[:, :, 1:], last], 2)}

    def candidates(self, proposal: Proposal, plan: Plan, iteration: int) -> Tensor:
        """Fewer fresh sequences each time, the kept elites, and in the last iteration the mean.

        Shuffled, or an ensemble that splits sequences by position would show the elites to the same member every time.
        """
        # At least twice the elites, as in the paper: a fit needs some to choose from.
        fresh = max(int(self.population / DECAY**iteration), min(2 * self.elites, self.population))
        groups = [proposal.sample(plan, fresh), plan["elites"]]

        # Only at the end, as in the paper: earlier, the mean would narrow the proposal too soon.
        if iteration == self.iterations - 1:
            groups.append(proposal.mode(plan)[:, None])
        sequences = torch.cat(groups, 1)
        return sequences[:, torch.randperm(sequences.shape[1], device=sequences.device)]

    def improve(self, proposal: Proposal, plan: Plan, sequences: Tensor, scores: Tensor, weights: Tensor) -> Plan:
        best = scores.topk(self.kept, 1).indices
        environments = torch.arange(len(best), device=best.device)[:, None]
        fitted = super().improve(proposal, plan, sequences, scores, weights)
        return fitted | {"elites": sequences[environments, best]}

    def first_action(self, proposal: Proposal, plan: Plan) -> Tensor:
        # Where rewards differ from step to step the best sequence is better than the mean of several good ones.
        if proposal.spec.discrete:
            return super().first_action(proposal, plan)
        return plan["elites"][:, 0, 0]
