"""Videos: an episode seen again is the episode that was played, and the file decodes to its frames."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from mbrl_lab.env import vector
from mbrl_lab.tracking import video
from mbrl_lab.tracking.video import Camera, frame_rate, pictures, record_episode, render_episode, write_video


class Lamp(gym.Env[NDArray[np.float32], int]):
    """Shows as grey how much was added to a number drawn at reset; ends at ten steps."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 12}
    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Discrete(3)
    closed = 0

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.grey, self.steps = int(self.np_random.integers(100)), 0
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> Any:
        assert type(action) is int
        self.grey, self.steps = self.grey + 10 * action, self.steps + 1
        return np.zeros(1, np.float32), 0.0, self.steps == 10, False, {}

    def render(self) -> Any:
        return np.full((33, 41, 3), self.grey, np.uint8)

    def close(self) -> None:
        Lamp.closed += 1


def decode(path: Path) -> tuple[NDArray[np.uint8], str]:
    """The frames [T, H, W, 3] as ffmpeg decodes them, and its line about the video stream."""
    command = [get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    stream = next(line for line in done.stderr.decode().splitlines() if "Video: h264" in line)
    width, height = map(int, re.findall(r", (\d+)x(\d+)", stream)[0])
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3), stream


def test_a_recorded_episode_is_the_one_that_was_played(tmp_path: Path) -> None:
    played = Lamp(render_mode="rgb_array")
    played.reset(seed=7)
    greys = [played.grey] + [played.step(a)[0] is None or played.grey for a in (2, 0, 1, 1)]
    before = Lamp.closed
    record_episode(tmp_path / "videos" / "a.mp4", Lamp, 7, np.array([2, 0, 1, 1], dtype=np.int32))
    assert Lamp.closed == before + 1
    frames, stream = decode(tmp_path / "videos" / "a.mp4")
    assert frames.shape == (5, 34, 42, 3)
    assert np.allclose([frame.mean() for frame in frames], greys, atol=3)
    assert "yuv420p" in stream and " 12 fps" in stream
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["a.mp4"]


def test_an_episode_that_finishes_too_early_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    frames = list(render_episode(Lamp, 7, np.zeros(13, dtype=np.int32)))
    assert len(frames) == 11
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, "the episode finished after 10 of its 13 actions: it is not the same one")
    ]


def test_a_video_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    def frames() -> Any:
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError("lost the environment")

    with pytest.raises(RuntimeError, match="lost"):
        write_video(tmp_path / "a.mp4", frames(), 10)
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_prints_nothing_about_half_a_frame(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As of a run that is stopped while it writes."""
    frame = np.zeros((32, 32, 3), np.uint8)
    writer = video.open_writer(tmp_path / "a.mp4", 10)
    writer.append_data(frame)
    writer._write_gen.send(frame.tobytes()[:999])
    writer.close()
    assert capfd.readouterr() == ("", "")


def test_an_ffmpeg_that_dies_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = BrokenPipeError("[Errno 32] Broken pipe\n\nFFMPEG COMMAND:\nffmpeg -y")
    dead = SimpleNamespace(append_data=raising(error), close=lambda: None)
    monkeypatch.setattr(video, "open_writer", lambda *_: dead)
    with pytest.raises(RuntimeError, match=r"^ffmpeg stopped while writing: is there disk space and memory left\?$"):
        write_video(tmp_path / "a.mp4", [np.zeros((32, 32, 3), np.uint8)], 10)


def test_frames_in_one_array_and_small_ones_are_written(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((7, 10, 10, 3), np.uint8), 30)
    assert len(decode(tmp_path / "a.mp4")[0]) == 7


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_classic_control_renders_without_a_display(tmp_path: Path, name: str) -> None:
    env = gym.make(name)
    env.action_space.seed(0)
    actions = np.array([env.action_space.sample() for _ in range(8)])
    record_episode(tmp_path / "a.mp4", lambda **how: gym.make(name, **how), 3, actions)
    frames, stream = decode(tmp_path / "a.mp4")
    assert len(frames) == 9 and f" {env.metadata['render_fps']} fps" in stream
    assert not np.array_equal(frames[0], frames[8])


def test_without_a_way_to_draw_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)

    def fail(_: Lamp) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    monkeypatch.setattr(Lamp, "render", fail)
    with pytest.raises(RuntimeError, match=r"^cannot render without a display: install EGL .*eglQueryString") as stop:
        list(render_episode(Lamp, 0, np.zeros(1)))
    assert "\n" not in str(stop.value)


@pytest.mark.parametrize(
    ("libraries", "chosen"), [({"libEGL.so.1"}, "egl"), ({"libOSMesa.so.8"}, "osmesa"), (set(), None)]
)
def test_mujoco_draws_with_the_library_that_is_there(
    monkeypatch: pytest.MonkeyPatch, libraries: set[str], chosen: str | None
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setenv("SDL_VIDEODRIVER", "")
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.delenv("SDL_VIDEODRIVER")
    monkeypatch.setattr(video, "loads", lambda library: library in libraries)
    video.prefer_offscreen()
    assert (os.environ.get("MUJOCO_GL"), os.environ["SDL_VIDEODRIVER"]) == (chosen, "dummy")
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    video.prefer_offscreen()
    assert os.environ["MUJOCO_GL"] == "glfw"


GREY = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
COLOURS = np.stack([GREY, GREY // 2, 255 - GREY], -1)


@pytest.mark.parametrize(
    ("drawn", "expected"),
    [
        (COLOURS, COLOURS),
        (GREY, GREY[:, :, None].repeat(3, 2)),
        (GREY[:, :, None], GREY[:, :, None].repeat(3, 2)),
        (np.concatenate([COLOURS, GREY[:, :, None]], -1), COLOURS),
        (np.moveaxis(COLOURS, -1, 0).copy(), COLOURS),
        (COLOURS / 255, COLOURS),
        (COLOURS.astype(np.float32), COLOURS),
        (COLOURS.astype(np.int64) * 4 - 40, np.clip(COLOURS.astype(int) * 4 - 40, 0, 255)),
        (GREY > 100, ((GREY > 100) * 255)[:, :, None].repeat(3, 2)),
        (np.where(GREY[:, :, None] > 100, COLOURS / 255, np.nan), COLOURS * (GREY > 100)[:, :, None]),
    ],
    ids=["colours", "grey", "one channel", "opacity", "channels first", "0 to 1", "floats", "integers", "bool", "nan"],
)
def test_whatever_is_a_picture_is_shown(drawn: Any, expected: Any) -> None:
    (frame,) = pictures(drawn)
    assert frame.dtype == np.uint8 and frame.shape == (5, 7, 3)
    assert np.abs(frame.astype(int) - expected).max() <= (1 if drawn.dtype.kind == "f" else 0)
    for several in ([drawn] * 2, (drawn, drawn), np.stack([drawn] * 2) if drawn.ndim == 3 else [drawn] * 2):
        assert len(pictures(several)) == 2


@pytest.mark.parametrize(
    ("drawn", "what"),
    [
        (None, "NoneType"),
        ("a text", "str"),
        ({"top": GREY}, "dict"),
        (np.zeros((5, 4, 7)), r"float64 \[5, 4, 7\]"),
        (np.zeros((0, 4, 3)), r"float64 \[0, 4, 3\]"),
        (np.zeros(5), r"float64 \[5\]"),
    ],
)
def test_what_is_no_picture_is_named(drawn: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"returned {what}, which is no picture"):
        pictures(drawn)


def test_frames_that_change_their_size_are_stretched_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vector.warn_once.cache_clear()
    half = np.zeros((20, 30, 3), np.uint8)
    half[:, 15:] = 200
    write_video(tmp_path / "a.mp4", [half, half[::2, ::3], half.repeat(2, 0), half], 10)
    frames = decode(tmp_path / "a.mp4")[0]
    assert frames.shape == (4, 20, 30, 3)
    assert all(abs(frame.astype(int) - half).mean() < 3 for frame in frames)
    assert len(caplog.messages) == 1 and "change their size" in caplog.text


class OldLamp(Lamp):
    """Draws, but knows no render_mode."""

    def __init__(self) -> None:
        super().__init__()


class ListLamp(Lamp):
    """Draws lists of frames only, two a step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array_list"]}

    def __init__(self, render_mode: str) -> None:
        if render_mode != "rgb_array_list":
            raise ValueError(f"render_mode {render_mode} is unknown")
        super().__init__(render_mode)

    def render(self) -> Any:
        return [super().render()] * 2


class UndeclaredLamp(Lamp):
    """Draws, and does not say so."""

    metadata: ClassVar[dict[str, Any]] = {}


@pytest.mark.parametrize(("kind", "frames"), [(OldLamp, 5), (ListLamp, 10), (UndeclaredLamp, 5)])
@pytest.mark.parametrize("by_id", [False, True])
def test_what_draws_in_another_way_has_its_video(
    kind: type[Lamp], frames: int, by_id: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gym.registry, "Lamp-v0", gym.envs.registration.EnvSpec("Lamp-v0", entry_point=kind))
    camera = Camera((lambda **way: gym.make("Lamp-v0", **way)) if by_id else kind)
    before = Lamp.closed
    camera(tmp_path / "a.mp4", 7, np.array([2, 0, 1, 1]))
    assert len(decode(tmp_path / "a.mp4")[0]) == frames
    assert Lamp.closed == before + 1


def test_lists_of_frames_by_gymnasiums_wrapper_have_their_video() -> None:
    def make(render_mode: str) -> Any:
        if render_mode == "rgb_array":
            raise ValueError("not this way")
        return gym.wrappers.RenderCollection(Lamp("rgb_array"))

    assert len(list(render_episode(make, 7, np.zeros(4, dtype=np.int32)))) == 5


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("verb", "error", "said"),
    [
        ("render", NotImplementedError(), "NotImplementedError"),
        ("render", KeyError("view"), "KeyError: 'view'"),
        ("render", DependencyNotInstalled("pygame is not installed"), "DependencyNotInstalled: pygame is"),
        ("render", MemoryError(), "MemoryError"),
        ("step", ZeroDivisionError("by zero\nand more"), "ZeroDivisionError: by zero"),
        ("reset", ValueError("an angle"), "an angle"),
        ("__init__", TypeError("Lamp() takes no arguments"), "this environment has no render_mode and draws nothing"),
        ("render", TypeError("of 'int' and 'str'"), "TypeError: of 'int' and 'str'"),
    ],
)
def test_whatever_fails_is_one_warning_and_no_video(
    verb: str, error: Exception, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(Lamp, verb, raising(error))
    camera = Camera(Lamp)
    for k in range(3):
        camera(tmp_path / f"{k}.mp4", 7, np.zeros(4, dtype=np.int32))
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"no video 0.mp4: {said}"), caplog.messages
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_steps_are_filmed_where_asked(tmp_path: Path) -> None:
    actions = np.zeros(4, dtype=np.int32)
    for steps in (0, 2):
        Camera(Lamp, steps=steps)(tmp_path / f"{steps}.mp4", 7, actions)
    lengths = {steps: len(decode(tmp_path / f"{steps}.mp4")[0]) for steps in (0, 2)}
    assert lengths == {0: 5, 2: 3}  # the reset's frame too


def test_rendering_only_empty_lists_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lamp, "render", lambda self: [])
    with pytest.raises(ValueError, match="drew no frame"):
        record_episode(tmp_path / "a.mp4", Lamp, 7, np.zeros(4, dtype=np.int32))


def test_one_that_cannot_be_closed_has_its_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vector.warn_once.cache_clear()
    monkeypatch.setattr(Lamp, "close", raising(OSError("no answer")))
    Camera(Lamp)(tmp_path / "a.mp4", 7, np.zeros(4, dtype=np.int32))
    assert (tmp_path / "a.mp4").exists()
    assert caplog.messages == ["close() of the environment failed: OSError: no answer"]


@pytest.mark.parametrize(("fps", "rate"), [(12, 12.0), (None, 30.0), (0, 30.0), ("fast", 30.0)])
def test_a_frame_rate_that_is_none_is_not_taken(fps: Any, rate: float) -> None:
    env = Lamp()
    env.metadata = {"render_fps": fps}  # type: ignore[misc]
    assert frame_rate(env) == rate
