"""ActorCritic: an actor and a critic that learn from what a world model imagines (Hafner et al. 2020, 2023)."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from mbrl_lab.dynamics.rollout import Dream, Dreamt, dream, waking
from mbrl_lab.nets.actor import Categorical, ClippedGaussian, Distribution
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.anneal import anneal, left
from mbrl_lab.nets.heads import begin_at_zero, head
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.ops import clip_norm, lambda_returns, polyak, unimix
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

LOW, HIGH, MEMORY = 0.05, 0.95, 0.99
"""Returns are measured in units of the range between these quantiles, of which so much is remembered each update."""


class Actor(nn.Module):
    """From features to a distribution over actions.

    Of discrete ones the share `unimix` is spread evenly. Continuous ones are Gaussian, of a deviation between the two
    of `std`, cut to [-1, 1].
    """

    def __init__(
        self, spec: EnvSpec, width: int, depth: int, norm: bool, unimix: float, min_std: float, max_std: float
    ) -> None:
        super().__init__()
        self.discrete, self.unimix, self.min_std, self.max_std = spec.discrete, unimix, min_std, max_std
        outputs = spec.action_dim if spec.discrete else 2 * spec.action_dim
        sizes = [spec.obs_shape[0], *[width] * depth, outputs]
        self.net = begin_at_zero(mlp(sizes, norm, activation=nn.SiLU))

    def forward(self, features: Tensor) -> Distribution:
        """[..., F] -> a distribution over actions [...]."""
        out = self.net(features).float()
        if self.discrete:
            return Categorical(unimix(out, self.unimix))
        mean, spread = out.chunk(2, -1)
        std = self.min_std + (self.max_std - self.min_std) * (spread + 2).sigmoid()
        return ClippedGaussian(mean.tanh(), std.log())


class ActorCritic(nn.Module):
    """An actor that seeks returns and entropy, a critic that foresees lambda-returns, and a slow copy of the critic
    that those begin with.

    `gradient`: `reinforce` makes actions likelier by how much better than the critic thought they turned out;
    `dynamics` climbs the returns through the model (for continuous actions). Real rows have no model to climb through:
    there it is always `reinforce`. Returns are divided by their range, where that is above 1 (Hafner et al. 2023).
    `bins`: the critic is a distribution over so many (two-hot); 0: a number, in units of 1 / (1 - gamma).
    Evaluations show the actor with the mean of its latest weights, of which each update makes the share `actor_tau`.
    In the second half of `anneal_updates` learning rates and the entropy's weight fall to a hundredth; 0: never.
    """

    updates: Tensor
    range: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        width: int,
        depth: int,
        norm: bool,
        bins: int,
        gradient: str,
        gamma: float,
        td_lambda: float,
        tau: float,
        actor_tau: float,
        entropy_coef: float,
        unimix: float,
        min_std: float,
        max_std: float,
        actor_lr: float,
        critic_lr: float,
        clip: float,
        anneal_updates: int,
    ) -> None:
        super().__init__()
        if len(spec.obs_shape) != 1:
            raise ValueError(
                f"policy=actor_critic reads vectors, or what dynamics=latent and rssm_* make of images, not images of "
                f"{spec.obs_shape}: try policy=ddqn, or algo=dreamer"
            )
        if gradient == "dynamics" and spec.discrete:
            raise ValueError("policy.gradient is 'dynamics'; it must be reinforce where actions are discrete")
        if min_std > max_std:
            raise ValueError(f"policy.min_std is {min_std}; it must be at most policy.max_std, {max_std}")
        self.gradient, self.gamma, self.td_lambda, self.tau, self.actor_tau = gradient, gamma, td_lambda, tau, actor_tau
        self.entropy_coef, self.clip, self.anneal_updates = entropy_coef, clip or math.inf, anneal_updates
        self.actor_lr, self.critic_lr = actor_lr, critic_lr
        self.actor = Actor(spec, width, depth, norm, unimix, min_std, max_std)
        self.mean_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.head = head(bins, 1 / (1 - gamma) if gamma < 1 else 1.0)
        sizes = [spec.obs_shape[0], *[width] * depth, self.head.outputs]
        self.critic = begin_at_zero(mlp(sizes, norm, activation=nn.SiLU, fp32_output=True))
        self.slow = copy.deepcopy(self.critic).requires_grad_(False)
        self.actor_opt = Adam(self.actor.parameters(), actor_lr)
        self.critic_opt = Adam(self.critic.parameters(), critic_lr)
        self.register_buffer("range", torch.zeros(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def act(self, features: Tensor, explore: bool) -> Tensor:
        return self.actor(features).sample() if explore else self.mean_actor(features).mode()

    def learn_in(self, model: Dreamt, state: Tree, horizon: int) -> Metrics:
        """Learn from `horizon` imagined steps that begin in states [B]; the model stays as it is."""
        through = self.gradient == "dynamics"
        with torch.set_grad_enabled(through):
            seen = dream(model, lambda features: self.actor(features.detach()).sample(), state, horizon)
        return self._learn(seen, through)

    def update(self, steps: Step) -> Metrics:
        return self._learn(waking(steps), through=False)

    def update_critic(self, steps: Step) -> Metrics:
        """The critic alone learns, from rows [L, B] that another policy may have made."""
        seen = waking(steps)
        target, _ = self._returns(seen)
        return {"policy/real_loss": self._judge(seen.features[:-1], target, seen.valid.float())}

    def _learn(self, seen: Dream, through: bool) -> Metrics:
        updates = int(self.updates) if self.anneal_updates else 0  # a GPU is waited for once
        for opt, lr in ((self.actor_opt, self.actor_lr), (self.critic_opt, self.critic_lr)):
            anneal(opt, lr, updates, self.anneal_updates)
        with torch.set_grad_enabled(through):
            target, value = self._returns(seen)
        self._measure(target)
        features, unit = seen.features[:-1].detach(), self.range.clamp(min=1)
        weight = seen.valid * torch.cat([torch.ones_like(seen.discount[:1]), seen.discount[:-1].detach()]).cumprod(0)
        chosen = self.actor(features)
        entropy = chosen.entropy()
        gain = target / unit if through else (target - value) / unit * chosen.log_prob(seen.action)
        loss = -(weight * (gain + left(updates, self.anneal_updates) * self.entropy_coef * entropy)).mean()
        norm = self._descend(self.actor_opt, loss)
        polyak(self.mean_actor.parameters(), self.actor.parameters(), self.actor_tau)
        critic_loss = self._judge(features, target.detach(), weight)
        self.updates += 1
        return {
            "policy/actor_loss": loss.detach(),
            "policy/critic_loss": critic_loss,
            "policy/entropy": entropy.detach().mean(),
            "policy/value": value.detach().mean(),
            "policy/return": target.detach().mean(),
            "policy/return_range": self.range.clone(),
            "policy/gradient_norm": norm,
            "policy/imagined_reward": seen.reward.detach().mean(),
            "policy/imagined_end": 1 - seen.discount.detach().mean(),
        }

    def _returns(self, seen: Dream) -> tuple[Tensor, Tensor]:
        """[H, B]: lambda-returns, and what the slow critic thought of the states they follow.

        Where no transition is, the sum of the row before begins: its return is the value of what it led to.
        """
        value = self.head.mean(self.slow(seen.features))
        reward = torch.where(seen.valid, seen.reward, value[:-1])
        discount = self.gamma * seen.discount * seen.valid
        return lambda_returns(reward, discount, value[1:], self.td_lambda), value[:-1].detach()

    def _judge(self, features: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """One gradient step of the critic, and the slow one after it; its loss."""
        loss = (weight * self.head.error(self.critic(features), target)).mean()
        self._descend(self.critic_opt, loss)
        polyak(self.slow.parameters(), self.critic.parameters(), self.tau)
        return loss.detach()

    @torch.no_grad()
    def _measure(self, target: Tensor) -> None:
        """Follow the range of returns."""
        low, high = torch.quantile(target.detach().flatten(), target.new_tensor([LOW, HIGH]))
        self.range.lerp_(high - low, 1 - MEMORY)

    def _descend(self, opt: Adam, loss: Tensor) -> Tensor:
        """A gradient step; the gradient's norm."""
        norm = clip_norm(opt.differentiate(loss), self.clip)
        opt.step()
        return norm
