"""Videos: any logged episode, seen again from its seed and its actions."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Frame = NDArray[np.uint8]  # [H, W, 3]
MakeEnv = Callable[..., gymnasium.Env[Any, Any]]

DEFAULT_FPS = 30.0
OFFSCREEN = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}  # MUJOCO_GL: the library it needs


def record_episode(path: Path, make_env: MakeEnv, seed: int, actions: NDArray[Any]) -> None:
    """Render an episode into a video at `path`, at the environment's own frame rate."""
    with rendering(make_env) as env:
        write_video(path, episode_frames(env, seed, actions), env.metadata.get("render_fps") or DEFAULT_FPS)


def render_episode(make_env: MakeEnv, seed: int, actions: NDArray[Any]) -> Iterator[Frame]:
    """The frames of an episode one by one: the reset's, and one after each action until the episode or they end."""
    with rendering(make_env) as env:
        yield from episode_frames(env, seed, actions)


def write_video(path: Path, frames: Iterable[Frame], fps: float) -> None:
    """Write [T, H, W, 3] uint8 frames, given at once or one by one, as H.264 in yuv420p, which every player shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        with closing(open_writer(unfinished, fps)) as writer:
            for frame in frames:
                writer.append_data(even(frame))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def open_writer(path: Path, fps: float) -> Any:
    """ffmpeg, through imageio, quiet unless it fails."""
    from imageio.v2 import get_writer

    how: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 1}
    return get_writer(path, fps=fps, ffmpeg_log_level="error", **how)


def even(frame: Frame) -> Frame:
    """The frame with its last row or column repeated where their number is odd, as yuv420p needs."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def episode_frames(env: gymnasium.Env[Any, Any], seed: int, actions: NDArray[Any]) -> Iterator[Frame]:
    """What `env` shows of the episode that begins with `seed` and goes on with `actions` [L] or [L, A]."""
    env.reset(seed=seed)
    yield frame_of(env)
    for played, action in enumerate(actions, start=1):
        _, _, terminated, truncated, _ = env.step(int(action) if actions.ndim == 1 else action)
        yield frame_of(env)
        if (terminated or truncated) and played < len(actions):
            log.warning("the episode ended after %d of its %d actions: it is not the same one", played, len(actions))
            return


def frame_of(env: gymnasium.Env[Any, Any]) -> Frame:
    """What the environment shows now."""
    frame = env.render()
    assert isinstance(frame, np.ndarray), type(frame)
    return frame


@contextmanager
def rendering(make_env: MakeEnv) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment that has rendered once, without a display if need be; RuntimeError, one line, if it cannot."""
    logging.getLogger("OpenGL").setLevel(logging.WARNING)  # else it tells of an accelerator that is not there
    if headless():
        prefer_offscreen()
    with drawing_errors():
        env = make_env(render_mode="rgb_array")
    with closing(env):
        env.reset(seed=0)
        with drawing_errors():
            env.render()
        yield env


@contextmanager
def drawing_errors() -> Iterator[None]:
    """Where there is no display, make what OpenGL raises (while imported or drawing) one line with what to do."""
    try:
        yield
    except DependencyNotInstalled:
        raise
    except (ImportError, AttributeError, RuntimeError) as error:
        if not headless():
            raise
        raise RuntimeError(
            "cannot render without a display: install EGL (Debian: libegl1) or OSMesa (libosmesa6), or set MUJOCO_GL "
            f"(now {os.environ.get('MUJOCO_GL')}): {type(error).__name__}: {error}"
        ) from error


def headless() -> bool:
    """Whether there is no display to draw on."""
    return sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY")


def prefer_offscreen() -> None:
    """Tell pygame and MuJoCo to draw in memory, unless the user has told them where to draw."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    backend = next((name for name, library in OFFSCREEN.items() if loads(library)), None)
    if backend is not None:
        os.environ.setdefault("MUJOCO_GL", backend)


def loads(library: str) -> bool:
    """Whether the system has this shared library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
