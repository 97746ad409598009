"""Latent: a small world model without recurrence: an encoder, and a step from one latent vector to the next.

    z_0 = encode(x_0)                       the first step of a window
    z_t = z_{t-1} + step(z_{t-1}, a_{t-1})  its other steps, unrolled with the actions taken
    loss = consistency * [D(sg(encode(x_t)), z_t) + 0.1 * D(encode(x_t), sg(z_t))]
           - log p(x_t, r_t, continue_t | z_t)

With `gaussian` encode and step give means and stds, and D is the KL; without it D is the squared distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.optim import AnnealedOptim
from mbrl_lab.dynamics.sequence import SequenceModel, unbroken
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.decoder import make_decoder, make_standardiser
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.heads import make_head, zero_output
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0

BALANCE = 0.1
"""Weight of the consistency loss for the encoder, relative to 1 for the transition network."""


@dataclass(frozen=True)
class LatentState:
    """The latent vector z, and how it is predicted."""

    size: int
    gaussian: bool
    """Encoder and transition network output means and stds, and imagination samples."""
    consistency: float
    """Weight of the distance between predicted and encoded latents."""


class Normal(NamedTuple):
    """Independent Gaussians."""

    mean: Tensor  # [..., D]
    log_std: Tensor

    def sample(self) -> Tensor:
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def detach(self) -> Normal:
        return Normal(self.mean.detach(), self.log_std.detach())


class Latent(SequenceModel):
    """See the top of this file. Its state is the vector z.

    Vector observations are standardised by the mean and std of all steps that it was trained on.
    """

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        state: LatentState,
        width: int,
        depth: int,
        length: int,
        decode: bool,
        bins: int,
        optim: AnnealedOptim,
        trainer: Trainer[SequenceModel],
    ) -> None:
        """
        Args:
            spec: of the observations.
            encoder: makes the encoder of observations.
            state: the latent vector.
            width: units of a hidden layer.
            depth: hidden layers.
            length: steps in a window.
            decode: also reconstruct the observation from z.
            bins: rewards are a distribution over so many bins (two-hot); 0: a number.
            optim: settings of Adam.
            trainer: fits the model to replay.
        """
        super().__init__(spec, state.size, length, optim, trainer)
        self.gaussian = state.gaussian
        self.consistency = state.consistency
        latent, hidden = state.size, [width] * depth
        outputs = latent * (1 + state.gaussian)

        self.encoder = encoder(spec)
        self.scale = make_standardiser(spec, self.encoder)
        self.to_latent = mlp([self.encoder.dim, *hidden, outputs], activation=nn.SiLU)
        self.transition = zero_output(mlp([latent + spec.action_dim, *hidden, outputs], activation=nn.SiLU))

        self.head = make_head(bins)
        self.reward = zero_output(mlp([latent, *hidden, self.head.outputs], activation=nn.SiLU, fp32_output=True))
        self.termination = zero_output(mlp([latent, *hidden, 1], activation=nn.SiLU))
        self.decoder = make_decoder(spec, self.encoder, latent, hidden) if decode else None
        self.decodes = decode

        self.opt = Adam(self.parameters(), optim.lr)

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        return self._to_normal(self.to_latent(self.encoder(self.scaled(step.obs)))).mean

    def advance(self, state: Tree, action: Tensor) -> Tensor:
        following = self._predict(state, action)
        return following.sample() if self.gaussian else following.mean

    def outcome(self, features: Tensor) -> Outcome:
        cont = torch.sigmoid(-self.termination(features).float().squeeze(-1))
        return Outcome(self.head.mean(self.reward(features)), cont)

    def features(self, state: Tree) -> Tensor:
        return state

    def decode(self, state: Tree) -> Tensor | None:
        return None if self.decoder is None else self.decoder.reconstruct(self.decoder(state), self.scale)

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        # Windows may run into the next episode; its steps do not follow from the first encoding.
        mask = unbroken(steps.first)
        self.count(steps.obs.flatten(0, 1))
        # Every step is encoded, but only the first encoding is unrolled: as in imagination, errors add up over steps.
        encoded = self._to_normal(self.to_latent(self.encoder(self.scaled(steps.obs))))
        z, predicted = self._unroll(encoded, steps.action)

        # Rewards and consistency start at the second step: the first is encoded, not predicted.
        loss: dict[str, Tensor] = {}
        if self.decoder is not None:
            loss["obs/loss"] = self.decoder.loss(self.decoder(z), steps.obs, self.scale)
        consistency = self._consistency_loss(Normal(*(x[1:] for x in encoded)), predicted)
        loss["consistency"] = F.pad(self.consistency * consistency, (0, 0, 1, 0))
        loss["reward/loss"] = F.pad(self.head.loss(self.reward(z[1:]), steps.reward[1:]), (0, 0, 1, 0))
        terminal = steps.terminal.float()
        loss["termination/loss"] = self._termination_loss(z, terminal) + self._termination_loss(encoded.mean, terminal)

        metrics: Metrics = {f"model/train/{name}": (x * mask).mean() for name, x in loss.items()}
        metrics["model/train/latent/rmse"] = ((z[1:] - encoded.mean[1:]).square().mean(-1) * mask[1:]).mean().sqrt()
        metrics["model/train/latent/std"] = encoded.mean.flatten(0, 1).std(0).mean()
        total = torch.stack([(x * mask).mean() for x in loss.values()]).sum()
        return total, encoded.mean, metrics | {"model/train/loss": total}

    def _unroll(self, encoded: Normal, action: Tensor) -> tuple[Tensor, Normal]:
        """z [L, B, D], the first of them encoded, and the predicted distributions [L - 1, B, D] of the others."""
        z = [encoded.mean[0] if not self.gaussian else Normal(*(x[0] for x in encoded)).sample()]
        predicted = []
        for a in action[1:]:
            predicted.append(self._predict(z[-1], a))
            z.append(predicted[-1].sample() if self.gaussian else predicted[-1].mean)
        means, log_stds = (torch.stack(x) for x in zip(*predicted, strict=True))
        return torch.stack(z), Normal(means, log_stds)

    def _predict(self, z: Tensor, action: Tensor) -> Normal:
        # Residual: with the zero-initialised output the step starts out as the identity.
        out = self._to_normal(self.transition(torch.cat([z, self.spec.encode_action(action)], -1)))
        return Normal(z + out.mean, out.log_std)

    def _consistency_loss(self, encoded: Normal, predicted: Normal) -> Tensor:
        """[L, B]: D(sg(encoded), predicted) trains the step; BALANCE times D(encoded, sg(predicted)) the encoder."""
        # Stop-gradients on alternate sides, as in the RSSM's KL balancing: an encoder that follows its predictions
        # as much as they follow it can agree with them on a latent that holds no information.
        measure = kl_gaussian if self.gaussian else squared_distance
        return measure(encoded.detach(), predicted) + BALANCE * measure(encoded, predicted.detach())

    def _termination_loss(self, z: Tensor, terminal: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.termination(z).float().squeeze(-1), terminal, reduction="none")

    def _to_normal(self, out: Tensor) -> Normal:
        """Network outputs to a distribution: log stds are bounded smoothly, or 0 without `gaussian`."""
        out = out.float()
        if not self.gaussian:
            return Normal(out, out.new_zeros(()).expand_as(out))
        mean, log_std = out.chunk(2, -1)
        return Normal(mean, MIN_LOG_STD + (MAX_LOG_STD - MIN_LOG_STD) * log_std.sigmoid())


def squared_distance(encoded: Normal, predicted: Normal) -> Tensor:
    """[..., D] -> [...]: the squared distance of the means."""
    return (encoded.mean - predicted.mean).square().sum(-1)


def kl_gaussian(encoded: Normal, predicted: Normal) -> Tensor:
    """[..., D] -> [...]: KL(encoded || predicted) in nats."""
    log_ratio = 2 * (encoded.log_std - predicted.log_std)
    z_score = (encoded.mean - predicted.mean) / predicted.log_std.exp()
    return 0.5 * (log_ratio.exp() + z_score.square() - 1 - log_ratio).sum(-1)
