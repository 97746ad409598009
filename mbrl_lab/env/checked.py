"""Checked: a wrapper that checks any environment against gymnasium's API; violations are errors of one line."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

STEP = "observation, reward, terminated, truncated, info"
RESET = "def reset(self, *, seed=None, options=None)"


class Checked(gymnasium.Wrapper):
    """Returns what `env` returns if it has the declared shapes and types; otherwise ValueError, one line.

    Infos are ignored except for the keys in the environment's attribute `trusted_infos`, which declares that they have
    the meaning that `Envs` documents. An exception inside the environment becomes a line with its file and line number.
    Observations are copied, since an environment may write into the same array again.
    """

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.trusted: tuple[str, ...] = tuple(getattr(env.unwrapped, "trusted_infos", ()))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        returned = guarded(self.env, "reset", lambda: self.env.reset(seed=seed, options=options))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise ValueError(f"the environment's reset returned {named(returned)}; it must return observation, info")
        return conform(returned[0], self.env.observation_space, "reset"), self._trusted_infos(returned[1])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        returned = guarded(self.env, "step", lambda: self.env.step(action))
        if not isinstance(returned, tuple) or len(returned) != 5:
            raise ValueError(f"the environment's step returned {named(returned)}; it must return {STEP}")
        obs, reward, terminated, truncated, info = returned
        return (
            conform(obs, self.env.observation_space, "step"),
            float(scalar(reward, "reward", "a number")),
            bool(scalar(terminated, "terminated", "true or false")),
            bool(scalar(truncated, "truncated", "true or false")),
            self._trusted_infos(info),
        )

    def _trusted_infos(self, info: Any) -> dict[str, Any]:
        return {key: info[key] for key in self.trusted if key in info}


def checked(make: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    """The environment of `make()`, wrapped in a Checked unless it contains one. ValueError if it is no environment."""
    if not callable(make):
        raise ValueError(f"env.make is {named(make)}; it must make environments, so env.make._partial_ must be true")
    env = make()
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"env.make made {named(env)}; it must make a gymnasium.Env")
    return env if any(isinstance(layer, Checked) for layer in layers(env)) else Checked(env)


def layers(env: gymnasium.Env) -> Iterator[gymnasium.Env]:
    """The environment and all environments that it wraps, from the outermost to the innermost."""
    yield env
    while isinstance(env, gymnasium.Wrapper):
        env = env.env
        yield env


def guarded(env: gymnasium.Env, verb: str, call: Callable[[], Any]) -> Any:
    """The call's result. ValueError, with file and line, for an exception in it."""
    try:
        return call()
    except MemoryError:
        raise  # the caller has advice for it
    except Exception as error:
        if "values to unpack" in str(error):  # by a wrapper of gymnasium
            raise ValueError(f"the environment's {verb} returned {error}; it must return {STEP}") from error
        # Here the line that raised is the caller's, in gymnasium or in this file.
        if verb == "reset" and isinstance(error, TypeError) and (name := odd_reset(env)):
            raise ValueError(f"the environment's reset ({name}.reset) must take seed= and options=: {RESET}") from error
        raise ValueError(f"the environment's {verb} raised {described(error)}") from error


def odd_reset(env: gymnasium.Env) -> str | None:
    """The class, of `env` or of what it wraps, whose reset does not take `seed` and `options`."""
    for layer in layers(env):
        try:
            inspect.signature(layer.reset).bind(seed=None, options=None)
        except TypeError:
            return type(layer).__name__
    return None


def described(error: Exception) -> str:
    """`KeyError: 'goal' (my_env.py, line 12)`, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"


def conform(obs: Any, space: gymnasium.Space, verb: str, name: str = "observation") -> Any:
    """A copy of `obs` as `space` declares it. ValueError for another structure, shape or type.

    Values may leave the declared bounds: many environments declare them carelessly, and nothing depends on them.
    """
    if isinstance(space, spaces.Dict):
        if not isinstance(obs, dict) or set(obs) != set(space.spaces):
            keys = sorted(obs) if isinstance(obs, dict) else named(obs)
            raise ValueError(f"{wrong(verb, name)} is {keys}, but the space has the keys {sorted(space.spaces)}")
        return {key: conform(obs[key], part, verb, f"{name}[{key!r}]") for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        if not isinstance(obs, tuple | list) or len(obs) != len(space.spaces):
            raise ValueError(f"{wrong(verb, name)} is {named(obs)}, but the space is {space}")
        return tuple(conform(obs[k], part, verb, f"{name}[{k}]") for k, part in enumerate(space.spaces))
    if not isinstance(space, spaces.Box | spaces.MultiBinary | spaces.MultiDiscrete):
        return obs  # gymnasium flattens it, or `spec_of` rejects it
    return as_array(obs, space, verb, name)


def as_array(obs: Any, space: Any, verb: str, name: str) -> NDArray[Any]:
    """A copy in the space's dtype. ValueError if shapes differ or the dtype cannot represent the values."""
    try:
        array = np.asarray(obs)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)

    if array.dtype.kind not in "biuf":
        raise ValueError(f"{wrong(verb, name)} is {named(obs)}, not an array of numbers as {space}")
    if array.shape != space.shape:
        raise ValueError(f"{wrong(verb, name)} has shape {list(array.shape)}, but the space has {list(space.shape)}")

    with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes infinite, which `Envs` rejects
        cast = array.astype(space.dtype)
        # float64 for float32 is common and harmless; 300 for a byte, or 0.5 for an integer, loses information.
        if not np.can_cast(array.dtype, space.dtype, "same_kind") and not (cast == array).all():
            value = array[cast != array].flat[0]
            raise ValueError(f"{wrong(verb, name)} holds {value} ({array.dtype}), but the space has {space.dtype}")
    return cast


def wrong(verb: str, name: str) -> str:
    return f"the environment's {verb} is wrong: {name}"


def scalar(value: Any, name: str, what: str) -> Any:
    """A NumPy number or boolean. ValueError for anything else, including an array of one number."""
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "biuf":
        raise ValueError(f"{wrong('step', name)} is {named(value)}; it must be {what}")
    return array


def named(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {list(value.shape)} and type {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
