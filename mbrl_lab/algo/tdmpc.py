"""TD-MPC: plan in a latent model with a policy's proposals and a value at the horizon (TD-MPC2, Hansen et al. 2024).

for each environment step:
    z = encode(x);  plan with MPPI: some of the sequences are the policy's, V(z_H) = Q(z_H, pi(z_H)) counts at their end
    `update.number` times every `update.every` steps, on windows of replay:
        z_0 = encode(x_0), z_{t+1} = step(z_t, a_t)                                    model.joint_loss
        minimise the model's loss + 0.1 sum_t rho^t (Q(z_t, a_t) against r + gamma V'(encode(x_{t+1})))
        maximise E[Q(z_t, a) - alpha log pi(a | z_t)] in the policy alone              policy.actor_loss
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_lab.algo.learner import Updates
from mbrl_lab.algo.mpc import Planned
from mbrl_lab.dynamics.implicit import Implicit
from mbrl_lab.nets.precision import differentiate
from mbrl_lab.ops import Means, clip_norm
from mbrl_lab.policy.sac import SAC
from mbrl_lab.protocols import PlanContext, Planner, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Transition, Tree

VALUE = 0.1
"""Weight of the critics' loss beside the model's (TD-MPC2)."""


class TDMPC(Planned):
    """See the top of this file. ValueError for parts that cannot learn jointly, or plans longer than windows."""

    model: Implicit
    policy: SAC

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], Implicit],
        policy: Callable[[EnvSpec], SAC],
        planner: Planner,
        warmup: int,
        pretrain: int,
        update: Updates,
    ) -> None:
        """
        Args:
            spec: of the environment.
            dynamics: makes the model.
            policy: makes policy and critics, for the model's latents.
            planner: searches in the model.
            warmup: random steps before the first update.
            pretrain: updates then, at once.
            update: on how many windows, how many and how often.
        """
        super().__init__(spec, dynamics, planner, warmup)
        if not self.model.learns_jointly:
            name = option_of(type(self.model))
            raise ValueError(f"algo=tdmpc cannot learn with {name}: it must be dynamics=implicit")
        if planner.horizon >= self.model.length:
            allowed = f"below dynamics.length, {self.model.length}, as predictions further ahead are not trained"
            raise ValueError(f"planner.horizon is {planner.horizon}; it must be {allowed}")
        self.policy = policy(self.model.feature_spec)
        if not self.policy.learns_jointly:
            raise ValueError(f"algo=tdmpc cannot learn with {option_of(type(self.policy))}: it must be policy=sac")
        self.pretrain = pretrain
        self.update = update

    @torch.no_grad()
    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        action, carry = super().act(step, carry, explore)
        if explore and self.ready and not self.spec.discrete:
            # The plan's spread says how sure the search was. Discrete actions are drawn by the planner.
            std = carry["plan"]["std"][:, 0]
            action = (action + std * torch.randn_like(action)).clamp(-1, 1)
        return action, carry

    def context(self, explore: bool) -> PlanContext:
        return PlanContext(self.policy, lambda z: self.policy.value(self.model.features(z)), explore, self.steps)

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        self.steps = after
        measured = Means()
        measured.add(self.measured_plans())
        updates = self.update.due(before, after, self.warmup)
        if self.warmup_ends(before, after):
            self.ready.fill_(True)
            updates += self.pretrain
        for _ in range(updates):
            measured.add(self.learn_from(replay.sample(self.update.batch, self.model.length)))
        return measured.means()

    def learn_from(self, steps: Step) -> Metrics:
        """One gradient step of everything on windows [L, B]."""
        unrolled = self.model.joint_loss(steps)
        t = Transition(
            obs=unrolled.predicted[:-1],
            action=steps.action[1:],
            reward=steps.reward[1:],
            next_obs=unrolled.encoded[1:],
            terminal=steps.terminal[1:],
            valid=unrolled.weight > 0,
        )
        flat, weight = Transition(*(x.flatten(0, 1) for x in t)), unrolled.weight.flatten()
        critic_loss, aux = self.policy.td_loss(flat, weight)

        # The critics' errors train encoder and transitions, too: what a value depends on has to be in the latent.
        optimisers = self.model.opt, self.policy.critic_opt
        weights = [p for opt in optimisers for p in opt.parameters()]
        differentiate(unrolled.loss + VALUE * critic_loss, weights)
        norm = clip_norm(weights, self.model.optim.clip or torch.inf)
        for opt in optimisers:
            opt.step()
        self.model.updates += 1

        # The policy gets latents without gradients, so it cannot bend the model to its liking.
        actor_loss, metrics = self.policy.actor_loss(aux.features, aux.weight)
        self.policy.actor_opt.minimise(actor_loss)
        self.policy.update_targets()
        return unrolled.metrics | aux.metrics | metrics | {"model/train/gradient_norm": norm}
