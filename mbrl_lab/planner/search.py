"""The search that all planners share: score action sequences in the model, weigh them, fit a proposal, repeat.

plan <- last step's plan, shifted by one step                      warm start
b_1 ... b_P <- rollouts of a policy in the model                   `propose`, for planners with `proposals`
repeat `iterations` times:
    a_1 ... a_N ~ proposal(plan), and b_1 ... b_P                  `candidates`, [N, H] actions
    R_n <- sum_t discount^(t-1) cont_1...cont_(t-1) r_t            `score_sequences`, mean over particles; t = 1 ... H
           + discount^H cont_1...cont_H V(s_H)                     where there is a value
    w   <- weights of the scores R                                 `weigh`: elites (CEM), softmax (MPPI), argmax
    plan <- proposal fitted to the weighted sequences              `improve`
act by the plan's first action                                     `first_action`
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from mbrl_lab.planner.proposal import Plan, Proposal, require
from mbrl_lab.protocols import Candidates, PlanContext, Policy, WorldModel
from mbrl_lab.types import EnvSpec, Tree

CHECK_EVERY = 4
"""Imagined steps between two looks at how many sequences are still alive."""

WORTHWHILE = 0.85
"""Terminated rollouts are dropped once at most this fraction of all would be left."""


def score_sequences(
    model: WorldModel,
    state: Tree,
    sequences: Tensor,
    particles: int = 1,
    discount: float = 1.0,
    value: Callable[[Tree], Tensor] | None = None,
) -> Tensor:
    """Mean return over particles [B, N] of sequences [B, N, H(, A)] from state [B]; -inf where anything is not finite.

    The `value` of the last states [M] is added for episodes that continue beyond the horizon.
    The model imagines P * N * B rollouts, ordered by particle, sequence, environment: an ensemble that gives each
    member a contiguous block of them then shows every environment's sequences to all members. Rollouts that have
    terminated for certain are dropped on the way, and every member loses the same number of them.
    """
    batch, count = sequences.shape[:2]
    copies = particles * count

    # Rollouts that were added to fill the blocks count as terminated.
    rollouts, states = repeated(model, state, copies * batch, batch)
    alive = (rollouts < copies * batch).float()

    # Time comes first, so that the actions of a step are contiguous.
    by_step = sequences.movedim(2, 0).transpose(1, 2).flatten(1, 2)  # [H, N * B(, A)]
    actions = by_step[:, rollouts % (count * batch)]
    found = imagined_returns(model, states, actions, alive, discount, value)
    returns, alive = (x[: copies * batch] for x in found)

    # A NaN of one particle makes its sequence the worst: as a mean it would compare false with any other score.
    sane = returns.isfinite() & alive.isfinite()
    return returns.where(sane, -torch.inf).view(particles, count, batch).mean(0).T.contiguous()


def repeated(model: WorldModel, state: Tree, count: int, batch: int) -> tuple[Tensor, Tree]:
    """Numbers [M] of rollouts, and the state [B] that each begins in, in turn.

    M is `count` filled up to a multiple of the model's blocks, which must have equal sizes.
    """
    device = tree_leaves(state)[0].device
    rollouts = torch.arange(count + -count % model.batch_blocks, device=device)
    return rollouts, tree_map_only(Tensor, lambda x: x[rollouts % batch], state)


def imagined_returns(
    model: WorldModel,
    state: Tree,
    actions: Tensor,
    alive: Tensor,
    discount: float,
    value: Callable[[Tree], Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Returns [M] of rollouts with actions [H, M(, A)] from states [M], and `alive` [M] after the last step.

    `alive` is the weight of the next reward: discount^t times the probability that the episode has continued so far.
    Terminations are not sampled, so all sequences are compared on the same terms, and scores have less variance.
    """
    # `totals` and `alives` keep all rollouts in order; `total` and `alive` are those still imagined.
    rollouts = torch.arange(len(alive), device=alive.device)
    totals, alives = torch.zeros_like(alive), alive.clone()
    total = totals.clone()

    horizon = len(actions)
    for step in range(horizon):
        state, outcome = model.imagine(state, actions[step])
        total = total + alive * outcome.reward
        alive = alive * outcome.cont * discount
        if step % CHECK_EVERY or step == horizon - 1:
            continue

        # Counting the terminated rollouts waits for a GPU, and dropping them copies the state: neither at each step.
        kept = unfinished(alive, model.batch_blocks)
        if kept is not None:
            totals[rollouts], alives[rollouts] = total, alive
            rollouts, total, alive, actions = rollouts[kept], total[kept], alive[kept], actions[:, kept]
            state = tree_map_only(Tensor, lambda x: x[kept], state)  # noqa: B023
            if not len(kept):
                break

    # `alive` holds the discount by now, so the value is weighted like a reward of the next step.
    if value is not None and len(rollouts):
        total = total + alive * value(state)
    totals[rollouts], alives[rollouts] = total, alive
    return totals, alives


@torch.no_grad()
def propose(model: WorldModel, state: Tree, policy: Policy, count: int, batch: int, horizon: int) -> Tensor:
    """[B, count, H(, A)]: the actions of `count` rollouts of an exploring policy in the model, from state [B]."""
    _, states = repeated(model, state, count * batch, batch)
    actions = model.imagine_trajectory(lambda features: policy.act(features, True), states, horizon).action
    return actions[:, : count * batch].unflatten(1, (count, batch)).transpose(0, 2)


def mixed(model: WorldModel, proposed: Tensor, drawn: Tensor) -> Tensor:
    """[B, P, H(, A)] and [B, N, H(, A)] -> [B, P + N, H(, A)]."""
    both = torch.cat([proposed, drawn], 1)
    # Shuffled for an ensemble, whose members see a contiguous block each: one alone would score the policy.
    return both if model.batch_blocks == 1 else both[:, torch.randperm(both.shape[1], device=both.device)]


def unfinished(alive: Tensor, blocks: int) -> Tensor | None:
    """Indices of the rollouts to keep, as many in each of the equal `blocks` of `alive` [M] as the fullest has alive.

    None where too few would be dropped to be worth a copy of the state.
    """
    # All blocks keep as many as the fullest, since a batched network has equal blocks.
    terminated = (alive <= 0).view(blocks, -1)
    most = terminated.shape[1] - int(terminated.sum(1).min())
    if most > WORTHWHILE * terminated.shape[1]:
        return None

    # Stable, so that the rollouts that are kept stay in order.
    alive_first = terminated.sort(dim=1, stable=True).indices[:, :most]
    start = torch.arange(0, len(alive), terminated.shape[1], device=alive.device)
    return (alive_first + start.unsqueeze(1)).flatten()


def softmax_weights(scores: Tensor, temperature: float) -> Tensor:
    """[B, N] scores to weights that sum to one: what is worse by one temperature weighs e times less."""
    return (_anchored(scores) / temperature).softmax(1)


def elite_weights(scores: Tensor, elites: int) -> Tensor:
    """[B, N] scores to weights that sum to one: equal for the best `elites`, zero for the rest and for -inf.

    All that tie with the last elite share the places left. Rewards for survival make hundreds tie: a choice is noise.
    """
    scores = _anchored(scores)

    # Elites are found by their score, not by position: topk would break ties by an order that is not specified.
    last = scores.topk(elites, 1).values[:, -1:]
    better, tied = (scores > last).float(), (scores == last).float()
    places = (elites - better.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    chosen = (better + places * tied) * scores.isfinite()
    return chosen / chosen.sum(1, keepdim=True)


def best_weights(scores: Tensor) -> Tensor:
    """[B, N] scores to weights: all for one of the best."""
    return torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0)


def _anchored(scores: Tensor) -> Tensor:
    """All equal where no score of an environment is finite: nothing is known, yet the weights must sum to one."""
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
        self.proposal = proposal
        self.horizon = horizon
        self.population = population
        self.iterations = iterations
        self.particles = particles
        self.discount = discount
        self.proposals = 0
        self.on_candidates: Callable[[Candidates], None] | None = None

    @abstractmethod
    def weigh(self, scores: Tensor, spec: EnvSpec) -> Tensor:
        """[B, N] scores to weights that sum to one for each environment."""

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Plan:
        return self.proposal(spec).prior(batch, self.horizon, device) | {
            "predicted_return": torch.zeros(batch, device=device)
        }

    @torch.no_grad()
    def plan(self, model: WorldModel, state: Tree, previous: Plan, context: PlanContext) -> tuple[Tensor, Plan]:
        # A proposal has no state: it is made for the model's actions, and what is kept between steps is in the plan.
        proposal = self.proposal(model.spec)
        plan = self.shift(proposal, previous)
        proposed = None
        if self.proposals:
            assert context.policy is not None, "planner.proposals needs a policy"
            batch = len(plan["mean"])
            proposed = propose(model, state, context.policy, self.proposals, batch, self.horizon)

        for iteration in range(self.iterations):
            sequences = self.candidates(proposal, plan, iteration)
            sequences = sequences if proposed is None else mixed(model, proposed, sequences)
            scores = score_sequences(model, state, sequences, self.particles, self.discount, context.value)
            if self.on_candidates is not None:
                self.on_candidates(Candidates(iteration, sequences, scores))
            weights = self.weigh(scores, proposal.spec)
            plan = self.improve(proposal, plan, sequences, scores, weights)
        return self.first_action(proposal, plan), plan

    def shift(self, proposal: Proposal, previous: Plan) -> Plan:
        """The plan that the search begins with: that of the step before, shifted by one step."""
        return proposal.shift(previous)

    def candidates(self, proposal: Proposal, plan: Plan, iteration: int) -> Tensor:
        """[B, N, H(, A)]: the sequences to score in this iteration."""
        return proposal.sample(plan, self.population)

    def improve(self, proposal: Proposal, plan: Plan, sequences: Tensor, scores: Tensor, weights: Tensor) -> Plan:
        """Fit the plan to the sequences by the weights [B, N] of their scores."""
        return proposal.fit(plan, sequences, weights) | {"predicted_return": expectation(scores, weights)}

    def first_action(self, proposal: Proposal, plan: Plan) -> Tensor:
        """[B(, A)]: the action to take now."""
        return proposal.mode(plan)[:, 0]
