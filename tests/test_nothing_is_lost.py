"""What goes wrong while drawing or closing: one warning, and a run that is done with its results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward_envs  # noqa: F401  they are known by their names from here on
import matplotlib.figure
import pytest
from runs import metrics

from mbrl_lab import report
from mbrl_lab.cli import evaluate as evaluation
from mbrl_lab.cli.doctor import main as doctor
from mbrl_lab.cli.evaluate import main
from mbrl_lab.cli.train import run
from mbrl_lab.config import compose_config
from mbrl_lab.env import vector
from mbrl_lab.tracking import video
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.signals import Signals

ODD = ["env=gym", "family=discrete", "debug=smoke", "steps=60", "eval.every=30", "runtime.device=cpu", "video.every=2"]
TRUST = ["--trust", "awkward_envs"]
PLAN = ["algo=mpc", "planner.population=8", "planner.horizon=3", "planner.iterations=1", "algo.warmup=40"]


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    vector.warn_once.cache_clear()
    yield
    vector.warn_once.cache_clear()


def whole(folder: Path, *words: str) -> dict[str, Any]:
    """Run it as the script does; its last row, once it is seen to be done."""
    given = [*ODD, *words]
    run(compose_config(given), folder, given)
    assert RunFolder(folder).status()["state"] == "done"
    last = metrics(folder)[-1]
    assert "final/return" in last
    return last


def test_an_environment_that_cannot_draw(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    blind, drawn = ([f"env.id={name}", "algo=random"] for name in ("Blind", "Drawn"))
    assert whole(tmp_path / "a", *blind) == whole(tmp_path / "b", *drawn)
    (message,) = caplog.messages
    why = (
        "this environment has no render_mode and draws nothing without one (NotImplementedError); to film it, let it "
        'accept render_mode="rgb_array" and return a picture from render()'
    )
    assert message == f"no video train-0.mp4: {why}; video.every=0 turns videos off"
    assert "final-0.mp4" in capsys.readouterr().out and not list((tmp_path / "a").glob("videos/*"))

    caplog.clear()
    folder = str(tmp_path / "a")
    assert main([folder, *TRUST, "--episodes", "2", "--video", "2"]) == 0
    assert caplog.messages == [f"no video evaluation-last-0.mp4: {why}"]
    assert main([folder, *TRUST, "--episode", "train:0"]) == 2
    monkeypatch.setattr(evaluation, "headless", lambda: False)
    assert main([folder, *TRUST, "--render"]) == 2
    film, window = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert film == f"error: no video train-0.mp4: {why}"
    assert window.startswith("error: --render: the environment cannot be shown (it has no render_mode); --video 1")

    monkeypatch.chdir(tmp_path)
    assert doctor([*ODD, *blind]) == 0
    assert f"picture   none: {why}" in capsys.readouterr().out.splitlines()


def test_an_environment_that_cannot_be_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole(tmp_path, "algo=random", "env.id=Unclosable", "env.num=2")
    assert caplog.messages == ["close() of the environment failed: OSError: the simulator does not answer"]
    assert (tmp_path / "videos" / "final-0.mp4").exists()


def test_pictures_that_cannot_be_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ZeroDivisionError("an axis without length\nand more")

    with monkeypatch.context() as patched:
        patched.setattr(matplotlib.figure.Figure, "savefig", refuse)
        whole(tmp_path, *PLAN, "dynamics.trainer.max_updates=2", "env.id=Drawn", "video.every=0", "video.final=0")
    why = "ZeroDivisionError: an axis without length"
    assert caplog.messages == [f"no picture of the run's curves: {why}", f"no picture of its model: {why}"]

    caplog.clear()
    monkeypatch.setattr(report, "draw_model", refuse)
    assert main([str(tmp_path), *TRUST, "--episodes", "1"]) == 0
    assert caplog.messages == [f"no picture of its model: {why}"]
    assert (tmp_path / "diagnostics" / "curves.png").exists()


def test_results_are_safe_before_anything_is_drawn_and_drawing_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def record(path: Path, *_: object) -> None:
        seen.append(json.loads((tmp_path / "status.json").read_text()) | metrics(tmp_path)[-1])
        signals._note(15, None)

    caught: list[Signals] = []
    enter = Signals.__enter__
    monkeypatch.setattr(Signals, "__enter__", lambda self: caught.append(self) or enter(self))
    monkeypatch.setattr(video, "record_episode", record)
    signals: Any = type("Late", (), {"_note": lambda self, *given: caught[-1]._note(*given)})()
    with pytest.raises(SystemExit) as stop:
        whole(tmp_path, "algo=random", "env.id=Drawn", "video.every=0", "video.final=3")
    assert stop.value.code == 143 and len(seen) == 1
    assert seen[0]["state"] == "done" and "final/return" in seen[0]
    assert RunFolder(tmp_path).status()["state"] == "done"


def test_videos_leave_random_numbers_alone(tmp_path: Path) -> None:
    words = ["algo=random", "env.id=Careless", "eval.every=0", "video.final=0"]
    assert whole(tmp_path / "a", *words, "video.every=4") == whole(tmp_path / "b", *words, "video.every=0")
    assert (tmp_path / "a" / "videos" / "train-0.mp4").exists()
