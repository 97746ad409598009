"""Learner: the base of algorithms that act at random during a warm-up and learn after it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_lab.ops import crossed
from mbrl_lab.protocols import Algo, Policy, WorldModel, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

MOMENTS = 10_000
"""Steps that scales of observations are taken from, at most."""

MOMENTS_EVERY = 1_000
"""Environment steps between the times when they are taken again."""


@dataclass(frozen=True)
class Updates:
    """Gradient steps of a policy: on how much, how many, how often."""

    batch: int
    """Windows of replay in a gradient step; imagined rollouts for a policy that learns from its own rollouts alone."""
    number: int
    """Gradient steps each time."""
    every: int
    """Environment steps between these times."""

    catch_up: int = 1
    """Factor on the number of gradient steps after the warm-up, until their total is what it would be without one. 1:
    the steps of the warm-up never get any."""

    def due(self, before: int, after: int, warmup: int) -> int:
        """How many gradient steps are due in (before, after], two counts of environment steps, past the warm-up."""
        return self.number * crossed(self._learned(before, warmup), self._learned(after, warmup), self.every)

    def _learned(self, step: int, warmup: int) -> int:
        """Environment steps whose gradient steps are done at `step`, counted from `warmup` on."""
        # Steps after the warm-up count `catch_up` times until the total is that of a run without one, then once each.
        since = max(step - warmup, 0)
        return warmup + min(self.catch_up * since, since + (warmup if self.catch_up > 1 else 0))


def fit_due(warmup: int, before: int, after: int, every: int) -> bool:
    """Whether a fit is due in (before, after]: when the warm-up finishes, and every `every` steps after that."""
    # Counted from the end of the warm-up. Before it the count is negative, so reaching it crosses 0: the first fit.
    return after >= warmup and crossed(before - warmup, after - warmup, every) > 0


def fit_normaliser(policy: Policy, replay: Replay, model: WorldModel | None = None) -> None:
    """Give a policy the scales of real observations: of at most 10,000 steps, spread over replay.

    It does nothing for a policy without scales, or one whose inputs are features of the model, not observations.
    """
    if not policy.normalises or (model is not None and model.feature_spec != model.spec):
        return
    # Every k-th step: all of replay counts, and no read grows with it.
    indices = replay.transitions()
    policy.fit_normaliser(replay.read(indices[:: 1 + len(indices) // MOMENTS], 1).obs[0])


class Learner(Algo):
    """An algorithm whose first `warmup` environment steps are random actions; then it is `ready`.

    Subclasses set `ready` when they begin to act by their policy or planner. It is saved with the weights.
    """

    ready: Tensor

    def __init__(self, spec: EnvSpec, warmup: int) -> None:
        super().__init__()
        self.spec = spec
        self.warmup = warmup
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @property
    def warmed_up(self) -> bool:
        return bool(self.ready)

    def random_action(self, step: Step) -> Tensor:
        """[B] actions drawn uniformly, for the newest step."""
        return self.spec.sample(len(step.first), step.first.device)

    def warmup_ends(self, before: int, after: int) -> bool:
        """Whether the warm-up's last step lies in (before, after], two counts of environment steps."""
        return before < self.warmup <= after

    def fit_due(self, before: int, after: int, every: int) -> bool:
        """Whether a fit is due in (before, after], two counts of environment steps."""
        return fit_due(self.warmup, before, after, every)


def window_of(policy: Policy) -> int:
    """Steps in the windows of replay that a policy learns from. Raises ValueError if it cannot learn from replay."""
    if policy.window is None:
        name = option_of(type(policy))
        if policy.learns_through_model:
            raise ValueError(f"{name} follows gradients through a model: try algo=mbpo, or policy=sac")
        raise ValueError(f"{name} learns from its own rollouts alone, not from replay: try policy=ddqn or sac")
    return policy.window
