"""CrossQ: SAC without target networks, whose critics have batch renormalisation (Bhatt et al. 2024).

An update on transitions (s, a, r, d, s') from replay:

    a' ~ pi(. | s')
    Q(s, a), Q(s', a') = one forward pass of both batches, so that the norms' moments are those of the mixture
    y     = r + gamma (1 - d) (min_k Q_k(s', a') - alpha log pi(a' | s'))      without gradients
    J_Q   = mean of sum_k (Q_k(s, a) - y)^2
    every `policy_delay` updates: J_pi and J_alpha as in SAC, with the critics' running moments

Continuous actions only, on vectors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.batch_renorm import RenormMLP
from mbrl_lab.nets.count import save_count
from mbrl_lab.policy.sac import CriticAux, SquashedGaussian, Temperature, weighted_transitions
from mbrl_lab.protocols import Policy
from mbrl_lab.types import EnvSpec, Metrics, Step

BETA1 = 0.5
"""Of Adam's moving average of the gradient (CrossQ)."""


@dataclass(frozen=True)
class CrossQCritics:
    """The critics Q_1 ... Q_K, one batched network."""

    number: int
    """K (CrossQ: 2)."""
    width: int
    """Units of a hidden layer (CrossQ: 2,048)."""


@dataclass(frozen=True)
class Renorm:
    """Batch renormalisation."""

    momentum: float
    """Of the running moments (CrossQ: 0.99)."""
    warmup: int
    """Batches of plain batch normalisation at first (CrossQ: 100,000)."""


@dataclass(frozen=True)
class CrossQOptim:
    """Adam, for all networks."""

    lr: float
    """Learning rate (CrossQ: 1e-3)."""
    policy_delay: int
    """Updates of the critics for each of the actor and alpha (CrossQ: 3)."""


class CrossQ(Policy):
    """See the top of this file. ValueError for discrete actions and for images."""

    window = 2
    n_step = 1
    learns_by_priority = True

    def __init__(
        self,
        spec: EnvSpec,
        width: int,
        depth: int,
        gamma: float,
        critic: CrossQCritics,
        renorm: Renorm,
        temperature: Temperature,
        optim: CrossQOptim,
    ) -> None:
        """
        Args:
            spec: of the environment, or of a model's features.
            width: units of a hidden layer of the actor.
            depth: hidden layers of actor and critics.
            gamma: discount.
            critic: the critics.
            renorm: batch renormalisation.
            temperature: alpha and its target.
            optim: Adam.
        """
        super().__init__()
        if spec.discrete or len(spec.obs_shape) != 1:
            raise ValueError("policy=crossq is for vectors and continuous actions: try policy=sac or ddqn")
        self.number = critic.number
        self.gamma = gamma
        self.policy_delay = optim.policy_delay
        self.dist = SquashedGaussian(spec.action_dim)
        self.target_entropy = temperature.target_of(self.dist)

        dim, norm = spec.obs_shape[0], (renorm.momentum, renorm.warmup)
        self.actor = RenormMLP(1, dim, self.dist.actor_outputs, width, depth, *norm)
        self.critic = RenormMLP(critic.number, dim + spec.action_dim, 1, critic.width, depth, *norm)
        # Its logarithm is learned, so that alpha stays above 0.
        self.log_alpha = nn.Parameter(torch.tensor(math.log(temperature.alpha)))

        self.critic_opt = Adam(self.critic.parameters(), optim.lr, beta1=BETA1)
        self.actor_opt = Adam([*self.actor.parameters(), self.log_alpha], optim.lr, beta1=BETA1)
        self.updates = 0
        save_count(self, "updates")

        # Norms use a batch's own moments only inside the losses. Acting and the target's a' use the running ones.
        self.eval()

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        return self.dist.act(self.actor_output(obs), explore)

    def actor_output(self, obs: Tensor) -> Tensor:
        """[N, D] -> [N, actor_outputs]: mean and logarithm of the standard deviation of pi(. | s)."""
        # RenormMLP is an ensemble, and the actor one of a single member.
        return self.actor(obs.unsqueeze(0)).squeeze(0)

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        return self.dist.scores(self.actor(features.unsqueeze(0)).squeeze(0))

    def update(self, steps: Step) -> Metrics:
        return self.update_weighted(steps, torch.ones_like(steps.reward[0]))[0]

    def update_weighted(self, steps: Step, importance: Tensor) -> tuple[Metrics, Tensor]:
        """One step of the critics, and every `policy_delay` of the actor; see `SAC.update_weighted`."""
        critic_loss, aux = self.critic_loss(steps, importance)
        self.critic_opt.minimise(critic_loss)
        metrics = aux.metrics

        self.updates += 1
        if self.updates % self.policy_delay == 0:
            actor_loss, actor_metrics = self.actor_loss(aux.features, aux.weight)
            self.actor_opt.minimise(actor_loss)
            metrics = metrics | actor_metrics
        return metrics, aux.td_error

    def critic_loss(self, steps: Step, importance: Tensor) -> tuple[Tensor, CriticAux]:
        """J_Q on windows [2, B] of importance [B]."""
        t, weight = weighted_transitions(steps)
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            pi = self.dist.sample(self.actor_output(t.next_obs))
        assert pi.action is not None

        # Two passes would give the norms two sets of moments, neither of which is that of the values compared.
        both = torch.cat([torch.cat([t.obs, t.action], -1), torch.cat([t.next_obs, pi.action], -1)])
        self.critic.train()
        q, next_q = self.q_values(both).chunk(2, -1)
        self.critic.eval()

        v = next_q.detach().amin(0) - alpha * pi.log_prob.squeeze(-1)
        td_error = q - (t.reward + self.gamma * ~t.terminal * v)
        loss = (td_error.square() * (importance * weight)).sum()
        metrics: Metrics = {
            "policy/critic_loss": loss.detach() / self.number,
            "policy/q": (q.detach().mean(0) * weight).sum(),
        }
        return loss, CriticAux(t.obs, weight, t.valid * td_error.detach().mean(0).abs(), metrics)

    def actor_loss(self, obs: Tensor, weight: Tensor) -> tuple[Tensor, Metrics]:
        """J_pi + J_alpha on observations [N, D] that count `weight` [N]."""
        # Only the actor's norms see this batch: the critics' moments are those of the joint batches of their own loss.
        alpha = self.log_alpha.detach().exp()
        self.actor.train()
        pi = self.dist.sample(self.actor_output(obs))
        self.actor.eval()
        assert pi.action is not None

        log_prob, q = pi.log_prob.squeeze(-1), self.q_values(torch.cat([obs, pi.action], -1)).amin(0)
        loss = ((alpha * log_prob - q) * weight).sum()
        entropy = -(log_prob * weight).sum().detach()
        metrics: Metrics = {
            "policy/actor_loss": loss.detach(),
            "policy/alpha": alpha,
            "policy/entropy": entropy,
        }
        return loss + self.log_alpha * (entropy - self.target_entropy), metrics

    def q_values(self, x: Tensor) -> Tensor:
        """[N, D + A] -> [K, N]."""
        return self.critic(x.expand(self.number, *x.shape)).squeeze(-1)
