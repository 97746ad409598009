"""The true dynamics as a world model: an upper bound for planners, with nothing to learn."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree


class Analytic:
    """Its state is the observation; see `mbrl_lab.env.physics` for the functions."""

    row_blocks = 1

    def __init__(
        self,
        spec: EnvSpec,
        next_obs: Callable[[Tensor, Tensor], Tensor],
        reward_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
        termination_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self.spec = spec
        self.next_obs, self.reward_fn, self.termination_fn = next_obs, reward_fn, termination_fn

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        return step.obs

    def imagine(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        after = self.next_obs(state, action)
        over = self.termination_fn(state, action, after)
        return after, Outcome(self.reward_fn(state, action, after), 1.0 - over.float())

    def reached(self, replay: Replay, indices: Tensor) -> Tensor:
        """Of indices [N] those whose state replay still has: all of them."""
        return indices

    def recall(self, replay: Replay, indices: Tensor) -> Tensor:
        """[N, D]: the states in indices [N] of replay."""
        return replay.read(indices, 1).obs[0]

    def features(self, state: Tensor) -> Tensor:
        return state

    def update(self, steps: Step) -> tuple[Tensor, Metrics]:
        return steps.transitions().obs.flatten(0, 1), {}
