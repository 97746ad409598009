"""SAC: soft actor-critic for continuous (Haarnoja et al. 2018) and discrete actions (Christodoulou 2019)."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.ensemble import uniform
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.precision import affordable
from mbrl_lab.ops import polyak
from mbrl_lab.policy.soft import Categorical, Choices, SoftActor, SquashedGaussian
from mbrl_lab.types import EnvSpec, Metrics, Step, Transition


class Judged(NamedTuple):
    """What the critics' part of an update finds on N transitions, without gradients."""

    features: Tensor  # [N, D]
    weight: Tensor  # [N]: the same for each that is valid, one together
    error: Tensor  # [N]: sizes of the critics' mean errors
    metrics: Metrics


class SAC(nn.Module):
    """An actor that seeks value and entropy, and `critics` that judge it; the least of them counts.

    With `target_subset` the target is the least of so many critics drawn at each update, and the actor climbs the mean
    of all (REDQ, Chen et al. 2021). `norm` and `dropout` are the critics' (DroQ, Hiraoka et al. 2022). The encoder
    learns from the critics. `target_entropy` in nats; null: minus the number of dimensions of continuous actions, the
    share `entropy_share` of log(number of actions) for discrete ones. `alpha` stays as it is if `alpha_lr` is 0.
    """

    window = 2
    compilable = ("critic_loss", "actor_loss")

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        width: int,
        depth: int,
        critics: int,
        target_subset: int | None,
        norm: bool,
        dropout: float,
        gamma: float,
        tau: float,
        actor_lr: float,
        critic_lr: float,
        alpha_lr: float,
        alpha: float,
        target_entropy: float | None,
        entropy_share: float,
    ) -> None:
        super().__init__()
        refuse(critics, target_subset, target_entropy)
        self.critics, self.target_subset, self.gamma, self.tau = critics, target_subset, gamma, tau
        self.kind: SoftActor = (
            Categorical(spec.action_dim, entropy_share) if spec.discrete else SquashedGaussian(spec.action_dim)
        )
        self.target_entropy = self.kind.target_entropy if target_entropy is None else target_entropy
        self.encoder = encoder(spec)
        dim = self.encoder.dim
        self.actor = mlp([dim, *[width] * depth, self.kind.outputs])
        self.critic = EnsembleMLP(
            critics, dim + self.kind.inputs, self.kind.answers, width, depth, F.relu, norm, dropout, uniform, True
        )
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_alpha = nn.Parameter(torch.tensor(math.log(alpha)))
        judges = [*self.encoder.parameters(), *self.critic.parameters()]
        others: list[dict[str, Any]] = [
            {"params": self.actor.parameters()},
            {"params": [self.log_alpha], "lr": alpha_lr},
        ]
        self.critic_opt = Adam(judges, critic_lr)
        self.actor_opt = Adam(others, actor_lr)

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        return self.kind.act(affordable(self.actor, self.encoder(obs)), explore)

    def update(self, steps: Step) -> Metrics:
        return self.update_weighted(steps, torch.ones_like(steps.reward[0]))[0]

    def update_weighted(self, steps: Step, importance: Tensor) -> tuple[Metrics, Tensor]:
        """The critics' loss is weighed by importance [B]; the sizes [B] of their mean errors come back."""
        critic_loss, seen = self.critic_loss(steps, importance)
        self.critic_opt.differentiate(critic_loss)
        self.critic_opt.step()
        actor_loss, metrics = self.actor_loss(seen.features, seen.weight)
        self.actor_opt.differentiate(actor_loss)
        self.actor_opt.step()
        targets = [*self.target_encoder.parameters(), *self.target_critic.parameters()]
        polyak(targets, self.critic_opt.param_groups[0]["params"], self.tau)
        return seen.metrics | metrics, seen.error

    def critic_loss(self, steps: Step, importance: Tensor) -> tuple[Tensor, Judged]:
        """Of rows [2, B] that count `importance` [B]: a loss, and what else was found."""
        t = Transition(*(x.flatten(0, 1) for x in steps.transitions()))
        weight = t.valid / t.valid.sum().clamp(min=1)
        features = self.encoder(t.obs)
        q = self.kind.taken(self.judge(self.critic, features, t.action), t.action)
        error = q - self.returns(t, self.log_alpha.detach().exp())
        loss = (error.square() * (importance * weight)).sum()
        metrics: Metrics = {
            "policy/critic_loss": loss.detach() / self.critics,
            "policy/q": (q.detach().mean(0) * weight).sum(),
        }
        return loss, Judged(features.detach(), weight, t.valid * error.detach().mean(0).abs(), metrics)

    def actor_loss(self, features: Tensor, weight: Tensor) -> tuple[Tensor, Metrics]:
        """Of features [N, D] that count `weight` [N]: a loss of actor and temperature."""
        alpha = self.log_alpha.detach().exp()
        choices = self.kind.consider(self.actor(features))
        loss = (self.regret(features, choices, alpha) * weight).sum()
        entropy = (-choices.expect(choices.logp) * weight).sum().detach()
        metrics: Metrics = {"policy/actor_loss": loss.detach(), "policy/alpha": alpha, "policy/entropy": entropy}
        return loss + self.log_alpha * (entropy - self.target_entropy), metrics

    def judge(self, critic: EnsembleMLP, features: Tensor, action: Tensor | None) -> Tensor:
        """[N, D] features and actions -> [K, N, C]: what each critic says."""
        asked = self.kind.question(features, action)
        return critic(asked.expand(self.critics, *asked.shape))

    @torch.no_grad()
    def returns(self, t: Transition, alpha: Tensor) -> Tensor:
        """[N]: what critics should say: reward, and unless the value ends the soft value of what comes next."""
        choices = self.kind.consider(self.actor(self.encoder(t.next_obs)))
        q = self.judge(self.target_critic, self.target_encoder(t.next_obs), choices.action)
        if self.target_subset is not None:
            q = q[torch.randperm(self.critics, device=q.device)[: self.target_subset]]
        value = choices.expect(q.amin(0) - alpha * choices.logp)
        return t.reward + self.gamma * ~t.terminal * value

    def regret(self, features: Tensor, choices: Choices, alpha: Tensor) -> Tensor:
        """[N]: what the actor makes small, the mean of alpha log p - Q over its actions."""
        q = self.judge(self.critic, features, choices.action)
        q = q.amin(0) if self.target_subset is None else q.mean(0)
        return choices.expect(alpha * choices.logp - q)


def refuse(critics: int, target_subset: int | None, target_entropy: float | None) -> None:
    """ValueError for settings that no rule by themselves can judge."""
    if target_subset is not None and not (isinstance(target_subset, int) and 1 <= target_subset <= critics):
        allowed = f"null or a whole number from 1 to policy.critics, {critics}"
        raise ValueError(f"policy.target_subset is {target_subset!r}; it must be {allowed}")
    if target_entropy is not None and not (isinstance(target_entropy, int | float) and math.isfinite(target_entropy)):
        raise ValueError(f"policy.target_entropy is {target_entropy!r}; it must be null or a number of nats")
