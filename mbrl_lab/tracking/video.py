"""Videos of logged episodes, which are replayed from their seeds and actions."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from mbrl_lab.env.gym import CannotDraw
from mbrl_lab.env.vector import close_safely, warn_once

log = logging.getLogger(__name__)

Frame = NDArray[np.uint8]  # [H, W, 3]
MakeEnv = Callable[..., gymnasium.Env[Any, Any]]

DEFAULT_FPS = 30.0
CHANNELS = (1, 3, 4)  # of a picture: grey, RGB, RGBA
WAYS: tuple[dict[str, Any], ...] = ({"render_mode": "rgb_array"}, {"render_mode": "rgb_array_list"}, {})
"""Arguments with which an environment may render, tried in turn: some accept no render_mode and render anyway."""

UNKNOWN_MODE = re.compile("argument.* 'render_mode'|takes no (keyword )?arguments")
"""Python's words for a constructor without the argument render_mode."""

SILENCE = {"train": "; video.every=0 turns videos off", "final": "; video.final=0 turns videos off"}
"""The end of a warning, by the first word of a video's name."""

OFFSCREEN = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}  # MUJOCO_GL: the library it needs


class Camera:
    """Makes videos of episodes. Any error is only a warning, once for each reason.

    Args:
        make_env: makes the environment that renders.
        before: called first; if only one simulator can exist at a time, it closes the one for training.
        steps: number of steps of an episode that are filmed; 0: all of them.
    """

    def __init__(self, make_env: MakeEnv, before: Callable[[], None] = lambda: None, steps: int = 0) -> None:
        self.make_env = make_env
        self.before = before
        self.steps = steps
        self.warned: set[str] = set()

    def __call__(self, path: Path, seed: int, actions: NDArray[Any]) -> None:
        """Write a video of the episode."""
        try:
            self.before()
            record_episode(path, self.make_env, seed, actions[: self.steps or None])
        except Exception as error:
            if (why := reason(error)) not in self.warned:
                self.warned.add(why)
                log.warning("no video %s: %s%s", path.name, why, SILENCE.get(path.name.partition("-")[0], ""))


def origin(error: Exception) -> Exception:
    """The TypeError behind an error, such as an unknown argument of an environment; otherwise the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TypeError):
            return cause
        cause = cause.__cause__
    return error


def lacks_mode(error: Exception) -> bool:
    """Whether an environment could not be made since it has no argument `render_mode`."""
    return isinstance(error, TypeError) and UNKNOWN_MODE.search(str(error)) is not None


def reason(error: Exception) -> str:
    """An error in one line, with its type unless it is one of ours, whose messages are complete."""
    text = (str(error).strip().splitlines() or [""])[0]
    return (
        text if type(error) in (RuntimeError, ValueError) and text else f"{type(error).__name__}: {text}".rstrip(": ")
    )


def record_episode(path: Path, make_env: MakeEnv, seed: int, actions: NDArray[Any]) -> None:
    """Render an episode into a video at `path`, at the environment's own frame rate."""
    with rendering(make_env) as env:
        write_video(path, episode_frames(env, seed, actions), frame_rate(env))


def render_episode(make_env: MakeEnv, seed: int, actions: NDArray[Any]) -> Iterator[Frame]:
    """The frames of an episode one by one: the first state's, and one after each action."""
    with rendering(make_env) as env:
        yield from episode_frames(env, seed, actions)


def write_video(path: Path, frames: Iterable[Frame], fps: float) -> None:
    """Write [T, H, W, 3] uint8 frames, as an array or one by one, as H.264 in yuv420p, which every player supports.

    Frames of another size than the first are stretched to it. ValueError if there is no frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
    try:
        with closing(open_writer(unfinished, fps)) as writer:
            for frame in same_size(map(even, frames)):
                append(writer, frame)
        if not unfinished.exists():
            raise ValueError("the environment drew no frame")
        # Renamed only when it is complete: a player must not find half a file.
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def open_writer(path: Path, fps: float) -> Any:
    """ffmpeg, through imageio. It prints nothing, since a stopped run leaves it half a frame, which it reports."""
    from imageio.v2 import get_writer

    how: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "macro_block_size": 1}
    return get_writer(path, fps=fps, ffmpeg_log_level="quiet", **how)


def append(writer: Any, frame: Frame) -> None:
    """Write a frame; RuntimeError, one line, if ffmpeg has died."""
    try:
        writer.append_data(frame)
    except OSError as error:  # with ffmpeg's whole command line
        raise RuntimeError("ffmpeg stopped while writing: is there disk space and memory left?") from error


def even(frame: Frame) -> Frame:
    """The frame with its last row or column repeated if their number is odd, since yuv420p needs even numbers."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def same_size(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Frames of the size of the first, the others stretched by repeating or leaving out rows and columns."""
    size: tuple[int, ...] = ()
    for frame in frames:
        size = size or frame.shape[:2]
        if frame.shape[:2] != size:
            warn_once("the environment's frames change their size: a video shows them stretched to that of its first")
            rows, columns = (np.arange(n) * have // n for n, have in zip(size, frame.shape, strict=False))
            frame = frame[rows][:, columns]
        yield frame


def episode_frames(env: gymnasium.Env[Any, Any], seed: int, actions: NDArray[Any]) -> Iterator[Frame]:
    """The frames that `env` renders in the episode from `seed` and `actions` [L] or [L, A]."""
    env.reset(seed=seed)
    yield from pictures(env.render())
    for played, action in enumerate(actions, start=1):
        _, _, terminated, truncated, _ = env.step(int(action) if actions.ndim == 1 else action)
        yield from pictures(env.render())
        if (terminated or truncated) and played < len(actions):
            log.warning("the episode finished after %d of its %d actions: it is not the same one", played, len(actions))
            return


def frame_of(env: gymnasium.Env[Any, Any]) -> Frame:
    """The current picture of the environment."""
    return pictures(env.render())[-1]


def frame_rate(env: gymnasium.Env[Any, Any]) -> float:
    """Frames per second by the environment's metadata, or a default."""
    fps = (env.metadata or {}).get("render_fps")
    return float(fps) if isinstance(fps, int | float | np.number) and fps > 0 else DEFAULT_FPS


def pictures(drawn: Any) -> list[Frame]:
    """Frames [H, W, 3] from the result of `render()`: one picture, or all since the previous call."""
    several = isinstance(drawn, list | tuple) or getattr(drawn, "ndim", 0) == 4
    return [picture(x) for x in (drawn if several else [drawn])]


def picture(drawn: Any) -> Frame:
    """A frame [H, W, 3] from one picture: grey, RGB or RGBA, of bytes or of floats from 0 to 1 or 0 to 255.

    ValueError if it is not a picture.
    """
    image = np.asarray(drawn)

    # To [H, W, C].
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim == 3 and image.shape[-1] not in CHANNELS and image.shape[0] in CHANNELS:
        image = np.moveaxis(image, 0, -1)

    if image.ndim != 3 or image.shape[-1] not in CHANNELS or not image.size or image.dtype.kind not in "buif":
        what = f"{image.dtype} {list(image.shape)}" if image.ndim else type(drawn).__name__
        raise ValueError(f"render() of the environment returned {what}, which is no picture [height, width, 3]")

    # To bytes; floats up to 1 and booleans are scaled.
    if image.dtype.kind == "f":
        image = np.nan_to_num(image)
    if image.dtype.kind == "b" or (image.dtype.kind == "f" and image.max() < 1.5):  # up to 1, and what rounding adds
        image = image * 255.0

    colours = np.clip(image[:, :, :3], 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))


@contextmanager
def rendering(make_env: MakeEnv) -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment that has rendered once, without a display if there is none; RuntimeError or ValueError if not."""
    logging.getLogger("OpenGL").setLevel(logging.WARNING)  # it logs an accelerator that is not installed
    if headless():
        prefer_offscreen()
    env = drawing_env(make_env)
    try:
        yield env
    finally:
        close_safely(env)


def drawing_env(make_env: MakeEnv) -> gymnasium.Env[Any, Any]:
    """An environment that renders, with the first of `WAYS` that works; those that do not are closed."""
    errors: list[Exception] = []
    for way in WAYS:
        try:
            return drawn_once(make_env, way)
        except Exception as error:
            errors.append(origin(error))

    # An environment without a render_mode argument: its error without one is the interesting one.
    if lacks_mode(errors[0]):
        raise RuntimeError(
            f"this environment has no render_mode and draws nothing without one ({reason(errors[-1])}); to film it, "
            'let it accept render_mode="rgb_array" and return a picture from render()'
        ) from errors[0]
    raise errors[0]


def drawn_once(make_env: MakeEnv, way: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """The environment made in this way, after it has rendered a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gymnasium's advice to the environment's author
        with drawing_errors():
            env = make_env(**way)
        try:
            # Many environments only find out that they cannot render at the first frame.
            env.reset(seed=0)
            with drawing_errors():
                pictures(first_drawing(env))
        except BaseException:
            close_safely(env)
            raise
    return env


def first_drawing(env: gymnasium.Env[Any, Any]) -> Any:
    """The result of `render()`; gymnasium's checker rejects undeclared modes, but only at the first call."""
    try:
        return env.render()
    except AssertionError:
        return env.render()


@contextmanager
def drawing_errors() -> Iterator[None]:
    """Without a display, turn OpenGL's exceptions (during import or drawing) into one line with the remedy."""
    try:
        yield
    except (DependencyNotInstalled, NotImplementedError, CannotDraw):
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
    """Make pygame and MuJoCo render off-screen, unless the user has chosen a renderer."""
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
