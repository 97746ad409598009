"""Where episodes terminate: bounds of single coordinates, classifiers for the rest, and a hazard outside of the data.

p(continue | s, s') is a product of three factors:

    bounds       0 where a coordinate of s' lies beyond a bound that was observed, else 1
    hazard       exp(-hazard * max(0, d(s') - d(s))), d: the distance from the range of non-terminal observations
    classifiers  1 - p_k(terminal | s'), where bounds do not explain every termination

A classifier alone needs many terminations, and blames coordinates that have nothing to do with them; on CartPole, where
a few dozen are observed before the planner must avoid them, it was the weak part of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.frozen_ensemble import Folded, elite_layers, fold
from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.normalise import Normaliser
from mbrl_lab.ops import masked_mean
from mbrl_lab.types import Transition

WIDTH, DEPTH, LR = 64, 2, 3e-3
"""Units of a hidden layer, hidden layers, and learning rate of the classifiers."""


class TerminationModel(nn.Module):
    """See the top of this file. Everything is predicted from the next observation.

    Before a termination was observed all factors are 1.
    """

    observed: Tensor  # [] bool: whether a termination was observed
    unexplained: Tensor  # [] bool: whether one was that no bound explains
    prior: Tensor  # []: by which the classifiers' logits exceed those of the data, half of their batches being terminal
    range: Tensor  # [2, D]: least and greatest coordinates of non-terminal observations
    bound: Tensor  # [2, D]: the same where episodes are known to terminate beyond, else infinite

    def __init__(self, members: int, dim: int, bounds: bool, hazard: float) -> None:
        """
        Args:
            members: classifiers.
            dim: coordinates of an observation.
            bounds: whether to look for bounds of single coordinates.
            hazard: rate of terminating, for each standard deviation that a step leads away from the range of
                non-terminal observations. There unknown bounds may lie, and plans that nothing else tells apart stay
                where something is known. The idea is MOReL's (Kidambi et al. 2020), whose unknown states are terminal.
                A rate for each step out there would end most plans soon, and leave no reason to turn back.
        """
        super().__init__()
        self.finds_bounds = bounds
        self.hazard = hazard
        self.inputs = Normaliser(dim)
        self.net = EnsembleMLP(members, dim, 1, WIDTH, DEPTH)
        self.opt = Adam(self.parameters(), LR)

        self.register_buffer("observed", torch.zeros((), dtype=torch.bool))
        self.register_buffer("unexplained", torch.zeros((), dtype=torch.bool))
        self.register_buffer("prior", torch.zeros(()))
        unbounded = torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, dim)
        self.register_buffer("range", unbounded)
        self.register_buffer("bound", unbounded.clone())

    def observe(self, next_obs: Tensor, terminal: Tensor) -> None:
        """Take scales, ranges and bounds from real observations [N, D], of which some are terminal [N]."""
        self.inputs.fit(next_obs)
        alive, terminated = next_obs[~terminal], next_obs[terminal]
        self.observed.fill_(len(terminated) > 0)

        # Half of a batch is terminal, so its odds are 1 + N / T times those of the data, for T terminations.
        self.prior.fill_(1 + len(next_obs) / max(len(terminated), 1)).log_()
        if len(alive):
            self.range.copy_(torch.stack(alive.aminmax(dim=0)))

        # A termination outside of the range of exactly one coordinate, on one side, shows a bound there: whatever the
        # other coordinates were, episodes have gone on with them. One such termination is enough.
        outside = torch.stack([terminated < self.range[0], terminated > self.range[1]])  # [2, N, D]
        bounded = (outside & (outside.sum((0, 2)) == 1).unsqueeze(-1)).any(1) & self.finds_bounds
        self.bound.copy_(torch.where(bounded, self.range, self.bound.new_tensor([[-torch.inf], [torch.inf]])))
        self.unexplained.fill_((~_outside(self.bound, terminated)).any())

    def update(self, t: Transition) -> Tensor:
        """One gradient step on [K, N] transitions, half of them terminal; returns the mean loss."""
        loss = self.loss(t)
        self.opt.minimise(loss.sum())
        return loss.detach().mean()

    def loss(self, t: Transition) -> Tensor:
        """[K, N] transitions -> [K]: cross-entropy of those that no bound explains."""
        logit = self.net(self.inputs(t.next_obs)).squeeze(-1)
        error = F.binary_cross_entropy_with_logits(logit, t.terminal.float(), reduction="none")
        return masked_mean(error, t.valid & ~_outside(self.bound, t.next_obs), 1)

    def freeze(self, elite: Tensor) -> Folded:
        """The classifiers of some members, ready for `classify`; no layers where bounds explain every termination."""
        if not self.unexplained:
            return Folded([], None, None)
        return fold(elite_layers(self.net.layers(), elite), self.inputs, torch.ones_like(self.prior), -self.prior)

    def within_bounds(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """[N, D] -> [N]: the probability to continue by bounds and hazard."""
        cont = (~_outside(self.bound, next_obs)).float()
        if self.hazard:
            # Both distances at once: on a few thousand rows calls cost more than their arithmetic.
            before, after = self._distance(torch.stack([obs, next_obs]))
            cont = cont * (-self.hazard * (after - before).clamp(min=0)).exp()
        return cont

    def classify(self, net: Folded, next_obs: Tensor) -> Tensor:
        """[K, N, D] -> [K, N]: the probability to continue by the classifiers."""
        return (-net.predict(next_obs).squeeze(-1)).sigmoid()

    def _distance(self, obs: Tensor) -> Tensor:
        """[..., D] -> [...]: from the range of non-terminal observations, in standard deviations, summed over D."""
        return ((obs - obs.clamp(self.range[0], self.range[1])).abs() / self.inputs.scale).sum(-1)


def _outside(limits: Tensor, x: Tensor) -> Tensor:
    """[..., D] -> [...]: whether some coordinate is below or above its `limits` [2, D]."""
    return ((x < limits[0]) | (x > limits[1])).any(-1)
