"""Videos: an episode seen again is the episode that was played, and the file decodes to its frames."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe
from numpy.typing import NDArray

from mbrl_lab.tracking import video
from mbrl_lab.tracking.video import record_episode, render_episode, write_video


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


def test_an_episode_that_ends_too_early_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    frames = list(render_episode(Lamp, 7, np.zeros(13, dtype=np.int32)))
    assert len(frames) == 11
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, "the episode ended after 10 of its 13 actions: it is not the same one")
    ]


def test_a_video_that_breaks_off_leaves_no_file(tmp_path: Path) -> None:
    def frames() -> Any:
        yield np.zeros((32, 32, 3), np.uint8)
        raise RuntimeError("lost the environment")

    with pytest.raises(RuntimeError, match="lost"):
        write_video(tmp_path / "a.mp4", frames(), 10)
    assert list(tmp_path.iterdir()) == []


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
def test_mujoco_is_told_to_draw_by_what_the_system_has(
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
