"""The true dynamics as a world model: an upper bound for planners, with nothing to learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import EnvSpec, Outcome, Step, Tree


class Analytic(WorldModel):
    """Its state is the observation; see `mbrl_lab.env.physics` for the functions.

    `trainer` takes what presets and debug=smoke say of fits: there is nothing to fit.
    """

    differentiable = True

    def __init__(
        self,
        spec: EnvSpec,
        next_obs: Callable[[Tensor, Tensor], Tensor],
        reward_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
        termination_fn: Callable[[Tensor, Tensor, Tensor], Tensor],
        trainer: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(spec)
        self.next_obs, self.reward_fn, self.termination_fn = next_obs, reward_fn, termination_fn

    @property
    def predicts(self) -> str:
        return "features" if len(self.spec.obs_shape) == 1 else "nothing"

    def observe(self, state: Tree | None, step: Step) -> Tensor:
        return step.obs

    def imagine(self, state: Tensor, action: Tensor) -> tuple[Tensor, Outcome]:
        after = self.next_obs(state, action)
        over = self.termination_fn(state, action, after)
        return after, Outcome(self.reward_fn(state, action, after), 1.0 - over.float())

    def features(self, state: Tensor) -> Tensor:
        return state
