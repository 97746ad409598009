"""OnPolicy: act by a policy that learns from what it did since it last learned, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mbrl_lab.ops import clipped, crossed
from mbrl_lab.protocols import Algo, Policy
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree


class OnPolicy(Algo):
    """An update every `horizon` steps of each environment, on the transitions of just these steps.

    The newest row of one update is the oldest of the next: each transition is learned from once, in one update.
    """

    def __init__(self, spec: EnvSpec, policy: Callable[[EnvSpec], Policy], horizon: int, reward_clip: float) -> None:
        super().__init__()
        self.policy, self.horizon, self.reward_clip = policy(spec), horizon, reward_clip

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        return self.policy.act(step.obs, explore), carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        if crossed(before // replay.num_envs, after // replay.num_envs, self.horizon):
            return self.policy.update(clipped(replay.latest(self.horizon + 1), self.reward_clip))
        return {}
