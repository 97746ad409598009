"""Latent: a small world model without memory, a vector for each observation and a step between vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.dynamics.sequence import SequenceModel, unbroken
from mbrl_lab.dynamics.trainer import Trainer
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.decoder import make_decoder, make_standardiser
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.heads import make_head, zero_output
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree

MIN_LOG_STD, MAX_LOG_STD = -5.0, 1.0


class Normal(NamedTuple):
    """Independent Gaussians."""

    mean: Tensor  # [..., D]
    log_std: Tensor

    def sample(self) -> Tensor:
        return self.mean + self.log_std.exp() * torch.randn_like(self.mean)

    def detach(self) -> Normal:
        return Normal(self.mean.detach(), self.log_std.detach())


class Latent(SequenceModel):
    """Its state is a vector z of `latent` numbers: what the encoder says of an observation, or what follows from it.

    From the encoding of a window's first row it is unrolled with the actions that were taken. At each row z should lie
    where the encoder says (`consistency`, of which the encoder follows the share `balance`), and say the observation
    (`decode`), the reward and whether the episode goes on. With `gaussian` both encoder and step say how sure they are,
    and consistency is the relative entropy of the two. Without it is their squared distance.
    Vectors are standardised by the mean and deviation of all rows it has learned from.
    """

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        latent: int,
        width: int,
        depth: int,
        length: int,
        gaussian: bool,
        decode: bool,
        consistency: float,
        balance: float,
        bins: int,
        lr: float,
        clip: float,
        anneal_updates: int,
        trainer: Trainer[SequenceModel],
    ) -> None:
        super().__init__(spec, latent, length, lr, clip, anneal_updates, trainer)
        self.gaussian, self.consistency, self.balance = gaussian, consistency, balance
        hidden, outputs = [width] * depth, latent * (1 + gaussian)
        self.see = encoder(spec)
        self.scale = make_standardiser(spec, self.see)
        self.encode = mlp([self.see.dim, *hidden, outputs], activation=nn.SiLU)
        self.step = zero_output(mlp([latent + spec.action_dim, *hidden, outputs], activation=nn.SiLU))
        self.head = make_head(bins)
        self.reward = zero_output(mlp([latent, *hidden, self.head.outputs], activation=nn.SiLU, fp32_output=True))
        self.end = zero_output(mlp([latent, *hidden, 1], activation=nn.SiLU))
        self.decoder = make_decoder(spec, self.see, latent, hidden) if decode else None
        self.decodes = decode
        self.opt = Adam(self.parameters(), lr)

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        return self._read(self.encode(self.see(self.scaled(step.obs)))).mean

    def advance(self, state: Tree, action: Tensor) -> Tensor:
        after = self._follow(state, action)
        return after.sample() if self.gaussian else after.mean

    def outcome(self, features: Tensor) -> Outcome:
        going_on = torch.sigmoid(-self.end(features).float().squeeze(-1))
        return Outcome(self.head.mean(self.reward(features)), going_on)

    def features(self, state: Tree) -> Tensor:
        return state

    def decode(self, state: Tree) -> Tensor | None:
        return None if self.decoder is None else self.decoder.reconstruct(self.decoder(state), self.scale)

    def loss(self, steps: Step, start: Tree | None) -> tuple[Tensor, Tree, Metrics]:
        known = unbroken(steps.first)
        self.count(steps.obs.flatten(0, 1))
        seen = self._read(self.encode(self.see(self.scaled(steps.obs))))
        z, foreseen = self._unroll(seen, steps.action)
        loss: dict[str, Tensor] = {}
        if self.decoder is not None:
            loss["obs/loss"] = self.decoder.loss(self.decoder(z), steps.obs, self.scale)
        after, passed = z[1:], known[1:]
        apart = self._apart(Normal(*(x[1:] for x in seen)), foreseen)
        loss["consistency"] = F.pad(self.consistency * apart, (0, 0, 1, 0))
        loss["reward/loss"] = F.pad(self.head.loss(self.reward(after), steps.reward[1:]), (0, 0, 1, 0))
        ends = steps.terminal.float()
        loss["termination/loss"] = self._end_error(z, ends) + self._end_error(seen.mean, ends)
        metrics: Metrics = {f"model/train/{name}": (x * known).mean() for name, x in loss.items()}
        metrics["model/train/latent/rmse"] = ((after - seen.mean[1:]).square().mean(-1) * passed).mean().sqrt()
        metrics["model/train/latent/std"] = seen.mean.flatten(0, 1).std(0).mean()
        total = torch.stack([(x * known).mean() for x in loss.values()]).sum()
        return total, seen.mean, metrics | {"model/train/loss": total}

    def _unroll(self, seen: Normal, action: Tensor) -> tuple[Tensor, Normal]:
        """z [L, B, D] from the first encoding on, and what each but the first was drawn from."""
        z = [seen.mean[0] if not self.gaussian else Normal(*(x[0] for x in seen)).sample()]
        foreseen = []
        for a in action[1:]:
            foreseen.append(self._follow(z[-1], a))
            z.append(foreseen[-1].sample() if self.gaussian else foreseen[-1].mean)
        means, log_stds = (torch.stack(x) for x in zip(*foreseen, strict=True))
        return torch.stack(z), Normal(means, log_stds)

    def _follow(self, z: Tensor, action: Tensor) -> Normal:
        out = self._read(self.step(torch.cat([z, self.spec.encode(action)], -1)))
        return Normal(z + out.mean, out.log_std)

    def _apart(self, seen: Normal, foreseen: Normal) -> Tensor:
        """[L, B]: how far what was seen and what was foreseen lie apart; most of it is for the step to mend."""
        measure = kl_gaussian if self.gaussian else distance
        return measure(seen.detach(), foreseen) + self.balance * measure(seen, foreseen.detach())

    def _end_error(self, z: Tensor, ends: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(self.end(z).float().squeeze(-1), ends, reduction="none")

    def _read(self, out: Tensor) -> Normal:
        out = out.float()
        if not self.gaussian:
            return Normal(out, out.new_zeros(()).expand_as(out))
        mean, log_std = out.chunk(2, -1)
        return Normal(mean, MIN_LOG_STD + (MAX_LOG_STD - MIN_LOG_STD) * log_std.sigmoid())


def distance(seen: Normal, foreseen: Normal) -> Tensor:
    """[..., D] -> [...]: the squared distance of the means."""
    return (seen.mean - foreseen.mean).square().sum(-1)


def kl_gaussian(seen: Normal, foreseen: Normal) -> Tensor:
    """[..., D] -> [...]: KL(seen || foreseen) in nats."""
    ratio = 2 * (seen.log_std - foreseen.log_std)
    apart = (seen.mean - foreseen.mean) / foreseen.log_std.exp()
    return 0.5 * (ratio.exp() + apart.square() - 1 - ratio).sum(-1)
