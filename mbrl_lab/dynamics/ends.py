"""Where episodes end: classifiers of the next observation, and a hazard where nothing was ever seen."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.normaliser import Normaliser
from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.ensemble import Layers, apply, as_computed
from mbrl_lab.ops import masked_mean
from mbrl_lab.types import Transition

Frozen = Layers | Tensor
CELLS = 4096


class Ends(nn.Module):
    """K classifiers, trained on batches of which half are ends.

    `separate`: a small network for each coordinate, and an episode ends where any of them says so (the logits join by
    logsumexp). One end beyond an edge of the track then places that edge for every speed and angle, where one network
    of the whole observation needs many. `certain`: what is likelier an end than not is one, else its probability
    counts; a small probability at every step bends plans that nothing else tells apart.
    `hazard`: the probability of an end at every step in which a coordinate lies beyond all that was seen to go on. It
    keeps plans that nothing else tells apart where something is known (after MOReL, Kidambi et al. 2020, where the
    unknown is the end). None of it counts before an end was seen.
    """

    seen: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        members: int,
        dim: int,
        width: int,
        depth: int,
        lr: float,
        separate: bool,
        certain: bool,
        hazard: float,
    ) -> None:
        super().__init__()
        self.members, self.dim, self.separate, self.certain = members, dim, separate, certain
        self.hazard = hazard
        self.inputs = Normaliser(dim)
        self.net = EnsembleMLP(members * (dim if separate else 1), 1 if separate else dim, 1, width, depth)
        self.opt = torch.optim.Adam(self.parameters(), lr, fused=True)
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))
        self.register_buffer("low", torch.zeros(dim))
        self.register_buffer("high", torch.zeros(dim))

    def normalise(self, next_obs: Tensor, terminal: Tensor) -> None:
        """Take scales and ranges from real rows [N, D], [N]."""
        self.inputs.fit(next_obs)
        self.seen.fill_(terminal.any())
        going_on = next_obs[~terminal]
        if len(going_on):
            self.low.copy_(going_on.amin(0))
            self.high.copy_(going_on.amax(0))

    def update(self, t: Transition) -> Tensor:
        """One gradient step on [K, N] transitions; returns the mean loss."""
        loss = self.loss(t)
        self.opt.zero_grad()
        loss.sum().backward()
        self.opt.step()
        return loss.detach().mean()

    def loss(self, t: Transition) -> Tensor:
        """[K, N] transitions -> [K]: cross-entropy."""
        logit = self.logits(self.net.layers(), t.next_obs).logsumexp(1)
        error = F.binary_cross_entropy_with_logits(logit, t.terminal.float(), reduction="none")
        return masked_mean(error, t.valid, 1)

    def logits(self, layers: Layers, next_obs: Tensor) -> Tensor:
        """[K, N, D] -> [K, J, N], by the layers of K members: of each coordinate if `separate`, else J = 1."""
        x = self.inputs(next_obs)
        if not self.separate:
            return apply(layers, x).transpose(1, 2)
        members, rows, _ = x.shape
        each = apply(layers, x.transpose(1, 2).reshape(members * self.dim, rows, 1))
        return each.view(members, self.dim, rows)

    def freeze(self, elite: Tensor) -> Frozen:
        """What some members know, ready for `discount`: their layers, or tables, since each is of one number."""
        layers = [(self._pick(w, elite), self._pick(b, elite)) for w, b in self.net.layers()]
        if not self.separate:
            return as_computed(layers)
        start, scale = self._cells()
        places = start + torch.arange(CELLS, device=start.device).unsqueeze(-1) / scale
        return self.logits(layers, places.expand(len(elite), CELLS, self.dim)).exp().flatten()

    @torch.no_grad()
    def discount(self, frozen: Frozen, next_obs: Tensor) -> Tensor:
        """[K, N, D] -> [K, N]: the probability that the episode goes on."""
        odds = self._look_up(frozen, next_obs) if isinstance(frozen, Tensor) else self._odds(frozen, next_obs)
        going_on = (odds < 1).float() if self.certain else 1 / (1 + odds)
        if not self.hazard:
            return going_on
        unknown = ((next_obs < self.low) | (next_obs > self.high)).any(-1)
        return going_on * (1 - self.hazard * unknown)

    def _odds(self, layers: Layers, next_obs: Tensor) -> Tensor:
        return self.logits(layers, next_obs).exp().sum(1)

    def _look_up(self, table: Tensor, next_obs: Tensor) -> Tensor:
        """The sum of each coordinate's odds, from the nearest cell of its table."""
        start, scale = self._cells()
        cell = ((next_obs - start) * scale).round().nan_to_num().clamp(0, CELLS - 1).long()
        tables = torch.arange(len(next_obs) * self.dim, device=cell.device).view(-1, 1, self.dim)
        return table[cell + tables * CELLS].sum(-1)

    def _cells(self) -> tuple[Tensor, Tensor]:
        """Where each coordinate's table begins and its cells per unit: the seen range and as much on either side."""
        span = (self.high - self.low).clamp(min=1e-6)
        return self.low - span, (CELLS - 1) / (3 * span)

    def _pick(self, x: Tensor, elite: Tensor) -> Tensor:
        nets = self.dim if self.separate else 1
        return x.detach().unflatten(0, (self.members, nets))[elite].flatten(0, 1)
