"""Observations of any environment as vectors, or as images [C, H, W] of bytes, by gymnasium's own wrappers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import (
    FlattenObservation,
    FrameStackObservation,
    GrayscaleObservation,
    ResizeObservation,
    TransformObservation,
)
from numpy.typing import NDArray

Array = NDArray[Any]


class Frames(Box):
    """[stack, H, W] bytes: the newest grey images, the oldest first, 0 before the episode. Replay stores each once."""


def agent_observations(
    env: gymnasium.Env,
    flatten: bool = False,
    channels: str = "auto",
    to_bytes: bool = False,
    grayscale: bool = False,
    resize: Sequence[int] | None = None,
    frame_stack: int = 1,
) -> gymnasium.Env:
    """`env` with observations that are vectors or images [C, H, W] of bytes, if possible; otherwise unchanged.

    Args:
        flatten: flatten observations of any kind to one vector.
        channels: axis of the channels, `first` [C, H, W] or `last` [H, W, C]; `auto`: the smallest axis.
        to_bytes: scale images of other types from their lowest and highest bound to 0 and 255.
        grayscale: convert RGB to one grey channel.
        resize: [height, width].
        frame_stack: number of observations in one.

    ValueError, one line with the setting, for an impossible combination.
    """
    if flatten:
        env = flattened(env)

    # First bytes, whatever the images are made of; anything else stays as it is, or is a vector.
    space = env.observation_space
    if isinstance(space, Box) and to_bytes:
        env = as_bytes(env, space)
    elif isinstance(space, Box) and holds_bytes(space):
        if space.dtype != np.uint8:
            env = rearranged(env, lambda image: image.astype(np.uint8), space.shape)
    else:
        if grayscale or resize:
            setting = "env.grayscale" if grayscale else "env.resize"
            raise ValueError(f"{setting} is for images of bytes, but observations are {space}{advice(space)}")
        is_vector = isinstance(space, Box) and len(space.shape) == 1
        return stacked_numbers(env, frame_stack) if is_vector and frame_stack > 1 else env

    # gymnasium's wrappers take and return [H, W, C].
    if grayscale or resize:
        env = processed(env, channels, grayscale, resize)
        channels = "last"
    return stacked(channels_first(env, channels), frame_stack)


def flattened(env: gymnasium.Env) -> gymnasium.Env:
    """All numbers of an observation as one vector. ValueError for a space without a fixed size."""
    if not env.observation_space.is_np_flattenable:
        raise ValueError(f"env.flatten is true, but observations are {env.observation_space}, of no fixed size")
    return FlattenObservation(env)


def holds_bytes(space: Box) -> bool:
    """Whether observations are images: two to four axes of whole numbers from 0 to 255."""
    whole = space.dtype.kind in "biu" and (space.low >= 0).all() and (space.high <= 255).all()
    return bool(whole) and 2 <= len(space.shape) <= 4


def advice(space: gymnasium.Space) -> str:
    """The end of an error message: the setting that makes such observations usable, or nothing."""
    if not isinstance(space, Box):
        return "; with env=gym, env.flatten=true makes a vector of them" if space.is_np_flattenable else ""
    if len(space.shape) == 1:
        return ""
    if 2 <= len(space.shape) <= 4 and bounded(space):
        return "; with env=gym, env.flatten=true makes a vector of them, and env.to_bytes=true images of bytes"
    return "; with env=gym, env.flatten=true makes a vector of them"


def bounded(space: Box) -> bool:
    return bool((space.low > -1e9).all() and (space.high < 1e9).all() and space.low.min() < space.high.max())


def as_bytes(env: gymnasium.Env, space: Box) -> gymnasium.Env:
    """Scale [lowest bound, highest bound] to [0, 255]. FloatingPointError for a value that is not finite."""
    if not 2 <= len(space.shape) <= 4 or not bounded(space):
        raise ValueError(f"env.to_bytes is for images with finite bounds, but observations are {space}")
    low, high = float(space.low.min()), float(space.high.max())

    def scaled(image: Array) -> Array:
        if not np.isfinite(image).all():
            raise FloatingPointError("the environment returned an image with a number that is not finite")
        return np.rint((image.astype(np.float64) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)

    return transformed(env, scaled, space.shape)


def processed(env: gymnasium.Env, channels: str, grayscale: bool, resize: Sequence[int] | None) -> gymnasium.Env:
    """Images in grey and resized: [H, W, C] or, for grey ones, [H, W, 1]."""
    shape = shape_of(env)
    if len(shape) == 4:
        raise ValueError(f"env.grayscale and env.resize are for single images, but observations have shape {shape}")

    # To [H, W, C], which gymnasium's wrappers need, with the bounds 0 and 255 that they need too.
    if len(shape) == 3 and channel_axis(shape, channels) == -3:
        env = transformed(env, lambda image: np.moveaxis(image, 0, -1), (*shape[1:], shape[0]))
    elif len(shape) == 2:
        env = transformed(env, lambda image: image[..., None], (*shape, 1))
    else:
        env = transformed(env, lambda image: image, shape)

    if grayscale:
        if shape_of(env)[-1] != 3:
            raise ValueError(f"env.grayscale is for three colours, but observations have {shape_of(env)[-1]} channels")
        env = GrayscaleObservation(env, keep_dim=True)
    if resize:
        try:
            env = ResizeObservation(env, (int(resize[0]), int(resize[1])))
        except gymnasium.error.DependencyNotInstalled as error:
            raise ValueError("env.resize needs OpenCV: pip install 'mbrl_lab[resize]'") from error
        if len(shape_of(env)) == 2:  # it drops a single channel
            env = transformed(env, lambda image: image[..., None], (*shape_of(env), 1))
    return env


def channels_first(env: gymnasium.Env, channels: str) -> gymnasium.Env:
    """[H, W], [C, H, W] or [H, W, C], or stacks [S, ...] of the latter two, as [C, H, W]."""
    shape = shape_of(env)
    if len(shape) == 2:
        return rearranged(env, lambda image: image[None], (1, *shape))
    last = channel_axis(shape, channels) == -1
    *before, a, b, c = shape
    ordered = (*before, c, a, b) if last else shape
    if len(shape) == 3:
        return rearranged(env, lambda image: np.moveaxis(image, -1, -3), ordered) if last else env

    # A stack becomes more channels: convolutions see all of its frames at once.
    whole = (ordered[0] * ordered[1], *ordered[2:])
    return rearranged(env, lambda image: (np.moveaxis(image, -1, -3) if last else image).reshape(whole), whole)


def channel_axis(shape: Sequence[int], channels: str) -> int:
    """-3 or -1. ValueError if the shape does not determine it and `env.channels` is not given."""
    if channels != "auto":
        return -3 if channels == "first" else -1
    # Images have fewer channels than rows or columns.
    first, middle, last = shape[-3:]
    if first < min(middle, last) or last < min(first, middle):
        return -3 if first < last else -1
    raise ValueError(
        f"observations of shape {list(shape)} can be images [C, H, W] or [H, W, C]:"
        " set env.channels=first or env.channels=last"
    )


def stacked(env: gymnasium.Env, count: int) -> gymnasium.Env:
    """[C, H, W] as the newest `count` of them, [count * C, H, W], the oldest first."""
    if count == 1:
        return env
    channels, height, width = shape_of(env)
    shape = count * channels, height, width
    env = FrameStackObservation(env, count, padding_type="zero")
    env = transformed(env, lambda images: images.reshape(shape), shape)
    # Grey stacks are marked, so that replay stores one frame per step instead of the stack.
    if channels == 1:
        env.observation_space = Frames(0, 255, shape, np.uint8)
    return env


def stacked_numbers(env: gymnasium.Env, count: int) -> gymnasium.Env:
    """The newest `count` vectors, concatenated."""
    env = FrameStackObservation(env, count, padding_type="zero")
    return FlattenObservation(env)


def shape_of(env: gymnasium.Env) -> tuple[int, ...]:
    shape = env.observation_space.shape
    assert shape is not None, env.observation_space
    return shape


def transformed(
    env: gymnasium.Env, function: Callable[[Array], Array], shape: Sequence[int], largest: int = 255
) -> gymnasium.Env:
    """Images passed through a function that returns bytes of this shape, up to `largest`."""
    return TransformObservation(env, function, Box(0, largest, tuple(shape), np.uint8))


def rearranged(env: gymnasium.Env, function: Callable[[Array], Array], shape: Sequence[int]) -> gymnasium.Env:
    """Images passed through a function that only changes their shape; the bound is kept, so 0 and 1 stay a grid."""
    space = env.observation_space
    assert isinstance(space, Box), space
    return transformed(env, function, shape, int(space.high.max()))
