"""Value: what a Q-network expects after the last step of a plan, learned from the same replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from mbrl_lab.algo.off_policy import WindowPolicy
from mbrl_lab.ops import clipped, crossed
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Tree


class Value(nn.Module):
    """Learns as `OffPolicy` does: `updates` gradient steps on `batch` windows every `every` steps.

    Raises ValueError for a policy that does not say what observations are worth.
    """

    def __init__(
        self,
        spec: EnvSpec,
        policy: Callable[[EnvSpec], Policy],
        batch: int,
        updates: int,
        every: int,
        reward_clip: float,
    ) -> None:
        super().__init__()
        self.policy = cast(WindowPolicy, policy(spec))
        if not hasattr(self.policy, "value"):
            raise ValueError(f"value.policy is {type(self.policy).__name__}, which knows no values: try policy=ddqn")
        self.batch, self.updates, self.every, self.reward_clip = batch, updates, every, reward_clip

    def learn(self, replay: Replay, before: int, after: int, warmup: int) -> Metrics:
        """Learn what is due between two counts of steps, those of the warm-up not counted."""
        metrics: Metrics = {}
        for _ in range(self.updates * crossed(max(before, warmup), max(after, warmup), self.every)):
            metrics = self.policy.update(clipped(replay.sample(self.batch, self.policy.window), self.reward_clip))
        return metrics


class Prolonged:
    """A world model whose plans are worth what comes after them, too."""

    def __init__(self, model: WorldModel, value: Value) -> None:
        self.model, self.spec, self.policy = model, model.spec, cast(Any, value.policy)
        self.row_blocks = model.row_blocks

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        return self.model.imagine(state, action)

    def features(self, state: Tree) -> Tensor:
        return self.model.features(state)

    @torch.no_grad()
    def value(self, state: Tree) -> Tensor:
        """[B]: the return that is expected from states [B] on."""
        return self.policy.value(self.model.features(state))
