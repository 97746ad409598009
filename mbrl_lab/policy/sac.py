"""SAC: soft actor-critic for continuous (Haarnoja et al. 2019) and discrete actions (Christodoulou 2019).

An update on transitions (s, a, r, d, s') from replay, d = 1 where s' is terminal; Q' are the target networks:

    a' ~ pi(. | s')
    y        = r + gamma (1 - d) (min_k Q'_k(s', a') - alpha log pi(a' | s'))     target_q, eqs. 2 and 3
    J_Q      = mean of sum_k (Q_k(s, a) - y)^2                                    critic_loss, eq. 5
    a ~ pi(. | s)
    J_pi     = mean of alpha log pi(a | s) - min_k Q_k(s, a)                      actor_loss, eq. 9
    J_alpha  = log alpha (H[pi] - target entropy)                                 alpha_loss, eq. 18
    Q'      <- (1 - tau) Q' + tau Q

Continuous actions are one draw, through which gradients flow. For discrete actions the expectation over a is an exact
sum (Christodoulou, eqs. 10 to 12). Equations are those of "Soft actor-critic algorithms and applications".
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.adam import Adam
from mbrl_lab.nets.encoder import MakeEncoder
from mbrl_lab.nets.ensemble import uniform
from mbrl_lab.nets.heads import make_head
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.nets.normalise import Normaliser
from mbrl_lab.nets.precision import fp32_if_small
from mbrl_lab.ops import polyak
from mbrl_lab.protocols import Policy
from mbrl_lab.types import EnvSpec, Metrics, Step, Transition

LOG_STD = (-20.0, 2.0)
"""Bounds of the logarithm of the standard deviation, as in the authors' code."""


@dataclass(frozen=True)
class Critics:
    """The critics Q_1 ... Q_K, one batched network. ValueError for a subset that is none of them."""

    number: int
    """K: 2 in SAC, 10 in REDQ."""
    target_subset: int | None
    """So many critics, drawn at each update, make the target, and the actor maximises the mean of all K (REDQ, Chen et
    al. 2021). None: the least of all K serves both."""
    norm: bool
    """Layer norm before each activation (DroQ, Hiraoka et al. 2022)."""
    dropout: float
    """Probability, before the layer norm (DroQ: 0.01)."""
    bins: int = 0
    """Values are a distribution over so many bins (two-hot, odd); 0: a number."""

    def __post_init__(self) -> None:
        n = self.target_subset
        if n is not None and not (isinstance(n, int) and 1 <= n <= self.number):
            allowed = f"null or a whole number from 1 to policy.critic.number, {self.number}"
            raise ValueError(f"policy.critic.target_subset is {n!r}; it must be {allowed}")


@dataclass(frozen=True)
class Temperature:
    """The weight of entropy, alpha, and the entropy at which it settles. ValueError for a target that is no number."""

    alpha: float
    """At the start."""
    target_entropy: float | None
    """In nats. None: -A for A continuous dimensions, `entropy_fraction` * log A for A discrete actions."""
    entropy_fraction: float
    """Of the largest entropy of discrete actions (Christodoulou: 0.98)."""

    def __post_init__(self) -> None:
        target = self.target_entropy
        if target is not None and not (isinstance(target, int | float) and math.isfinite(target)):
            raise ValueError(f"policy.temperature.target_entropy is {target!r}; it must be null or a number of nats")

    def target_of(self, dist: ActionDist) -> float:
        """The entropy at which alpha settles, for a distribution over actions."""
        return dist.default_target_entropy if self.target_entropy is None else self.target_entropy


@dataclass(frozen=True)
class SACOptim:
    """Adam's learning rates."""

    actor_lr: float
    critic_lr: float
    alpha_lr: float
    """0: alpha keeps its initial value."""


class ActionSample(NamedTuple):
    """Actions from pi(. | s) in N states, with gradients: one draw (C = 1), or all C discrete actions."""

    action: Tensor | None  # [N, A] drawn; None: all discrete actions
    prob: Tensor  # [N, C]; [1] for a draw
    log_prob: Tensor  # [N, C]

    def expectation(self, x: Tensor) -> Tensor:
        """[N, C] -> [N]: E over actions of x(s, a)."""
        return (self.prob * x).sum(-1)


class ActionDist(Protocol):
    """How pi(. | s) is read from the actor's output, and what Q(s, a) looks like for such actions."""

    actor_outputs: int
    critic_inputs: int
    """Beside the features."""
    critic_outputs: int
    default_target_entropy: float

    def act(self, out: Tensor, explore: bool) -> Tensor:
        """[N, actor_outputs] -> [N] actions: drawn, or for evaluations tanh of the mean, or the most likely one."""

    def scores(self, out: Tensor) -> Tensor:
        """[N, actor_outputs] -> [N, A]: as in `Policy.scores`."""

    def sample(self, out: Tensor) -> ActionSample:
        """[N, actor_outputs] -> actions with their log-probabilities."""

    def critic_input(self, features: Tensor, action: Tensor | None) -> Tensor:
        """[N, D] features and actions -> [N, D + critic_inputs]."""

    def q_of(self, q: Tensor, action: Tensor) -> Tensor:
        """[K, N, critic_outputs, ...] -> [K, N, ...]: Q(s, a) of actions [N]."""


class SquashedGaussian:
    """Continuous actions a = tanh(u), u = mean + std * noise (Haarnoja et al. 2019, appendix C)."""

    def __init__(self, action_dim: int) -> None:
        self.actor_outputs = 2 * action_dim
        self.critic_inputs = action_dim
        self.critic_outputs = 1
        self.default_target_entropy = -float(action_dim)

    def act(self, out: Tensor, explore: bool) -> Tensor:
        mean, log_std = self._mean_and_log_std(out)
        return (mean + log_std.exp() * torch.randn_like(mean) if explore else mean).tanh()

    def scores(self, out: Tensor) -> Tensor:
        return self._mean_and_log_std(out)[0].tanh()

    def sample(self, out: Tensor) -> ActionSample:
        mean, log_std = self._mean_and_log_std(out)
        noise = torch.randn_like(mean)
        u = mean + log_std.exp() * noise

        # log pi(a) = log N(u) - log(1 - tanh(u)^2). The latter is 2 (log 2 - u - softplus(-2 u)), exact for any u,
        # where the usual log(1 - tanh(u)^2 + eps) is wrong once tanh(u) rounds to 1.
        log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        log_prob = log_normal - 2 * (math.log(2) - u - F.softplus(-2 * u))
        return ActionSample(u.tanh(), log_prob.new_ones(1), log_prob.sum(-1, keepdim=True))

    def critic_input(self, features: Tensor, action: Tensor | None) -> Tensor:
        assert action is not None
        return torch.cat([features, action], -1)

    def q_of(self, q: Tensor, action: Tensor) -> Tensor:
        return q.squeeze(2)

    def _mean_and_log_std(self, out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = out.float().chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)


class Categorical:
    """Discrete actions: every critic gives the values of all, so expectations are exact (Christodoulou 2019)."""

    def __init__(self, action_dim: int, entropy_fraction: float) -> None:
        self.actor_outputs = action_dim
        self.critic_inputs = 0
        self.critic_outputs = action_dim
        self.default_target_entropy = entropy_fraction * math.log(action_dim)

    def act(self, out: Tensor, explore: bool) -> Tensor:
        logits = out.float()
        return torch.multinomial(logits.softmax(-1), 1).squeeze(-1) if explore else logits.argmax(-1)

    def scores(self, out: Tensor) -> Tensor:
        return out.float().log_softmax(-1)

    def sample(self, out: Tensor) -> ActionSample:
        log_prob = out.float().log_softmax(-1)
        return ActionSample(None, log_prob.exp(), log_prob)

    def critic_input(self, features: Tensor, action: Tensor | None) -> Tensor:
        return features

    def q_of(self, q: Tensor, action: Tensor) -> Tensor:
        index = action.expand(len(q), -1).view(*q.shape[:2], *[1] * (q.ndim - 2))
        return q.take_along_dim(index, 2).squeeze(2)


class CriticAux(NamedTuple):
    """What `critic_loss` finds beside the loss, for N transitions and without gradients."""

    features: Tensor  # [N, D]
    weight: Tensor  # [N]: 1 / number of valid transitions; 0 where not valid
    td_error: Tensor  # [N]: size of the critics' mean error
    metrics: Metrics


class SAC(Policy):
    """See the top of this file. The encoder learns from the critics alone."""

    window: int | None = 2
    """Steps in a window of replay: one transition."""
    n_step = 1
    learns_by_priority = True
    estimates_value = True
    learns_jointly = True
    compilable: tuple[str, ...] = ("critic_loss", "actor_loss")

    def __init__(
        self,
        spec: EnvSpec,
        encoder: MakeEncoder,
        normalise_obs: bool,
        width: int,
        depth: int,
        gamma: float,
        tau: float,
        critic: Critics,
        temperature: Temperature,
        optim: SACOptim,
    ) -> None:
        """
        Args:
            spec: of the environment, or of a model's features.
            encoder: makes the encoder of observations, which actor and critics share.
            normalise_obs: whether vectors are standardised by the moments of real observations.
            width: units of a hidden layer of actor and critics.
            depth: hidden layers.
            gamma: discount.
            tau: fraction of the way that target networks move at each update (SAC: 0.005).
            critic: the ensemble of critics.
            temperature: alpha and its target.
            optim: Adam's learning rates.
        """
        super().__init__()
        self.critics = critic
        self.gamma = gamma
        self.tau = tau
        self.dist: ActionDist = (
            Categorical(spec.action_dim, temperature.entropy_fraction)
            if spec.discrete
            else SquashedGaussian(spec.action_dim)
        )
        self.target_entropy = temperature.target_of(self.dist)

        # Networks. The critics' last layer is float32 even in bf16, which has every second number near 500 only.
        self.encoder = encoder(spec)
        # Images need none: they are bytes, which their encoder scales.
        vectors = spec.obs_dtype == torch.float32 and len(spec.obs_shape) == 1
        self.normalises = normalise_obs and vectors
        self.inputs = Normaliser(spec.obs_shape[0]) if self.normalises else None
        dim = self.encoder.dim
        self.head = make_head(critic.bins)
        self.actor = mlp([dim, *[width] * depth, self.dist.actor_outputs])
        self.critic = EnsembleMLP(
            critic.number,
            dim + self.dist.critic_inputs,
            self.dist.critic_outputs * self.head.outputs,
            width,
            depth,
            F.relu,
            critic.norm,
            critic.dropout,
            uniform,
            fp32_output=True,
        )
        if critic.bins:
            # Without zero logits the first values would be those of the outer bins, which are huge.
            with torch.no_grad():
                self.critic.weights[-1].zero_()
                self.critic.biases[-1].zero_()
        self.target_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        # Its logarithm is learned, so that alpha stays above 0.
        self.log_alpha = nn.Parameter(torch.tensor(math.log(temperature.alpha)))

        # The actor and alpha share an optimiser: a step of two costs more than one of both.
        actor_groups: list[dict[str, Any]] = [
            {"params": self.actor.parameters()},
            {"params": [self.log_alpha], "lr": optim.alpha_lr},
        ]
        self.critic_opt = Adam([*self.encoder.parameters(), *self.critic.parameters()], optim.critic_lr)
        self.actor_opt = Adam(actor_groups, optim.actor_lr)

    @torch.no_grad()
    def act(self, obs: Tensor, explore: bool) -> Tensor:
        return self.dist.act(fp32_if_small(self.actor, self.encode(obs)), explore)

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        return self.dist.scores(fp32_if_small(self.actor, self.encode(features)))

    @torch.no_grad()
    def value(self, features: Tensor) -> Tensor:
        """[B]: Q of the action of evaluations, as the actor's loss reads the critics.

        It is a soft value: the entropy of later steps counts. Dropout, which is for updates, does not.
        """
        encoded = self.encode(features)
        action = self.dist.act(self.actor(encoded), False)
        # Critics of discrete actions read none, as they give the values of all.
        training = self.critic.training
        self.critic.eval()
        q = self.q_values(self.critic, encoded, None if self.dist.critic_inputs == 0 else action)
        self.critic.train(training)
        return self.actor_q(self.dist.q_of(q, action))

    def update(self, steps: Step) -> Metrics:
        return self.update_weighted(steps, torch.ones_like(steps.reward[0]))[0]

    def update_weighted(self, steps: Step, importance: Tensor) -> tuple[Metrics, Tensor]:
        """One step of all networks on windows [2, B]; importance [B] weighs the critics' loss. Also TD errors [B]."""
        critic_loss, aux = self.critic_loss(steps, importance)
        self.critic_opt.minimise(critic_loss)

        # The actor follows the critics as they are after their step.
        actor_loss, metrics = self.actor_loss(aux.features, aux.weight)
        self.actor_opt.minimise(actor_loss)

        self.update_targets()
        return aux.metrics | metrics, aux.td_error

    def update_targets(self) -> None:
        """Q' <- (1 - tau) Q' + tau Q."""
        # In the order in which the optimiser holds encoder and critics.
        targets = [*self.target_encoder.parameters(), *self.target_critic.parameters()]
        polyak(targets, self.critic_opt.param_groups[0]["params"], self.tau)

    @torch.no_grad()
    def fit_normaliser(self, obs: Tensor) -> None:
        """Standardise inputs by the moments of real observations [N, D] from now on."""
        assert self.inputs is not None
        self.inputs.fit(obs)

    def standardised(self, obs: Tensor) -> Tensor:
        """Observations as the networks read them."""
        return obs if self.inputs is None else self.inputs(obs)

    def encode(self, obs: Tensor) -> Tensor:
        """[..., D]: features of observations, by the online encoder."""
        return self.encoder(self.standardised(obs))

    def critic_loss(self, steps: Step, importance: Tensor) -> tuple[Tensor, CriticAux]:
        """J_Q (eq. 5): squared errors, summed over critics, averaged over valid transitions."""
        t, weight = weighted_transitions(steps)
        return self.td_loss(t, weight, importance)

    def td_loss(self, t: Transition, weight: Tensor, importance: Tensor | float = 1.0) -> tuple[Tensor, CriticAux]:
        """J_Q of N transitions that count `weight` [N]; with bins the cross-entropy takes the squared error's place."""
        features = self.encode(t.obs)
        out = self.dist.q_of(self.q_outputs(self.critic, features, t.action), t.action)
        q, target = self.head.mean(out), self.target_q(t, self.log_alpha.detach().exp())
        td_error = q - target
        # A sum over critics, so that each takes the same steps however many there are.
        loss = (self.head.loss(out, target.expand_as(q)) * (importance * weight)).sum()

        metrics: Metrics = {
            "policy/critic_loss": loss.detach() / self.critics.number,
            "policy/q": (q.detach().mean(0) * weight).sum(),
        }
        return loss, CriticAux(features.detach(), weight, t.valid * td_error.detach().mean(0).abs(), metrics)

    @torch.no_grad()
    def target_q(self, t: Transition, alpha: Tensor) -> Tensor:
        """[N]: y = r + gamma (1 - d) E[min_k Q'_k(s', a') - alpha log pi(a' | s')] (eqs. 2 and 3)."""
        # The actor reads the online encoder, as it does when it acts; target critics read theirs.
        next_obs = self.standardised(t.next_obs)
        pi = self.dist.sample(self.actor(self.encoder(next_obs)))
        q = self.q_values(self.target_critic, self.target_encoder(next_obs), pi.action)
        v = pi.expectation(self.least_of(q) - alpha * pi.log_prob)
        return t.reward + self.gamma * ~t.terminal * v

    def least_of(self, q: Tensor) -> Tensor:
        """[K, ...] -> [...]: the least of all critics, or of `target_subset` of them, drawn each time."""
        if self.critics.target_subset is not None:
            q = q[torch.randperm(len(q), device=q.device)[: self.critics.target_subset]]
        return q.amin(0)

    def actor_q(self, q: Tensor) -> Tensor:
        """[K, ...] -> [...]: what the actor maximises, the least of all critics, or their mean with a subset (REDQ)."""
        return q.amin(0) if self.critics.target_subset is None else q.mean(0)

    def actor_loss(self, features: Tensor, weight: Tensor) -> tuple[Tensor, Metrics]:
        """J_pi + J_alpha (eqs. 9 and 18) on features [N, D] that count `weight` [N]."""
        # Neither alpha nor the critics learn from J_pi: alpha is a constant in it, and the optimiser has no critic.
        alpha = self.log_alpha.detach().exp()
        pi = self.dist.sample(self.actor(features))
        q = self.actor_q(self.q_values(self.critic, features, pi.action))
        loss = (pi.expectation(alpha * pi.log_prob - q) * weight).sum()
        entropy = (-pi.expectation(pi.log_prob) * weight).sum().detach()
        metrics: Metrics = {"policy/actor_loss": loss.detach(), "policy/alpha": alpha, "policy/entropy": entropy}
        return loss + self.alpha_loss(entropy), metrics

    def alpha_loss(self, entropy: Tensor) -> Tensor:
        """J_alpha (eq. 18), in log alpha as in the authors' code: alpha falls while the entropy is above its target."""
        return self.log_alpha * (entropy - self.target_entropy)

    def q_values(self, critic: EnsembleMLP, features: Tensor, action: Tensor | None) -> Tensor:
        """[K, N, C]: Q_k(s, a) for features [N, D] and actions; C is 1, or all discrete actions."""
        return self.head.mean(self.q_outputs(critic, features, action))

    def q_outputs(self, critic: EnsembleMLP, features: Tensor, action: Tensor | None) -> Tensor:
        """[K, N, C, O]: the same as outputs of the critics, O numbers each."""
        x = self.dist.critic_input(features, action)
        return critic(x.expand(self.critics.number, *x.shape)).unflatten(-1, (-1, self.head.outputs))


def weighted_transitions(steps: Step) -> tuple[Transition, Tensor]:
    """Windows [2, B] as N transitions, and the weight [N] of each in a mean over the valid ones."""
    t = Transition(*(x.flatten(0, 1) for x in steps.transitions()))
    # Transitions across a boundary get weight 0; without them shapes would change, and compiled code with them.
    return t, t.valid / t.valid.sum().clamp(min=1)
