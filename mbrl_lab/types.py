"""The data that all parts exchange: steps, transitions, trajectories and specs.

Shapes: T time, B environments or batch, A action size, H horizon. Prefix shapes are [B] or [T, B].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

Metrics = dict[str, Tensor | float]
"""Flat names to 0-d tensors or floats. Tensors stay on the device until the logger reads them."""

Tree = Any
"""Nested dicts, lists and tuples of tensors (or None), every tensor with the same leading dimension B."""


class Step(NamedTuple):
    """An arrival step: an action together with the observation and reward it led to, as replay stores it."""

    action: Tensor  # taken to get here: [B] int64 or [B, A] float32 in [-1, 1]; zeros where `first`
    obs: Tensor  # [B, *obs_shape]
    reward: Tensor  # [B] float32, received on arriving here
    terminal: Tensor  # [B] bool: the episode terminates here, nothing is bootstrapped (a time limit is not terminal)
    first: Tensor  # [B] bool: an episode begins here, the step before is unrelated

    def at(self, index: Any) -> Step:
        """The same index of every field."""
        return Step(*(x[index] for x in self))

    def to(self, device: torch.device | str) -> Step:
        """Every field on `device`."""
        return Step(*(x.to(device) for x in self))

    def transitions(self) -> Transition:
        """[T + 1, B] steps as [T, B] transitions; `valid` is false across an episode boundary."""
        return Transition(
            obs=self.obs[:-1],
            action=self.action[1:],
            reward=self.reward[1:],
            next_obs=self.obs[1:],
            terminal=self.terminal[1:],
            valid=~self.first[1:],
        )

    def trajectory(self) -> Trajectory:
        """[T + 1, B] steps whose observations are features, real or imagined, as a trajectory."""
        t = self.transitions()
        return Trajectory(self.obs, t.action, t.reward, (~t.terminal).float(), t.valid)


class Transition(NamedTuple):
    """A transition between two consecutive steps. Learn only where `valid`."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor
    valid: Tensor

    def at(self, index: Any) -> Transition:
        """The same index of every field."""
        return Transition(*(x[index] for x in self))


class Outcome(NamedTuple):
    """A world model's prediction of one imagined step, besides the next state."""

    reward: Tensor  # [B] float32
    cont: Tensor  # [B] float32 in [0, 1]: the probability that the episode continues


@dataclass(frozen=True)
class EnvSpec:
    """An environment's spaces. Actions are 0..action_dim-1 if discrete, else in [-1, 1].

    With `stack` above 1 an observation is the newest `stack` frames, oldest first; frames before the episode are 0.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    action_dim: int
    discrete: bool
    stack: int = 1

    def encode_action(self, action: Tensor) -> Tensor:
        """Actions as float vectors [..., A]: one-hot if discrete, as they are if continuous."""
        if not self.discrete:
            return action
        # The same numbers as one_hot, which looks for the extremes of its input first and counts in int64.
        return torch.nn.functional.embedding(action, torch.eye(self.action_dim, device=action.device))

    def sample(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """[batch] actions drawn uniformly."""
        if self.discrete:
            return torch.randint(self.action_dim, (batch,), device=device)
        return torch.rand(batch, self.action_dim, device=device) * 2 - 1

    def zero_action(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """[batch] zeros: the action of a step that begins an episode."""
        if self.discrete:
            return torch.zeros(batch, dtype=torch.int64, device=device)
        return torch.zeros(batch, self.action_dim, device=device)

    def of_features(self, dim: int) -> EnvSpec:
        """The same actions on observations that are feature vectors of `dim` floats."""
        return replace(self, obs_shape=(dim,), obs_dtype=torch.float32, stack=1)


class Trajectory(NamedTuple):
    """H steps of a policy from B start states, imagined or real, as training data for an actor-critic."""

    features: Tensor  # [H + 1, B, F]
    action: Tensor  # [H, B] or [H, B, A]
    reward: Tensor  # [H, B]
    cont: Tensor  # [H, B]: the probability that the episode continues after the step
    valid: Tensor  # [H, B] bool: false where an episode boundary lies between step t and t + 1


class Windows(NamedTuple):
    """Windows of replay that a model was trained on, and the posterior states that it inferred there."""

    steps: Step  # [L, B]
    states: Tree  # [L * B, ...] posteriors, without gradients


class FitResult(NamedTuple):
    """The result of a call of `WorldModel.fit`."""

    metrics: Metrics
    trusted_horizon: int | None = None  # longest rollout with accurate held-out predictions; None: not measured
    windows: Windows | None = None  # the latest training batch, if the trainer draws windows
