"""PPO: proximal policy optimisation with a clipped objective (Schulman et al. 2017)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl_lab.nets.actor import Actor
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.orthogonal import orthogonal
from mbrl_lab.nets.running import RewardScale, Standardise
from mbrl_lab.ops import clip_norm, gae, masked_mean
from mbrl_lab.types import EnvSpec, Metrics, Step


class Batch(NamedTuple):
    """N transitions, and what the policy that made them thought of each."""

    obs: Tensor  # [N, *obs_shape]
    action: Tensor
    valid: Tensor
    logp: Tensor  # of the action
    value: Tensor  # of the observation
    advantage: Tensor
    returns: Tensor  # advantage + value: what the value should be

    def at(self, index: Tensor) -> Batch:
        return Batch(*(x[index] for x in self))


class PPO(nn.Module):
    """An actor and a value that learn from rows which this very policy made, in `epochs` passes of `minibatches`.

    Rows hold neither values nor log-probabilities. As the policy has not moved since it acted, `judge` finds them
    again. `value_clip`, `clip` (the gradient's norm) and `anneal_updates` are off at 0.
    Raises ValueError where observations that are not vectors should be standardised.
    """

    updates: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        width: int,
        depth: int,
        std: float,
        gamma: float,
        gae_lambda: float,
        epochs: int,
        minibatches: int,
        ratio_clip: float,
        value_clip: float,
        value_coef: float,
        entropy_coef: float,
        lr: float,
        anneal_updates: int,
        clip: float,
        normalise_advantage: bool,
        normalise_obs: bool,
        normalise_reward: bool,
    ) -> None:
        super().__init__()
        if normalise_obs and len(spec.obs_shape) != 1:
            raise ValueError("policy.normalise_obs is True; it must be false where observations are not vectors")
        self.gamma, self.gae_lambda, self.epochs, self.minibatches = gamma, gae_lambda, epochs, minibatches
        self.ratio_clip, self.value_clip, self.clip = ratio_clip, value_clip or math.inf, clip or math.inf
        self.value_coef, self.entropy_coef = value_coef, entropy_coef
        self.lr, self.anneal_updates, self.normalise_advantage = lr, anneal_updates, normalise_advantage
        self.standardise = Standardise(spec.obs_shape) if normalise_obs else None
        self.scale = RewardScale(gamma) if normalise_reward else None
        self.encoder = encoder(spec)
        self.actor = Actor(spec, self.encoder.dim, width, depth, std)
        self.critic = mlp([self.encoder.dim, *[width] * depth, 1], activation=nn.Tanh, fp32_output=True)
        orthogonal(self.encoder)
        orthogonal(self.actor, last=0.01)
        orthogonal(self.critic, last=1.0)
        self.opt = Adam(self.parameters(), lr, eps=1e-5)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def features(self, obs: Tensor) -> Tensor:
        """[N, *obs_shape] -> [N, D]."""
        return self.encoder(obs if self.standardise is None else self.standardise(obs))

    @torch.no_grad()
    def act(self, features: Tensor, explore: bool) -> Tensor:
        distribution = self.actor(self.features(features))
        return distribution.sample() if explore else distribution.mode()

    def update(self, steps: Step) -> Metrics:
        batch = self.judge(steps)
        explained = explained_variance(batch)
        if self.normalise_advantage:
            batch = batch._replace(advantage=standardised(batch.advantage, batch.valid))
        self._anneal()
        for _ in range(self.epochs):
            order = torch.randperm(len(batch.obs), device=batch.obs.device)
            last = [self._descend(batch.at(index)) for index in order.tensor_split(self.minibatches)]
        if self.standardise is not None:  # not before: what was learned must have been seen as it was acted on
            self.standardise.moments.add(batch.obs, batch.valid)
        means: Metrics = {name: torch.stack([m[name] for m in last]).mean() for name in last[0]}
        return means | {"policy/explained_variance": explained}

    @torch.no_grad()
    def judge(self, steps: Step) -> Batch:
        """[T + 1, B] rows -> their T * B transitions; a time limit bootstraps, a terminal row does not."""
        t = steps.transitions()
        reward = t.reward if self.scale is None else self.scale(t.reward, t.valid)
        features = self.features(steps.obs.flatten(0, 1))
        value = self.value(features).view(steps.first.shape)
        action = t.action.flatten(0, 1)
        logp = self.actor(features[: len(action)]).log_prob(action)
        advantage = gae(reward, self.gamma * ~t.terminal, value[:-1], value[1:], t.valid, self.gae_lambda)
        value, advantage = value[:-1].flatten(), advantage.flatten()
        return Batch(t.obs.flatten(0, 1), action, t.valid.flatten(), logp, value, advantage, advantage + value)

    def value(self, features: Tensor) -> Tensor:
        """[N, D] -> [N]."""
        return self.critic(features).squeeze(-1)

    def _descend(self, b: Batch) -> dict[str, Tensor]:
        """One gradient step."""
        features = self.features(b.obs)
        distribution = self.actor(features)
        log_ratio = distribution.log_prob(b.action) - b.logp
        ratio = log_ratio.exp()
        loss = masked_mean(surrogate_loss(ratio, b.advantage, self.ratio_clip), b.valid)
        value_loss = masked_mean(squared_error(self.value(features), b.value, b.returns, self.value_clip), b.valid)
        entropy = masked_mean(distribution.entropy(), b.valid)
        total = loss + self.value_coef * value_loss - self.entropy_coef * entropy
        norm = clip_norm(self.opt.differentiate(total), self.clip)
        self.opt.step()
        with torch.no_grad():
            return {
                "policy/loss": loss.detach(),
                "policy/value_loss": value_loss.detach(),
                "policy/entropy": entropy.detach(),
                "policy/kl": masked_mean(ratio - 1 - log_ratio, b.valid),
                "policy/clip_fraction": masked_mean(((ratio - 1).abs() > self.ratio_clip).float(), b.valid),
                "policy/gradient_norm": norm,
            }

    def _anneal(self) -> None:
        """Set the learning rate, which falls linearly to 0 over `anneal_updates`."""
        if self.anneal_updates:
            self.opt.param_groups[0]["lr"] = self.lr * max(1 - int(self.updates) / self.anneal_updates, 0.0)
        self.updates += 1


def surrogate_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """[N]: minus the lesser of two improvements, one of which gains nothing outside 1 +- clip (eq. 7)."""
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def squared_error(value: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """[N]: of the value, or, where that is more, of the value held within `clip` of the old one."""
    held = old + (value - old).clamp(-clip, clip)
    return torch.max((value - returns).square(), (held - returns).square())


def standardised(x: Tensor, mask: Tensor) -> Tensor:
    """[N] with mean 0 and deviation 1 over those for which the mask holds."""
    apart = x - masked_mean(x, mask)
    return apart / (masked_mean(apart.square(), mask).sqrt() + 1e-8)


def explained_variance(batch: Batch) -> Tensor:
    """[]: the share of the returns' variance that the old values explain; 0 where they do not vary."""
    apart = batch.returns - masked_mean(batch.returns, batch.valid)
    left = batch.advantage - masked_mean(batch.advantage, batch.valid)
    total = masked_mean(apart.square(), batch.valid)
    return torch.where(total > 1e-8, 1 - masked_mean(left.square(), batch.valid) / total.clamp(min=1e-8), 0.0)
