"""OffPolicy: act by a policy that learns from windows drawn uniformly from all of replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mbrl_lab.ops import clipped, crossed
from mbrl_lab.replay import Replay
from mbrl_lab.types import Algo, EnvSpec, Metrics, Policy, Step, Tree


class WindowPolicy(Policy, Protocol):
    """A policy that says how many rows each window it learns from must have."""

    window: int


class OffPolicy(Algo):
    """Random actions for `warmup` steps, then the policy's; from then on `updates` gradient steps every `every` steps.

    Each of them sees `batch` windows of its own. Evaluations show the policy even before the warm-up is over.
    """

    ready: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        policy: Callable[[EnvSpec], WindowPolicy],
        warmup: int,
        batch: int,
        every: int,
        updates: int,
        reward_clip: float,
    ) -> None:
        super().__init__()
        self.spec, self.policy = spec, policy(spec)
        self.warmup, self.batch, self.every, self.updates = warmup, batch, every, updates
        self.reward_clip = reward_clip
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        if explore and not self.ready:
            return self.spec.random(len(step.first), step.first.device), carry
        return self.policy.act(step.obs, explore), carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        metrics: Metrics = {}
        if after >= self.warmup > before:
            self.ready.fill_(True)
        for _ in range(self.updates * crossed(max(before, self.warmup), max(after, self.warmup), self.every)):
            metrics = self.policy.update(clipped(replay.sample(self.batch, self.policy.window), self.reward_clip))
        return metrics
