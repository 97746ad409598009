"""Environments by their gymnasium id: images as the laboratory wants them, and what is said where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from mbrl_lab.config import build, compose_config
from mbrl_lab.doctor import machine
from mbrl_lab.env import gym as gym_module
from mbrl_lab.env import make_gym
from mbrl_lab.env.dmc import load_suite, make_dmc, no_opengl
from mbrl_lab.tracking.video import rendering

RUNNERS = ["ant", "cheetah", "cheetah_cs285", "hopper", "humanoid", "swimmer", "walker"]


class Picture(gymnasium.Env[Any, Any]):
    """Shows numbers counted row by row, channels last."""

    observation_space = Box(0, 255, (4, 5, 3), np.uint8)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.arange(60, dtype=np.uint8).reshape(4, 5, 3), {}


@pytest.fixture
def picture() -> Iterator[str]:
    gymnasium.register("Picture-v0", Picture)
    yield "Picture-v0"
    del gymnasium.registry["Picture-v0"]


def test_images_have_their_channels_first(picture: str) -> None:
    env = make_gym(picture, disable_env_checker=True)
    obs = env.reset(seed=0)[0]
    assert env.observation_space == Box(0, 255, (3, 4, 5), np.uint8)
    assert obs.shape == (3, 4, 5) and obs.dtype == np.uint8 and env.observation_space.contains(obs)
    assert obs[2, 3, 4] == 59 and obs[0, 1, 0] == 15


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("LunarLandr-v3", "gymnasium has no environment of this name; did you mean LunarLander-v3?"),
        ("lunarlander-v3", "gymnasium has no environment of this name; did you mean LunarLander-v3?"),
        ("CartPole-v7", "gymnasium has no environment of this name; did you mean CartPole-v1?"),
        ("no such id", "Malformed environment ID: no such id."),
        ("no_such_module:Thing-v0", "No module named 'no_such_module'."),
    ],
)
def test_an_id_that_is_not_there(id: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make_gym(id)
    line = str(caught.value)
    assert line.startswith(f"env.make.id is {id!r} (env.id with env=gym): {said}") and "\n" not in line


@pytest.mark.parametrize(("package", "extra"), [("Box2D", "box2d"), ("MuJoCo", "mujoco")])
def test_a_package_that_is_not_there(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(id: str, **kwargs: Any) -> Any:
        raise gymnasium.error.DependencyNotInstalled(f"{package} is not installed, you can install it by run\nmagic")

    monkeypatch.setattr(gymnasium, "make", make)
    with pytest.raises(ValueError) as caught:
        make_gym("LunarLander-v3")
    assert str(caught.value).endswith(f"{package} is not installed: pip install 'gymnasium[{extra}]'")


def test_the_control_suite_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    load_suite.cache_clear()
    monkeypatch.setitem(sys.modules, "dm_control", None)
    needs = 'env=dmc: dm_control is not installed: pip install "mbrl_lab[dmc]"'
    with pytest.raises(ValueError) as caught:
        make_dmc("hopper-stand", 1)
    assert str(caught.value) == needs
    found = machine.environment("dmc")
    assert (found.state, found.finding) == ("optional", needs)


@pytest.mark.parametrize("asked", [None, "", "egl"])
def test_importing_the_control_suite_leaves_how_to_draw(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if asked is None:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
    else:
        monkeypatch.setenv("MUJOCO_GL", asked)
    with no_opengl():
        assert os.environ["MUJOCO_GL"] == "off"
    assert os.environ.get("MUJOCO_GL") == asked


@pytest.mark.parametrize("name", RUNNERS)
def test_the_camera_follows_what_runs_away(name: str) -> None:
    cfg = compose_config(["algo=random", f"env={name}"])
    try:
        with rendering(build(cfg.env.make)) as env:
            robot: Any = env.unwrapped
            far = robot.data.qpos.copy()
            far[0] += 30
            shown = []
            for bend in (0.0, 0.7):
                far[-1] += bend
                robot.set_state(far, robot.data.qvel)
                shown.append(env.render())
    except RuntimeError as error:
        pytest.skip(f"no renderer: {error}")
    assert (np.asarray(shown[0]) != np.asarray(shown[1])).any(), "an empty floor"


@pytest.mark.parametrize("env", ["cheetah", "cheetah_cs285"])
def test_mujoco_warns_through_the_log_and_nowhere_else(
    env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    made: Any = build(compose_config(["algo=random", f"env={env}"]).env.make)()
    made.reset(seed=0)
    assert not caplog.records, "what is deprecated in its file is nothing to warn of"
    made.unwrapped.data.qvel[:] = 1e12
    made.step(made.action_space.sample())
    said = caplog.records[0].getMessage()
    assert said.startswith("MuJoCo: Nan, Inf or huge value in QVEL")
    assert "settotalmass" not in "".join(capfd.readouterr()) and not list(tmp_path.iterdir())


DRAWS = """
import logging, os, sys
sys.argv[1:] and os.environ.__setitem__("MUJOCO_GL", sys.argv[1])
from mbrl_lab.env import make_gym
from mbrl_lab.env.dmc import load_suite, make_dmc, no_opengl
from mbrl_lab.env.gym import CannotDraw
assert "mujoco" not in sys.modules
make = lambda **how: make_gym("InvertedPendulum-v5", **how)
if os.fork():
    os.wait()
    from mbrl_lab.env.cs285 import make_cs285
    make = lambda **how: make_cs285("reacher", 5, **how)
env = make()
env.reset(seed=0)
print(len(env.step(env.action_space.sample())))
try:
    make(render_mode="rgb_array")
except CannotDraw as error:
    print(error)
"""


def test_a_simulator_needs_no_way_to_draw() -> None:
    """MuJoCo looks for one while it is imported, so this takes a process of its own, and a copy of it."""
    done = subprocess.run([sys.executable, "-c", DRAWS, "nonsense"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and not done.stderr, done.stderr
    for steps, why in (lines[:2], lines[2:]):
        assert steps == "5" and why.startswith("MUJOCO_GL=nonsense draws nothing here (invalid value")
        assert why.endswith("MUJOCO_GL can be egl, osmesa or glfw where they are installed, or unset")


@pytest.mark.parametrize("error", [ImportError("no EGL"), RuntimeError("no\ndevice"), AttributeError("glGetError")])
def test_whatever_a_library_of_graphics_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def import_mujoco(name: str) -> None:
        asked.append(os.environ.get("MUJOCO_GL"))
        if asked[-1] != "off":
            raise error

    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setattr(gym_module, "import_module", import_mujoco)
    said = gym_module._import_mujoco.__wrapped__()
    assert asked == ["egl", "off"] and said == f"MUJOCO_GL=egl draws nothing here ({str(error).partition(chr(10))[0]})"
