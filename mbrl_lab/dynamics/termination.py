"""Where episodes end: bounds on single coordinates, a classifier for what they do not explain, a hazard beyond data."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.frozen_ensemble import Folded, elite_layers, fold
from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.normaliser import Normaliser
from mbrl_lab.ops import masked_mean
from mbrl_lab.types import Transition

WIDTH, DEPTH, LR = 64, 2, 3e-3
"""Units of a hidden layer, hidden layers, and learning rate of the classifiers: one threshold is soon learned."""


class TerminationModel(nn.Module):
    """The probability that an episode goes on, from the next observation alone.

    `bounds`: an end that lies beyond all that was seen to go on in one coordinate and no other shows where that
    coordinate is bounded on that side, whatever the speed and the angle were. One end is enough, where a classifier
    needs many and blames other coordinates for it.
    The K classifiers learn the ends that no bound explains, on batches of which half are ends; `prior` takes that back
    from the odds they give.
    `hazard`: beyond all that was seen to go on, unknown bounds may lie; one is met with this probability (as a rate)
    for each standard deviation travelled further out. Plans that nothing else tells apart then stay, and turn back,
    where something is known (the idea is MOReL's, Kidambi et al. 2020, where the unknown is the end). A hazard for
    each step out there instead would end most plans within a few steps, and leave nothing to turn back for.
    Before an end was seen none of it counts.
    """

    seen: Tensor
    unexplained: Tensor
    prior: Tensor
    range: Tensor
    bound: Tensor

    def __init__(self, members: int, dim: int, bounds: bool, hazard: float) -> None:
        super().__init__()
        self.bounds = bounds
        self.hazard = hazard
        self.inputs = Normaliser(dim)
        self.net = EnsembleMLP(members, dim, 1, WIDTH, DEPTH)
        self.opt = Adam(self.parameters(), LR)
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))
        self.register_buffer("unexplained", torch.zeros((), dtype=torch.bool))
        self.register_buffer("prior", torch.zeros(()))
        endless = torch.tensor([[-torch.inf], [torch.inf]]).repeat(1, dim)
        self.register_buffer("range", endless)  # least and greatest of what was seen to go on
        self.register_buffer("bound", endless.clone())  # the same where episodes are known to end beyond, else infinite

    def observe(self, next_obs: Tensor, terminal: Tensor) -> None:
        """Take scales, ranges and bounds from real rows [N, D], [N]."""
        self.inputs.fit(next_obs)
        going_on, ends = next_obs[~terminal], next_obs[terminal]
        self.seen.fill_(len(ends) > 0)
        self.prior.fill_(1 + len(next_obs) / max(len(ends), 1)).log_()
        if len(going_on):
            self.range.copy_(torch.stack(going_on.aminmax(dim=0)))
        beyond = torch.stack([ends < self.range[0], ends > self.range[1]])  # [2, N, D]
        blamed = (beyond & (beyond.sum((0, 2)) == 1).unsqueeze(-1)).any(1) & self.bounds
        self.bound.copy_(torch.where(blamed, self.range, self.bound.new_tensor([[-torch.inf], [torch.inf]])))
        self.unexplained.fill_((~_outside(self.bound, ends)).any())

    def update(self, t: Transition) -> Tensor:
        """One gradient step on [K, N] transitions, half of them ends; returns the mean loss."""
        loss = self.loss(t)
        self.opt.minimise(loss.sum())
        return loss.detach().mean()

    def loss(self, t: Transition) -> Tensor:
        """[K, N] transitions -> [K]: cross-entropy of what no bound explains."""
        logit = self.net(self.inputs(t.next_obs)).squeeze(-1)
        error = F.binary_cross_entropy_with_logits(logit, t.terminal.float(), reduction="none")
        return masked_mean(error, t.valid & ~_outside(self.bound, t.next_obs), 1)

    def freeze(self, elite: Tensor) -> Folded:
        """The classifiers of some members, ready for `learned`; no layers where bounds explain every end."""
        if not self.unexplained:
            return Folded([], None, None)
        return fold(elite_layers(self.net.layers(), elite), self.inputs, torch.ones_like(self.prior), -self.prior)

    def known(self, obs: Tensor, next_obs: Tensor) -> Tensor:
        """[N, D] -> [N]: the probability that the episode goes on, as far as bounds and the hazard tell."""
        going_on = (~_outside(self.bound, next_obs)).float()
        if self.hazard:
            before, after = self._distance(torch.stack([obs, next_obs]))  # at once: calls cost more than their work
            going_on = going_on * (-self.hazard * (after - before).clamp(min=0)).exp()
        return going_on

    def learned(self, net: Folded, next_obs: Tensor) -> Tensor:
        """[K, N, D] -> [K, N]: the probability that the episode goes on, by the classifiers."""
        return (-net.predict(next_obs).squeeze(-1)).sigmoid()

    def _distance(self, obs: Tensor) -> Tensor:
        """[..., D] -> [...]: how far beyond what was seen to go on, in standard deviations, coordinates added up."""
        return ((obs - obs.clamp(self.range[0], self.range[1])).abs() / self.inputs.scale).sum(-1)


def _outside(limits: Tensor, x: Tensor) -> Tensor:
    """[..., D] -> [...]: whether some coordinate is below or above its `limits` [2, D]."""
    return ((x < limits[0]) | (x > limits[1])).any(-1)
