"""What all planners share: score sequences in the model, weigh them, fit a proposal to them, repeat."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.planner.proposal import Plan, Proposal, require
from mbrl_lab.types import Candidates, EnvSpec, Tree, WorldModel


def evaluate(model: WorldModel, state: Tree, sequences: Tensor, particles: int = 1, discount: float = 1.0) -> Tensor:
    """Mean return over particles [B, N] of sequences [B, N, H(, A)] from state [B]; -inf where anything is not finite.

    A model that has a `value` of states [M] adds it to what a sequence gets, where the episode goes on after it.
    The model sees P * N * B rows ordered by particle, sequence, environment: an ensemble that gives each member a
    contiguous block of rows then shows every environment's sequences to all members.
    """
    batch, count = sequences.shape[:2]
    copies = particles * count
    wide = tree_map_only(Tensor, lambda x: x.repeat(copies, *[1] * (x.dim() - 1)), state)
    by_step = sequences.movedim(2, 0).transpose(1, 2).flatten(1, 2)  # [H, N * B(, A)]
    actions = by_step.repeat(1, particles, *[1] * (by_step.dim() - 2))
    total = torch.zeros(copies * batch, device=sequences.device)
    alive = torch.ones_like(total)
    for action in actions:
        wide, outcome = model.imagine(wide, action)
        total = total + alive * outcome.reward
        alive = alive * outcome.discount * discount
    if hasattr(model, "value"):
        total = total + alive * model.value(wide)
    sane = total.isfinite() & alive.isfinite()
    return total.where(sane, -torch.inf).view(particles, count, batch).mean(0).T.contiguous()


def softmax_weights(scores: Tensor, temperature: float) -> Tensor:
    """[B, N] scores to weights that sum to one: what is worse by one temperature weighs e times less."""
    return (_anchored(scores) / temperature).softmax(1)


def elite_weights(scores: Tensor, elites: int) -> Tensor:
    """[B, N] scores to weights that sum to one: equal for the best `elites`, zero for the rest and for -inf.

    All that tie with the last elite share the places left. Rewards for survival make hundreds tie: a choice is noise.
    """
    scores = _anchored(scores)
    last = scores.topk(elites, 1).values[:, -1:]
    better, tied = (scores > last).float(), (scores == last).float()
    places = (elites - better.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    chosen = (better + places * tied) * scores.isfinite()
    return chosen / chosen.sum(1, keepdim=True)


def best_weights(scores: Tensor) -> Tensor:
    """[B, N] scores to weights: all for one of the best."""
    return torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0)


def _anchored(scores: Tensor) -> Tensor:
    """All equal in the rows where no score is finite: nothing is known there, yet the weights must sum to one."""
    return scores.where(scores.isfinite().any(1, keepdim=True), 0.0)


def expectation(scores: Tensor, weights: Tensor) -> Tensor:
    """[B]: the mean score under the weights; a -inf counts only where it has weight."""
    return torch.where(weights > 0, weights * scores, 0.0).sum(1)


class Search(ABC):
    """A planner is this loop with a proposal, and a rule that turns scores into weights."""

    def __init__(
        self,
        proposal: Callable[[EnvSpec], Proposal],
        horizon: int,
        population: int,
        iterations: int,
        particles: int,
        discount: float,
    ) -> None:
        require(lambda x: x >= 1, "horizon", horizon, "of at least 1", whole=True)
        require(lambda x: x >= 1, "population", population, "of at least 1", whole=True)
        require(lambda x: x >= 1, "iterations", iterations, "of at least 1", whole=True)
        require(lambda x: x >= 1, "particles", particles, "of at least 1", whole=True)
        require(lambda x: 0 < x <= 1, "discount", discount, "in (0, 1]")
        self.proposal, self.horizon, self.population = proposal, horizon, population
        self.iterations, self.particles, self.discount = iterations, particles, discount
        self.watch: Callable[[Candidates], None] | None = None

    @abstractmethod
    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        """[B, N] scores to weights that sum to one in each row."""

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Plan:
        return self.proposal(spec).prior(batch, self.horizon, device) | {"score": torch.zeros(batch, device=device)}

    @torch.no_grad()
    def plan(self, model: WorldModel, state: Tree, warm: Plan) -> tuple[Tensor, Plan]:
        proposal = self.proposal(model.spec)
        plan = self.shift(proposal, warm)
        for iteration in range(self.iterations):
            sequences = self.candidates(proposal, plan, iteration)
            scores = evaluate(model, state, sequences, self.particles, self.discount)
            if self.watch is not None:
                self.watch(Candidates(iteration, sequences, scores))
            plan = self.improve(proposal, plan, sequences, scores)
        return self.choose(proposal, plan), plan

    def shift(self, proposal: Proposal, warm: Plan) -> Plan:
        """Where the search begins: the plan of the step before, one step on."""
        return proposal.shift(warm)

    def candidates(self, proposal: Proposal, plan: Plan, iteration: int) -> Tensor:
        """[B, N, H(, A)]: the sequences to score in this iteration."""
        return proposal.sample(plan, self.population)

    def improve(self, proposal: Proposal, plan: Plan, sequences: Tensor, scores: Tensor) -> Plan:
        """The plan that the scores speak for."""
        weights = self.weigh(scores, proposal.spec)
        return proposal.fit(plan, sequences, weights) | {"score": expectation(scores, weights)}

    def choose(self, proposal: Proposal, plan: Plan) -> Tensor:
        """[B(, A)]: the action to take now."""
        return proposal.mode(plan)[:, 0]
