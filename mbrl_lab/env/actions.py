"""Actions of the agent (0, 1, ... or numbers in [-1, 1]) mapped to the environment's action space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.wrappers import RescaleAction, TransformAction
from numpy.typing import NDArray

LARGEST = 1e9
"""A larger bound counts as none: gymnasium writes 3.4e38 and 9.2e18 for unbounded dimensions."""


def agent_actions(env: gymnasium.Env, bound: float | None = None) -> gymnasium.Env:
    """`env` with Discrete actions from 0, or a flat Box of [-1, 1]; other spaces stay as they are.

    Integer boxes divide [-1, 1] into one equal interval per integer; a dimension with low == high always gets that
    value; an unbounded one gets [-bound, bound]. ValueError if there is no bound, or no action to choose.
    """
    space = env.action_space
    if isinstance(space, Discrete) and space.start != 0:
        start = space.start
        return TransformAction(env, lambda action: action + start, Discrete(space.n))

    if not isinstance(space, Box):
        return env

    # gymnasium rescales plain boxes; integers, fixed and unbounded dimensions need our own mapping.
    if space.shape == () or 0 not in space.shape:
        low, high = bounds(space, bound)
        plain = len(space.shape) == 1 and space.dtype == np.float32 and (low < high).all()
        if plain and (low == space.low).all() and (high == space.high).all():
            return RescaleAction(env, np.float32(-1), np.float32(1))
        return TransformAction(env, FromUnit(low, high, space), Box(-1, 1, (low.size,), np.float32))
    raise ValueError(f"actions are {space}, which leaves nothing to choose: give the environment a Box of 1 or more")


def bounds(space: Box, bound: float | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Each dimension's lowest and highest number, in the space's shape. ValueError if there is none."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    # Negated comparisons, so that NaN counts as no bound.
    none_below, none_above = ~(low >= -LARGEST), ~(high <= LARGEST)
    if bound is None:
        # Any default would be arbitrary: the scale of an unbounded action is the user's to choose.
        if none_below.any() or none_above.any():
            cure = "env.action_bound=1 lets the agent use -1 to 1 there, or any other number"
            raise ValueError(f"actions are {space}, which has dimensions without bounds: with env=gym {cure}")
        return low, high

    # One-sided bounds are kept, so the given bound can lie on their wrong side.
    low, high = np.where(none_below, -bound, low), np.where(none_above, bound, high)
    if (low > high).any():
        raise ValueError(f"env.action_bound is {bound}, but actions are {space}: choose a larger one")
    return low, high


class FromUnit:
    """Maps numbers [A] in [-1, 1] to an action in [low, high] of the space's shape and dtype."""

    def __init__(self, low: NDArray[np.float64], high: NDArray[np.float64], space: Box) -> None:
        self.low = low
        self.high = high
        self.space = space
        self.whole = space.dtype.kind != "f"

    def __call__(self, action: NDArray[Any]) -> NDArray[Any]:
        fraction = np.clip((np.asarray(action, np.float64).reshape(self.low.shape) + 1) / 2, 0, 1)
        moved = fraction * (self.high - self.low)
        if self.whole:  # one interval of equal length per integer; rounding would halve the outer ones
            moved = np.floor(fraction * (self.high - self.low + 1))
        # Rounding may exceed the bounds in the last bit.
        return np.asarray(np.clip(self.low + moved, self.low, self.high), self.space.dtype)


class Units(NamedTuple):
    """Between the agent's actions and those of the bare environment, for discrete ones and for vectors."""

    space: gymnasium.Space[Any]
    """Of the bare environment's actions."""
    low: NDArray[Any]
    """The bare environment's action for the agent's least one, -1 or 0."""
    high: NDArray[Any]
    """For the agent's 1."""

    def to_env(self, actions: NDArray[Any]) -> NDArray[Any]:
        """[T] or [T, A] actions of the agent -> those of the environment."""
        if isinstance(self.space, Discrete):
            return actions + self.low
        moved = self.low + (actions.clip(-1, 1) + 1) / 2 * (self.high - self.low)
        return moved.reshape(-1, *self.shape).astype(self.space.dtype)

    def to_agent(self, actions: NDArray[Any], place: str) -> NDArray[Any]:
        """The inverse. ValueError, one line that begins with `place`, for actions that are not the environment's."""
        if isinstance(self.space, Discrete):
            moved = actions - self.low
            fits = actions.ndim == 1 and actions.dtype.kind in "iu" and ((moved >= 0) & (moved < self.space.n)).all()
        else:
            fits = actions.shape[1:] == self.shape and actions.dtype.kind in "fiu"
            extent = np.where(self.high > self.low, self.high - self.low, 1)
            moved = 2 * (actions.reshape(len(actions), -1) - self.low) / extent - 1 if fits else actions
            fits = fits and bool((np.abs(moved) <= 1 + 1e-4).all())
        if not fits:
            there = f"{actions.dtype} {list(actions.shape[1:])}, from {actions.min():g} to {actions.max():g}"
            raise ValueError(f"{place}: its actions are {there}, this environment's are {self.space}")
        return moved.astype(np.int64) if isinstance(self.space, Discrete) else moved.clip(-1, 1).astype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        assert self.space.shape is not None, self.space
        return self.space.shape


def units_of(make: Callable[[], gymnasium.Env]) -> Units:
    """Those of the environment of `make()`. ValueError if its actions are whole numbers in a box."""
    env = make()
    try:
        space, bare = env.action_space, env.unwrapped.action_space
        if isinstance(bare, Box) and bare.dtype.kind != "f":
            raise ValueError(f"actions are {bare}; only discrete ones and vectors of real numbers are recorded")
        # The agent's least action and 1, in the shape in which it acts.
        ends: list[Any] = [np.int64(0), np.int64(1)]
        if not isinstance(space, Discrete):
            ends = [np.full_like(space.sample(), x) for x in (-1, 1)]
        low, high = (np.asarray(bare_action(env, end)).reshape(np.shape(end)) for end in ends)
        return Units(bare, low, high)
    finally:
        env.close()


def bare_action(env: gymnasium.Env, action: Any) -> Any:
    """What the innermost environment gets when the outermost gets `action`."""
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, gymnasium.ActionWrapper):
            action = env.action(action)
        env = env.env
    return action
