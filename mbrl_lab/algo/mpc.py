"""MPC: act by planning in a model that is fitted to everything seen so far (PETS, Chua et al. 2018, alg. 1).

for each environment step:
    s = belief, which the model filters along the episode
    plan: sequences a_1..a_H from the previous step's plan, scored by the model from s, `particles` rollouts each:
        score = E[ sum_t discount^(t-1) cont_1...cont_(t-1) r_t + discount^H cont_1...cont_H V(s_H) ]
        weigh the sequences by their scores, refit the proposal, repeat                       planner/search.py
    take the plan's first action, keep the plan for the next step
    every `every` steps:  fit the model p(s', r, continue | s, a) to replay                   dynamics.trainer
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mbrl_lab.algo.learner import ModelBased, fit_due
from mbrl_lab.algo.value import Value
from mbrl_lab.protocols import PlanContext, Planner, WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree


class Planned(ModelBased):
    """A learner that acts by planning in its model. Subclasses define `context`."""

    planner: Planner

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], WorldModel],
        planner: Planner,
        warmup: int,
    ) -> None:
        super().__init__(spec, dynamics, warmup)
        self.planner = planner
        self.predicted_return = torch.zeros(())
        self.seconds = 0.0
        self.steps = 0

    @torch.no_grad()
    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        batch, device = len(step.first), step.first.device
        fresh = self.planner.start(self.spec, batch, device)
        carry = carry or {"state": None, "plan": fresh}

        # Beliefs and plans start afresh with an episode.
        state = self.observe(carry["state"], step, explore)
        plan = tree_map(lambda new, old: _where(step.first, new, old), fresh, carry["plan"])
        if not self.ready:
            return self.random_action(step), {"state": state, "plan": plan}

        # Training and evaluation plan in the same way; the figures that are logged are those of training.
        began = time.monotonic()
        action, plan = self.planner.plan(self.model, state, plan, self.context(explore))
        if explore:
            self.predicted_return, self.seconds = plan["predicted_return"].mean(), seconds_since(began, device)
        return action, {"state": state, "plan": plan}

    def context(self, explore: bool) -> PlanContext:
        """What the planner may use beside the model."""
        raise NotImplementedError

    def measured_plans(self) -> Metrics:
        """What the plans of training were like, once there are any."""
        return {"planner/predicted": self.predicted_return, "time/plan": self.seconds} if self.ready else {}

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "trainer": self.model.trainer_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state.get("steps", 0)
        self.model.load_trainer_state(state.get("trainer", {}))


class MPC(Planned):
    """See the top of this file. ValueError for a planner that wants a policy's proposals where there is no policy."""

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], WorldModel],
        planner: Planner,
        warmup: int,
        every: int,
        value: Callable[[EnvSpec], Value] | None = None,
    ) -> None:
        """
        Args:
            spec: of the environment.
            dynamics: makes the model.
            planner: searches in it.
            warmup: random steps before the first fit.
            every: environment steps between fits.
            value: makes V(s_H), the terminal value function on the model's features; None: V = 0.
        """
        super().__init__(spec, dynamics, planner, warmup)
        self.every = every
        self.value = None if value is None else value(self.model.feature_spec)
        if planner.proposals and self.value is None:
            given = f"planner.proposals is {planner.proposals}, but algo=mpc has no policy to propose any"
            raise ValueError(f"{given}: it must be 0, or try value=sac")

    def context(self, explore: bool) -> PlanContext:
        if self.value is None:
            return PlanContext(explore=explore, steps=self.steps)
        # A plan moves from state to state of the model, and the value was trained on their features.
        value = self.value
        return PlanContext(value.policy, lambda state: value(self.model.features(state)), explore, self.steps)

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        self.steps = after
        self.model.store(replay, self.belief)
        metrics = self.measured_plans()
        if fit_due(self.warmup, before, after, self.every):
            metrics |= self.model.fit(replay).metrics
            self.ready.fill_(True)
        if self.value is not None:
            metrics |= self.value.learn(self.model, replay, before, after, self.warmup)
        return metrics


def seconds_since(began: float, device: torch.device) -> float:
    """Seconds since `began`, after waiting for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Rows of `new` where `mask` [B] holds, of `old` elsewhere."""
    return torch.where(mask.view(-1, *[1] * (new.ndim - 1)), new, old)
