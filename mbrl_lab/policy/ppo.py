"""PPO: proximal policy optimisation with a clipped objective (Schulman et al. 2017).

An update on T + 1 steps of B environments that this very policy, pi_old, has just made; d is 1 where s' is terminal:

    delta_t = r_t + gamma (1 - d_t) V(s_t+1) - V(s_t)                            eq. 12
    A_t     = delta_t + gamma (1 - d_t) lambda A_t+1                             GAE, eq. 11, in targets
    V_targ  = A_t + V(s_t)
    for each epoch, for each minibatch of the transitions:
        ratio  = pi(a | s) / pi_old(a | s)                                       eq. 6
        L_clip = mean of min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)           eq. 7, surrogate_loss
        L_vf   = mean of (V(s) - V_targ)^2                                       value_loss
        a step of Adam down the gradient of -L_clip + c1 L_vf - c2 H[pi]         eq. 9, loss

Where the environment acted in the policy's place (`chosen` is false) the transition trains the value alone.

Steps of replay hold neither values nor log-probabilities. As the policy has not moved since it acted, `targets`
computes them again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl_lab.nets.actor import Categorical, ClippedGaussian, Distribution
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.count import save_count
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.mlp import mlp, orthogonal
from mbrl_lab.nets.normalise import RewardScale, Standardise
from mbrl_lab.ops import gae, masked_mean
from mbrl_lab.protocols import Policy
from mbrl_lab.types import EnvSpec, Metrics, Step


@dataclass(frozen=True)
class Objective:
    """The loss of an update (eq. 9)."""

    ratio_clip: float
    """eps: how far from 1 a probability ratio still gains."""
    value_clip: float
    """How far a value may move from the old one before its loss stops to fall. 0: unbounded."""
    value_coef: float
    """c1, the weight of the value loss."""
    entropy_coef: float
    """c2, the weight of the entropy."""


@dataclass(frozen=True)
class MinibatchOptim:
    """Adam, in several passes through the transitions of an update."""

    lr: float
    anneal_updates: int
    """Updates over which the learning rate falls linearly to 0. 0: never."""
    clip: float
    """Largest norm of the gradient. 0: not clipped."""
    epochs: int
    """Passes, each in a new order."""
    minibatches: int
    """Gradient steps in a pass."""


@dataclass(frozen=True)
class Normalise:
    """What is normalised."""

    advantage: bool
    """Over the transitions of an update."""
    obs: bool
    """By their running mean and standard deviation; vectors only."""
    reward: bool
    """By the running standard deviation of their discounted sums."""


class Batch(NamedTuple):
    """N transitions with pi_old's log-probability and value of each."""

    obs: Tensor  # [N, *obs_shape]
    action: Tensor
    valid: Tensor  # whether there is a transition: it trains the value
    chosen: Tensor  # valid, and the policy chose the action: it trains the policy
    log_prob: Tensor  # of the action
    value: Tensor  # of the observation
    advantage: Tensor
    returns: Tensor  # V_targ

    def at(self, index: Tensor) -> Batch:
        return Batch(*(x[index] for x in self))


class PPOActor(nn.Module):
    """An MLP with tanh; the standard deviation of continuous actions, at first `std`, does not depend on the state."""

    def __init__(self, spec: EnvSpec, dim: int, width: int, depth: int, std: float) -> None:
        super().__init__()
        self.net = mlp([dim, *[width] * depth, spec.action_dim], activation=nn.Tanh)
        self.log_std = None if spec.discrete else nn.Parameter(torch.full((spec.action_dim,), math.log(std)))

    def forward(self, features: Tensor) -> Distribution:
        """[N, dim] -> a distribution over [N] actions."""
        out = self.net(features)
        return Categorical(out) if self.log_std is None else ClippedGaussian(out, self.log_std)


class PPO(Policy):
    """See the top of this file. ValueError where observations that are not vectors should be normalised."""

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        width: int,
        depth: int,
        std: float,
        gamma: float,
        gae_lambda: float,
        objective: Objective,
        optim: MinibatchOptim,
        normalise: Normalise,
    ) -> None:
        """
        Args:
            spec: of the environment, or of a model's features.
            encoder: makes the encoder of observations, which actor and critic share.
            width: units of a hidden layer of actor and critic.
            depth: hidden layers.
            std: standard deviation of continuous actions, at the start.
            gamma: discount.
            gae_lambda: lambda. 0: advantages of one step; 1: of all steps to come.
            objective: clips and weights of the loss.
            optim: Adam, epochs and minibatches.
            normalise: what is normalised.
        """
        super().__init__()
        if normalise.obs and len(spec.obs_shape) != 1:
            raise ValueError("policy.normalise.obs is True; it must be false where observations are not vectors")
        self.gamma = gamma
        self.gae_lambda = gae_lambda
        self.objective = objective
        self.optim = optim
        self.normalise = normalise
        self.standardise = Standardise(spec.obs_shape) if normalise.obs else None
        self.reward_scale = RewardScale(gamma) if normalise.reward else None

        self.encoder = encoder(spec)
        self.actor = PPOActor(spec, self.encoder.dim, width, depth, std)
        self.critic = mlp([self.encoder.dim, *[width] * depth, 1], activation=nn.Tanh, fp32_output=True)

        # With a small last layer the first policy is nearly uniform, or nearly centred (Engstrom et al. 2020).
        orthogonal(self.encoder)
        orthogonal(self.actor, last=0.01)
        orthogonal(self.critic, last=1.0)
        self.opt = Adam(self.parameters(), optim.lr, eps=1e-5)  # eps of OpenAI's baselines
        self.updates = 0
        save_count(self, "updates")

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        pi = self.actor(self.features(obs))
        return pi.sample() if explore else pi.mode()

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        return self.actor(self.features(features)).scores()

    def features(self, obs: Tensor) -> Tensor:
        """[N, *obs_shape] -> [N, D]."""
        return self.encoder(obs if self.standardise is None else self.standardise(obs))

    def v(self, features: Tensor) -> Tensor:
        """[N, D] -> [N]: V(s)."""
        return self.critic(features).squeeze(-1)

    def update(self, steps: Step) -> Metrics:
        return self.update_on_policy(steps, torch.ones_like(steps.first[1:]))

    def update_on_policy(self, steps: Step, chosen: Tensor) -> Metrics:
        """Learn from [T + 1, B] steps that this policy made, each transition once an epoch."""
        batch = self.targets(steps, chosen)
        explained = explained_variance(batch)

        # Over the whole update: in a minibatch of one transition the standardised advantage is always 0.
        if self.normalise.advantage:
            batch = batch._replace(advantage=standardised(batch.advantage, batch.chosen))

        self._anneal_lr()
        for _ in range(self.optim.epochs):
            order = torch.randperm(len(batch.obs), device=batch.obs.device)
            # Parts differ by one transition at most; metrics are those of the last epoch.
            last = [self.minibatch_step(batch.at(index)) for index in order.tensor_split(self.optim.minibatches)]

        # Statistics move only now: this update must see observations as the policy did when it acted.
        if self.standardise is not None:
            self.standardise.moments.add(batch.obs, batch.valid)
        means: Metrics = {name: torch.stack([m[name] for m in last]).mean() for name in last[0]}
        return means | {"policy/explained_variance": explained}

    @torch.no_grad()
    def targets(self, steps: Step, chosen: Tensor) -> Batch:
        """[T + 1, B] steps, and [T, B] whether their actions were chosen -> their T * B transitions.

        A time limit bootstraps, a terminal state does not.
        """
        t = steps.transitions()
        # Unlike observations, rewards may be counted first: no action depends on their scale.
        reward = t.reward if self.reward_scale is None else self.reward_scale(t.reward, t.valid)
        features = self.features(steps.obs.flatten(0, 1))
        value = self.v(features).view(steps.first.shape)
        # The newest step only bootstraps: the action that follows it is not known yet.
        action = t.action.flatten(0, 1)
        log_prob = self.actor(features[: len(action)]).log_prob(action)

        advantage = gae(reward, self.gamma * ~t.terminal, value[:-1], value[1:], t.valid, self.gae_lambda)
        value, advantage = value[:-1].flatten(), advantage.flatten()
        valid, chosen = t.valid.flatten(), (t.valid & chosen).flatten()
        return Batch(t.obs.flatten(0, 1), action, valid, chosen, log_prob, value, advantage, advantage + value)

    def minibatch_step(self, b: Batch) -> dict[str, Tensor]:
        """One gradient step on a minibatch; what it found."""
        loss, metrics = self.loss(b)
        norm = self.opt.minimise_clipped(loss, self.optim.clip)
        return metrics | {"policy/gradient_norm": norm}

    def loss(self, b: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """-L_clip + c1 L_vf - c2 H[pi] (eq. 9)."""
        eps = self.objective.ratio_clip
        features = self.features(b.obs)
        pi = self.actor(features)
        log_ratio = pi.log_prob(b.action) - b.log_prob
        ratio = log_ratio.exp()

        policy_loss = masked_mean(surrogate_loss(ratio, b.advantage, eps), b.chosen)
        errors = value_loss(self.v(features), b.value, b.returns, self.objective.value_clip)
        mean_value_loss = masked_mean(errors, b.valid)
        entropy = masked_mean(pi.entropy(), b.chosen)
        loss = policy_loss + self.objective.value_coef * mean_value_loss - self.objective.entropy_coef * entropy

        # r - 1 - log r estimates KL(pi_old | pi) without bias, with less variance than -log r, and is never negative.
        with torch.no_grad():
            metrics = {
                "policy/loss": policy_loss.detach(),
                "policy/value_loss": mean_value_loss.detach(),
                "policy/entropy": entropy.detach(),
                "policy/kl": masked_mean(ratio - 1 - log_ratio, b.chosen),
                "policy/clip_fraction": masked_mean(((ratio - 1).abs() > eps).float(), b.chosen),
            }
        return loss, metrics

    def _anneal_lr(self) -> None:
        """Set the learning rate, which falls linearly to 0, and count the update."""
        if self.optim.anneal_updates:
            fraction = max(1 - self.updates / self.optim.anneal_updates, 0.0)
            self.opt.param_groups[0]["lr"] = self.optim.lr * fraction
        self.updates += 1


def surrogate_loss(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """[N]: -min(ratio A, clip(ratio) A) (eq. 7). Beyond the clip a move in A's direction gains nothing."""
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)


def value_loss(value: Tensor, old: Tensor, returns: Tensor, clip: float) -> Tensor:
    """[N]: squared error of the value, or of the value held within `clip` (0: unbounded) of the old one if larger."""
    clip = clip or math.inf
    clipped = old + (value - old).clamp(-clip, clip)
    return torch.max((value - returns).square(), (clipped - returns).square())


def standardised(x: Tensor, mask: Tensor) -> Tensor:
    """[N] with mean 0 and standard deviation 1 over those for which the mask holds."""
    centred = x - masked_mean(x, mask)
    return centred / (masked_mean(centred.square(), mask).sqrt() + 1e-8)


def explained_variance(batch: Batch) -> Tensor:
    """[]: fraction of the returns' variance that the old values explain; 0 where returns do not vary."""
    returns = batch.returns - masked_mean(batch.returns, batch.valid)
    residual = batch.advantage - masked_mean(batch.advantage, batch.valid)
    total = masked_mean(returns.square(), batch.valid)
    return torch.where(total > 1e-8, 1 - masked_mean(residual.square(), batch.valid) / total.clamp(min=1e-8), 0.0)
