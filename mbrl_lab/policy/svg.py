"""SVG: soft actor-critic whose actor and critics look `horizon` steps ahead in a differentiable world model.

An update on an imagined rollout of H steps from states s_0, with a_t ~ pi(. | s_t), rewards r_t and continue
probabilities c_t; Q' are the target critics:

    G_H    = Q(s_H, a_H)                                            mean of the online critics
    G_t    = r_t + gamma c_t (G_t+1 - alpha log pi(a_t+1 | s_t+1))
    J_pi   = mean of alpha log pi(a_0 | s_0) - G_0                  actor_loss; gradients through model and policy
    y      = G_0 with min_k Q'_k(s_H, a_H) at the end               expanded_return: a constant; k of `target_subset`
    J_Q    = mean of sum_k (Q_k(s_0, a_0) - y)^2                    expansion_loss
    J_alpha as in SAC, with the entropy at all s_t, weighted by w_t = c_0 ... c_t-1, the probability to get there
    Q' as in SAC

Critics predict where in [low, high] a value lies, and the target's last value is clipped to it: see ValueRange.

The actor's loss is that of stochastic value gradients (Heess et al. 2015; with entropy: Amos et al. 2021), the target
is model-based value expansion (Feinberg et al. 2018). Unlike theirs, all actions are the policy's and all rewards the
model's: no real transition trains the critics (Kubo et al. 2025). With H = 1 the critics' target is SAC's, on an
imagined transition. Target critics read the online encoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.policy.actor_critic import reach_probability
from mbrl_lab.policy.sac import SAC, ActionSample, SACOptim
from mbrl_lab.policy.value_range import ValueRange
from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import EnvSpec, Metrics, Trajectory, Tree


@dataclass(frozen=True)
class SVGOptim(SACOptim):
    """Adam. The actor's gradient goes through the model at every step, so its norm is clipped."""

    clip: float
    """Largest norm of the actor's gradient. 0: not clipped."""


class SoftRollout(NamedTuple):
    """An imagined rollout of the policy, with what entropy adds."""

    steps: Trajectory
    log_prob: Tensor  # [H + 1, B]: log pi(a_t | s_t)
    last_action: Tensor  # [B, A]: a_H

    def soft_reward(self, alpha: Tensor) -> Tensor:
        """[H, B]: w_t (r_t - alpha log pi(a_t | s_t))."""
        return self.reach()[:-1] * (self.steps.reward - alpha * self.log_prob[:-1])

    def reach(self) -> Tensor:
        """[H + 1, B]: w_t, the probability that the episode gets to s_t."""
        cont = self.steps.cont
        return reach_probability(torch.cat([cont, cont[-1:]]))


class SVG(SAC):
    """See the top of this file. ValueError for discrete actions, which pass no gradients."""

    window = None
    learns_through_model = True
    learns_jointly = False
    compilable = ("sample", "value_gradient_loss", "expansion_loss")

    def __init__(self, spec: EnvSpec, horizon: int, optim: SVGOptim, **sac: Any) -> None:
        """
        Args:
            spec: of the model's features.
            horizon: H, at least 1.
            optim: Adam.
            sac: the other settings of SAC.
        """
        if spec.discrete:
            raise ValueError("policy=svg follows gradients through actions, which must be continuous: try policy=sac")
        super().__init__(spec, optim=optim, **sac)
        if self.critics.bins:
            why = "its critics predict where a value lies in its range"
            raise ValueError(f"policy.critic.bins is {self.critics.bins}; with policy=svg it must be 0, as {why}")
        self.horizon = horizon
        self.clip = optim.clip

        # Values start in the middle of their range, for which the critics' outputs are 0.
        self.value_range = ValueRange(self.gamma)
        for critics in (self.critic, self.target_critic):
            for last in critics.layers()[-1]:
                nn.init.zeros_(last)

    def learn_through(self, model: WorldModel, state: Tree) -> Metrics:
        """One step of all networks on a rollout from states [B]; the model gets no gradients."""
        rollout = self.imagine(model, state)
        self.value_range.update(rollout.soft_reward(self.log_alpha.exp()))

        actor_loss, metrics = self.value_gradient_loss(rollout)
        # Alpha shares the optimiser, and its gradient may be many times the actor's.
        norm = self.actor_opt.minimise_clipped(actor_loss, self.clip, self.actor.parameters())

        # The critics learn from the same rollout as constants: it was made before the actor's step.
        rollout = SoftRollout(Trajectory(*(x.detach() for x in rollout.steps)), *(x.detach() for x in rollout[1:]))
        critic_loss, critic_metrics = self.expansion_loss(rollout)
        self.critic_opt.minimise(critic_loss)
        self.update_targets()
        return metrics | critic_metrics | {"policy/gradient_norm": norm}

    def imagine(self, model: WorldModel, state: Tree) -> SoftRollout:
        """H steps of the policy in the model, differentiable in the policy's parameters."""
        drawn: list[ActionSample] = []

        def choose(features: Tensor) -> Tensor:
            drawn.append(self.sample(features))
            action = drawn[-1].action
            assert action is not None
            return action

        steps = model.imagine_trajectory(choose, state, self.horizon)
        # One action more than there are steps: the return goes on with Q(s_H, a_H).
        last_action = choose(steps.features[-1])
        return SoftRollout(steps, torch.stack([x.log_prob.squeeze(-1) for x in drawn]), last_action)

    def sample(self, features: Tensor) -> ActionSample:
        """Actions from pi(. | s) for features [B, F], with gradients."""
        return self.dist.sample(self.actor(self.encode(features)))

    def value_gradient_loss(self, rollout: SoftRollout) -> tuple[Tensor, Metrics]:
        """J_pi + J_alpha."""
        alpha = self.log_alpha.detach().exp()
        # The mean, as the actor follows its slope: the least critic is another one from state to state.
        last_value = self.q_of(self.critic, rollout.steps.features[-1], rollout.last_action).mean(0)
        value = soft_return(rollout, last_value, self.gamma, alpha)
        loss = (alpha * rollout.log_prob[0] - value).mean()

        # Alpha learns from the entropy where the policy acts, not in states beyond a termination.
        reach = rollout.reach()
        entropy = -(rollout.log_prob.detach() * reach).sum() / reach.sum()
        metrics: Metrics = {
            "policy/actor_loss": loss.detach(),
            "policy/alpha": alpha,
            "policy/entropy": entropy,
            "policy/imagined_reward": (rollout.steps.reward.detach() * reach[:-1]).sum() / reach[:-1].sum(),
        }
        return loss + self.alpha_loss(entropy), metrics

    def expansion_loss(self, rollout: SoftRollout) -> tuple[Tensor, Metrics]:
        """J_Q of a rollout without gradients."""
        # Its first step alone: the later ones have shorter expansions, and states with more of the model's error.
        q = self.q_of(self.critic, rollout.steps.features[0], rollout.steps.action[0])
        loss = (q - self.expanded_return(rollout)).square().mean(1).sum()
        metrics: Metrics = {
            "policy/critic_loss": loss.detach() / self.critics.number,
            "policy/q": q.detach().mean(),
        }
        return loss, metrics

    @torch.no_grad()
    def expanded_return(self, rollout: SoftRollout) -> Tensor:
        """[B]: y, the model's rewards up to the horizon and the target critics after it."""
        last_value = self.least_of(self.q_of(self.target_critic, rollout.steps.features[-1], rollout.last_action))
        return soft_return(rollout, self.value_range.clip(last_value), self.gamma, self.log_alpha.exp())

    def q_values(self, critic: EnsembleMLP, features: Tensor, action: Tensor | None) -> Tensor:
        """[K, N, 1]: Q_k(s, a) for features [N, D] and actions."""
        return self.value_range.value(super().q_values(critic, features, action))

    def q_of(self, critic: EnsembleMLP, features: Tensor, action: Tensor) -> Tensor:
        """[K, N]: Q_k(s, a)."""
        return self.q_values(critic, self.encode(features), action).squeeze(-1)


def soft_return(rollout: SoftRollout, last_value: Tensor, gamma: float, alpha: Tensor) -> Tensor:
    """[B]: G_0, where `last_value` [B] is that of the last state and action."""
    cont, reward = rollout.steps.cont, rollout.steps.reward

    # Backwards from G_H. The entropy at s_t itself is in no G_t, as it is not in Q(s_t, a_t): the action is given.
    # A loop of H additions costs nothing beside the model, whose steps are a loop anyway.
    value = last_value
    for t in reversed(range(len(reward))):
        value = reward[t] + gamma * cont[t] * (value - alpha * rollout.log_prob[t + 1])
    return value
