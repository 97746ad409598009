"""Improved CEM: coloured noise, elites that live on, a shrinking population, and the best sequence decides."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.planner.proposal import Adaptive, Plan, Proposal, require
from mbrl_lab.planner.search import Search, elite_weights
from mbrl_lab.types import EnvSpec


class ICEM(Search):
    """Pinneri et al. (2020). The plan keeps its best sequences in "elites" [B, K, H(, A)], best first.

    The paper knows continuous actions only. Discrete ones are drawn with the same noise (see Categorical), which makes
    them sticky, and chosen by the elites' vote, since where many sequences tie the best one is arbitrary.
    """

    def __init__(
        self,
        horizon: int,
        population: int,
        elites: int,
        iterations: int,
        particles: int,
        discount: float,
        alpha: float,
        init_std: float,
        min_std: float,
        uniform_mix: float,
        noise_beta: float,
        decay: float,
        keep_elites: float,
    ) -> None:
        proposal = Adaptive(init_std, min_std, uniform_mix, alpha, noise_beta)
        super().__init__(proposal, horizon, population, iterations, particles, discount)
        allowed = f"between 1 and planner.population, {population}"
        require(lambda x: 1 <= x <= population, "elites", elites, allowed, whole=True)
        require(lambda x: x >= 1, "decay", decay, "at least 1")
        require(lambda x: 0 < x <= 1, "keep_elites", keep_elites, "in (0, 1]")
        self.elites, self.decay = elites, decay
        self.kept = max(1, round(keep_elites * elites))

    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        return elite_weights(scores, self.elites)

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Plan:
        still = spec.no_action(batch * self.kept * self.horizon, device)
        elites = still.view(batch, self.kept, self.horizon, *still.shape[1:])
        return super().start(spec, batch, device) | {"elites": elites}

    def shift(self, proposal: Proposal, warm: Plan) -> Plan:
        """Elites move on with the plan; what is new at their end is random."""
        elites = warm["elites"]
        batch, kept = elites.shape[:2]
        last = proposal.spec.random(batch * kept, elites.device).view_as(elites[:, :, :1])
        return super().shift(proposal, warm) | {"elites": torch.cat([elites[:, :, 1:], last], 2)}

    def candidates(self, proposal: Proposal, plan: Plan, iteration: int) -> Tensor:
        """Fewer fresh sequences each time, the kept elites, and in the last iteration the mean.

        Shuffled, or an ensemble that splits rows by position would show the elites to the same member every time.
        """
        fresh = max(int(self.population / self.decay**iteration), min(2 * self.elites, self.population))
        groups = [proposal.sample(plan, fresh), plan["elites"]]
        if iteration == self.iterations - 1:
            groups.append(proposal.mode(plan)[:, None])
        sequences = torch.cat(groups, 1)
        return sequences[:, torch.randperm(sequences.shape[1], device=sequences.device)]

    def improve(self, proposal: Proposal, plan: Plan, sequences: Tensor, scores: Tensor) -> Plan:
        best = scores.topk(self.kept, 1).indices
        rows = torch.arange(len(best), device=best.device)[:, None]
        return super().improve(proposal, plan, sequences, scores) | {"elites": sequences[rows, best]}

    def choose(self, proposal: Proposal, plan: Plan) -> Tensor:
        if proposal.spec.discrete:
            return super().choose(proposal, plan)
        return plan["elites"][:, 0, 0]
