"""ActorCritic: DreamerV3's actor and critic, which learn from imagined rollouts (Hafner et al. 2020, 2023).

An update on an imagined rollout of H steps with features s_t, actions a_t, rewards r_t and continue probabilities c_t;
V' is the target critic, an exponential moving average of V:

    R_t    = r_t + gamma c_t ((1 - lambda) V'(s_t+1) + lambda R_t+1), R_H = V'(s_H)          lambda-returns, eq. 5
    S      = EMA of the 95th - the 5th percentile of R                                       return range, eq. 7
    w_t    = c_0 c_1 ... c_t-1                                                               probability to get to s_t
    L_pi   = -mean of w_t ((R_t - V'(s_t)) / max(1, S) log pi(a_t | s_t) + eta H[pi])        actor_loss, eq. 6
    L_V    = mean of -w_t ln p(R_t | s_t), two-hot, or of w_t (V(s_t) - R_t)^2               critic_loss, eq. 5
    V'    <- (1 - tau) V' + tau V

Equations are those of Hafner et al. (2023), version 2 on arXiv. With `gradient: dynamics` the actor maximises
R_t / max(1, S) itself, by gradients through the model (Hafner et al. 2020, eq. 7), for continuous actions.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbrl_lab.nets.actor import Categorical, ClippedGaussian, Distribution
from mbrl_lab.nets.adam import Adam, anneal, annealing_factor
from mbrl_lab.nets.count import save_count
from mbrl_lab.nets.heads import make_head, zero_output
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.ops import lambda_returns, polyak, unimix
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.types import EnvSpec, Metrics, Step, Trajectory, Tree

PERCENTILES = (0.05, 0.95)
"""Of the returns, whose distance is the return range."""

RANGE_DECAY = 0.99
"""Of the return range's moving average, at each update."""

UNIMIX = 0.01
"""Fraction of discrete actions' probability that is spread evenly (DreamerV3)."""

STD = (0.1, 1.0)
"""Bounds of the standard deviation of continuous actions (DreamerV3)."""

LAMBDA = 0.95
"""Of lambda-returns (DreamerV3). 0: returns of one step; 1: of all steps to come."""


@dataclass(frozen=True)
class ActorCriticOptim:
    """Adam, for actor and critic."""

    actor_lr: float
    critic_lr: float
    clip: float
    """Largest norm of a gradient. 0: not clipped."""
    anneal_updates: int
    """Updates in whose second half learning rates and the entropy's weight fall to a hundredth. 0: never."""
    actor_tau: float
    """Fraction by which the averaged actor, which evaluations use, moves at each update. 1: the actor itself."""


class Actor(nn.Module):
    """Features [..., F] -> a distribution over actions [...]; continuous ones are a Gaussian clipped to [-1, 1]."""

    def __init__(self, spec: EnvSpec, width: int, depth: int, norm: bool) -> None:
        super().__init__()
        self.discrete = spec.discrete
        outputs = spec.action_dim if spec.discrete else 2 * spec.action_dim
        self.net = zero_output(mlp([spec.obs_shape[0], *[width] * depth, outputs], norm, activation=nn.SiLU))

    def forward(self, features: Tensor) -> Distribution:
        out = self.net(features).float()
        if self.discrete:
            return Categorical(unimix(out, UNIMIX))
        low, high = STD
        mean, raw_std = out.chunk(2, -1)
        # The network's first outputs are 0; with 2 added the standard deviation starts near its upper bound.
        std = low + (high - low) * (raw_std + 2).sigmoid()
        return ClippedGaussian(mean.tanh(), std.log())


class ActorCritic(Policy):
    """See the top of this file. ValueError for images, and for gradients through the model of discrete actions."""

    return_range: Tensor
    learns_in_imagination = True

    def __init__(
        self,
        spec: EnvSpec,
        width: int,
        depth: int,
        norm: bool,
        bins: int,
        gradient: str,
        gamma: float,
        tau: float,
        entropy_coef: float,
        optim: ActorCriticOptim,
    ) -> None:
        """
        Args:
            spec: of features, i.e. vectors.
            width: units of a hidden layer of actor and critic.
            depth: hidden layers.
            norm: layer norm before each activation.
            bins: the critic is a distribution over so many returns (two-hot); 0: a number, in units of 1 / (1 - gamma).
            gradient: of the actor: reinforce | dynamics.
            gamma: discount.
            tau: fraction of the way that the target critic moves at each update.
            entropy_coef: eta.
            optim: Adam, and the averaging of the actor's weights.
        """
        super().__init__()
        if len(spec.obs_shape) != 1:
            raise ValueError(
                f"policy=actor_critic reads vectors, or features of dynamics=latent and rssm_*, not images of "
                f"{spec.obs_shape}: try policy=ddqn, or algo=dreamer"
            )
        if gradient == "dynamics" and spec.discrete:
            raise ValueError("policy.gradient is 'dynamics'; it must be reinforce where actions are discrete")
        self.gradient = gradient
        self.gamma = gamma
        self.tau = tau
        self.entropy_coef = entropy_coef
        self.optim = optim

        self.actor = Actor(spec, width, depth, norm)
        self.averaged_actor = copy.deepcopy(self.actor).requires_grad_(False)
        # A critic of numbers is in units of the largest return of rewards up to 1, so that its outputs are near 1.
        self.head = make_head(bins, 1 / (1 - gamma) if gamma < 1 else 1.0)
        sizes = [spec.obs_shape[0], *[width] * depth, self.head.outputs]
        self.critic = zero_output(mlp(sizes, norm, activation=nn.SiLU, fp32_output=True))
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)

        self.actor_opt = Adam(self.actor.parameters(), optim.actor_lr)
        self.critic_opt = Adam(self.critic.parameters(), optim.critic_lr)
        self.register_buffer("return_range", torch.zeros(()))
        self.updates = 0
        save_count(self, "updates")

    @torch.no_grad()
    def act(self, features: Tensor, explore: bool) -> Tensor:
        return self.actor(features).sample() if explore else self.averaged_actor(features).mode()

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        return self.averaged_actor(features).scores()

    def learn_in(self, model: WorldModel, state: Tree, horizon: int) -> Metrics:
        """Learn from `horizon` imagined steps that begin in states [B]; the model gets no gradients."""
        # With the actor's input detached a return's gradient reaches an action only through the model, not through the
        # actor's later reactions to it.
        with torch.set_grad_enabled(self.gradient == "dynamics"):
            imagined = model.imagine_trajectory(lambda x: self.actor(x.detach()).sample(), state, horizon)
        return self._learn(imagined, self.gradient)

    def update(self, steps: Step) -> Metrics:
        """Learn from steps [H + 1, B] whose observations are features. There is no model to differentiate through."""
        return self._learn(steps.trajectory(), "reinforce")

    def update_critic(self, steps: Step) -> Metrics:
        """The critic alone learns, from steps [H + 1, B] that another policy may have made."""
        real = steps.trajectory()
        returns, _ = self.returns_and_values(real)
        return {"policy/real_critic_loss": self._critic_step(real.features[:-1], returns, real.valid.float())}

    def _learn(self, rollout: Trajectory, gradient: str) -> Metrics:
        """A step of actor and critic on a rollout; `gradient` as in the constructor."""
        # Learning rates.
        for opt, lr in ((self.actor_opt, self.optim.actor_lr), (self.critic_opt, self.optim.critic_lr)):
            anneal(opt, lr, self.updates, self.optim.anneal_updates)

        # Targets. Their gradients are only needed to go through the model.
        with torch.set_grad_enabled(gradient == "dynamics"):
            returns, value = self.returns_and_values(rollout)
        self._update_return_range(returns)
        features = rollout.features[:-1].detach()
        weight = rollout.valid * reach_probability(rollout.cont)

        # Actor.
        eta = annealing_factor(self.updates, self.optim.anneal_updates) * self.entropy_coef
        loss, entropy = self.actor_loss(rollout, features, returns, value, weight, eta, gradient)
        norm = self.actor_opt.minimise_clipped(loss, self.optim.clip)
        polyak(self.averaged_actor.parameters(), self.actor.parameters(), self.optim.actor_tau)

        # Critic, on the same targets.
        critic_loss = self._critic_step(features, returns.detach(), weight)
        self.updates += 1
        return {
            "policy/actor_loss": loss.detach(),
            "policy/critic_loss": critic_loss,
            "policy/entropy": entropy.detach().mean(),
            "policy/value": value.detach().mean(),
            "policy/return": returns.detach().mean(),
            "policy/return_range": self.return_range.clone(),
            "policy/gradient_norm": norm,
            "policy/imagined_reward": rollout.reward.detach().mean(),
            "policy/imagined_termination": 1 - rollout.cont.detach().mean(),
        }

    def returns_and_values(self, rollout: Trajectory) -> tuple[Tensor, Tensor]:
        """[H, B] each: lambda-returns R_t (eq. 5), and V'(s_t)."""
        value = self.head.mean(self.target_critic(rollout.features))

        # A step that is no transition cuts the sum: its return is V' of the state where the episode was left.
        reward = torch.where(rollout.valid, rollout.reward, value[:-1])
        discount = self.gamma * rollout.cont * rollout.valid
        return lambda_returns(reward, discount, value[1:], LAMBDA), value[:-1].detach()

    def actor_loss(
        self,
        rollout: Trajectory,
        features: Tensor,
        returns: Tensor,
        value: Tensor,
        weight: Tensor,
        eta: float,
        gradient: str,
    ) -> tuple[Tensor, Tensor]:
        """L_pi (eq. 6), and entropies [H, B]."""
        pi = self.actor(features)
        entropy = pi.entropy()
        # Returns are scaled down but never up, as that would scale up noise where rewards are sparse.
        scale = self.return_range.clamp(min=1)
        if gradient == "dynamics":
            objective = returns / scale
        else:
            objective = (returns - value) / scale * pi.log_prob(rollout.action)
        return -(weight * (objective + eta * entropy)).mean(), entropy

    def _critic_step(self, features: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        """A gradient step of the critic on L_V (eq. 5), and its target network's; the loss."""
        loss = (weight * self.head.loss(self.critic(features), returns)).mean()
        self.critic_opt.minimise_clipped(loss, self.optim.clip)
        polyak(self.target_critic.parameters(), self.critic.parameters(), self.tau)
        return loss.detach()

    @torch.no_grad()
    def _update_return_range(self, returns: Tensor) -> None:
        """S (eq. 7)."""
        low, high = torch.quantile(returns.detach().flatten(), returns.new_tensor(PERCENTILES))
        self.return_range.lerp_(high - low, 1 - RANGE_DECAY)


def reach_probability(cont: Tensor) -> Tensor:
    """[H, B]: w_t, the probability that an episode with continue probabilities c_t [H, B] gets to step t."""
    return torch.cat([torch.ones_like(cont[:1]), cont[:-1].detach()]).cumprod(0)
