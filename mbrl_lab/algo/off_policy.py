"""OffPolicy: act by a policy that learns from windows drawn from all of replay, uniformly or by priority."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_lab.ops import clipped, crossed
from mbrl_lab.protocols import Algo, Policy
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

SMALLEST = 1e-6
"""Added to errors, so that a window that taught nothing may be drawn again."""


class Learner(Algo):
    """Acts at random until it is `ready`, then by its policy, which evaluations show even before."""

    ready: Tensor

    def __init__(self, spec: EnvSpec, policy: Policy) -> None:
        super().__init__()
        self.spec, self.policy = spec, policy
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        if explore and not self.ready:
            return self.spec.random(len(step.first), step.first.device), carry
        return self.policy.act(step.obs, explore), carry


class OffPolicy(Learner):
    """Random actions for `warmup` steps, then the policy's; from then on `updates` gradient steps every `every` steps.

    Each of them sees `batch` windows of its own.
    With `priority_exponent` above 0 windows are drawn by their latest error to this power (Schaul et al. 2016).
    `importance_exponent`, which undoes so much of the bias, rises linearly to 1 over `importance_steps` environment
    steps; 0: it stays. Raises ValueError where the policy cannot learn so.
    """

    def __init__(
        self,
        spec: EnvSpec,
        policy: Callable[[EnvSpec], Policy],
        warmup: int,
        batch: int,
        every: int,
        updates: int,
        reward_clip: float,
        priority_exponent: float,
        importance_exponent: float,
        importance_steps: int,
    ) -> None:
        super().__init__(spec, policy(spec))
        self.window = window_of(self.policy)
        if priority_exponent and not self.policy.learns_by_priority:
            name = type(self.policy).__name__
            raise ValueError(f"algo.priority_exponent is {priority_exponent}; it must be 0 with {name}")
        self.priority_exponent, self.importance_exponent = priority_exponent, importance_exponent
        self.importance_steps = importance_steps
        self.warmup, self.batch, self.every, self.updates = warmup, batch, every, updates
        self.reward_clip = reward_clip

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        metrics: Metrics = {}
        if after >= self.warmup > before:
            self.ready.fill_(True)
        for _ in range(self.updates * crossed(max(before, self.warmup), max(after, self.warmup), self.every)):
            if self.priority_exponent:
                metrics = self.learn_by_priority(replay, self.importance(after))
            else:
                steps = replay.sample(self.batch, self.window, self.policy.n_step)
                metrics = self.policy.update(clipped(steps, self.reward_clip))
        return metrics

    def learn_by_priority(self, replay: Replay, importance: float) -> Metrics:
        """A gradient step on windows drawn by priority, whose priorities are then those of their new errors."""
        indices, ratio = replay.draw(self.batch, self.window)
        weight = ratio**-importance
        weight = (weight / weight.max()).float()
        steps = clipped(replay.read(indices, self.window, self.policy.n_step), self.reward_clip)
        metrics, error = self.policy.update_weighted(steps, weight)
        replay.set_priorities(indices, (error.double() + SMALLEST) ** self.priority_exponent)
        return metrics | {"replay/weight": weight.mean()}

    def importance(self, step: int) -> float:
        """The exponent of importance weights after so many environment steps."""
        share = min(step / self.importance_steps, 1.0) if self.importance_steps else 0.0
        return self.importance_exponent + share * (1 - self.importance_exponent)


def window_of(policy: Policy) -> int:
    """Steps in the windows of replay that a policy learns from. ValueError for one that cannot learn from replay."""
    if policy.window is None:
        name = type(policy).__name__
        raise ValueError(f"{name} learns from its own rollouts alone, not from replay: try policy=ddqn or sac")
    return policy.window
