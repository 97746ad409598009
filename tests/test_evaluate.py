"""scripts/evaluate.py: whole episodes with a run's weights, logged episodes seen again, and errors in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imageio_ffmpeg import count_frames_and_secs

from mbrl_lab import load_run, make_run
from mbrl_lab.cli import evaluate as evaluation
from mbrl_lab.cli.evaluate import main, statistics, table
from mbrl_lab.scores import Reference, interquartile_mean
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 random steps in CartPole, evaluated once on the way."""
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    settings = {"steps": 120, "log_every": 40, "eval.every": 80, "eval.episodes": 1, "eval.final_episodes": 1}
    runner = make_run("random", "cartpole", "runtime.device=cpu", "video.final=0", folder=folder, **settings)
    runner.run()
    runner.envs.close()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it that a test may write to; pictures are left to the one test that looks at them."""
    monkeypatch.setattr(evaluation, "draw_report", lambda runner, name: [])
    yield Path(shutil.copytree(finished, tmp_path / "run"))


def results(run: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((run / "evaluations" / f"{name}.json").read_text()))


def frames(path: Path) -> int:
    return int(count_frames_and_secs(path)[0])


def test_results_are_those_of_the_runner(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--episodes", "6"]) == 0
    runner = load_run(run)
    played = runner.evaluate(6)
    runner.envs.close()
    written = results(run, "last-6")
    assert [(x["seed"], x["return"]) for x in written["played"]] == [(e.seed, e.ret) for e in played]
    assert len({x["seed"] for x in written["played"]}) == 6
    assert written["return"] == pytest.approx(np.mean([e.ret for e in played]))
    assert (written["checkpoint"], written["step"], written["at_time_limit"]) == ("last", 120, 0)
    head, values, where = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["checkpoint", "step", "episodes", "return"]
    assert values.split()[:4] == ["last", "120", "6", f"{written['return']:.1f}"]
    assert where == f"results   {run}/evaluations/last-6.json"


def test_a_run_evaluated_twice_gives_the_same_results(run: Path) -> None:
    main([str(run), "--episodes", "3"])
    first = results(run, "last-3")
    main([str(run), "--episodes", "3", "--checkpoint", str(run / "checkpoints" / "last")])
    assert results(run, "last-3") == first
    assert [path.name for path in (run / "evaluations").iterdir()] == ["last-3.json"]


def test_other_checkpoints_have_results_of_their_own(run: Path, tmp_path: Path) -> None:
    kept = shutil.copytree(run / "checkpoints" / "best", tmp_path / "kept" / "at" / "80")
    assert main([str(run), "--episodes", "1", "--checkpoint", "best"]) == 0
    assert main([str(run), "--episodes", "1", "--checkpoint", str(kept)]) == 0
    best, other = results(run, "best-1"), results(run, "kept-at-80-1")
    assert (best["checkpoint"], other["checkpoint"]) == ("best", "kept-at-80")
    assert best["step"] == other["step"] == 80
    assert best["played"] == other["played"]


def test_the_first_episodes_are_filmed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--episodes", "3", "--video", "2"]) == 0
    videos = [run / "videos" / f"evaluation-last-{k}.mp4" for k in range(2)]
    lengths = [x["length"] for x in results(run, "last-3")["played"]]
    assert [frames(path) for path in videos] == [length + 1 for length in lengths[:2]]
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("video")] == [
        str(path) for path in videos
    ]
    assert not (run / "videos" / "evaluation-last-2.mp4").exists()


def test_a_logged_episode_is_replayed_without_a_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    train = EpisodeLog(RunFolder(run)).finished("train")
    assert len(train) > 1
    assert main([str(run), "--episode", "train:1"]) == 0
    assert frames(run / "videos" / "train-1.mp4") == train[1]["length"] + 1
    assert main([str(run), "--episode", "eval:-1"]) == 0
    latest = EpisodeLog(RunFolder(run)).finished("eval")
    assert frames(run / "videos" / f"eval-{len(latest) - 1}.mp4") == latest[-1]["length"] + 1
    assert not (run / "evaluations").exists()


def test_an_episode_in_a_window(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DISPLAY", ":0")  # conftest has SDL draw in memory
    modes = []
    envs = evaluation.Envs
    monkeypatch.setattr(evaluation, "Envs", lambda make, *rest: modes.append(make.keywords) or envs(make, *rest))
    assert main([str(run), "--render"]) == 0
    assert modes[0]["render_mode"] == "human"
    main([str(run), "--episodes", "1"])
    (played,) = results(run, "last-1")["played"]
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"return    {played['return']}",
        f"length    {played['length']}",
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["{run}/nowhere"], "{run}/nowhere holds no run: there is no such folder"),
        (["{run}/nowhere", "--episode", "train:0"], "{run}/nowhere holds no run"),
        (["{run}", "--checkpoint", "{run}"], "{run} holds no checkpoint; --checkpoint can be last, best or"),
        (["{run}", "--episode", "3"], "--episode is '3'; it must be train:K or eval:K"),
        (["{run}", "--episode", "train:-"], "--episode is 'train:-'; it must be train:K or eval:K"),
        (["{run}", "--episode", "train:99"], "--episode train:99 does not exist; train episodes of this run: 0 to "),
        (["{run}", "--render"], "--render needs a display, and there is none here"),
    ],
)
def test_errors_are_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main([arg.format(run=run) for arg in args]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {words.format(run=run)}") and said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("args", [["--episodes", "0"], ["--video", "-1"], ["--episode", "train:0", "--render"]])
def test_options_that_cannot_be(run: Path, args: list[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([str(run), *args])
    assert exit.value.code == 2


def test_a_video_that_cannot_be_drawn_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("cannot render without a display\nand more")

    monkeypatch.setattr(evaluation, "record_episode", refuse)
    assert main([str(run), "--episode", "train:0"]) == 2
    assert capsys.readouterr().err == "error: no video train-0.mp4: cannot render without a display\n"


def test_wandb_resumes_the_run(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    rows: list[dict[str, float]] = []
    ends: list[int] = []
    service = types.SimpleNamespace(
        log=rows.append, define_metric=lambda *_, **__: None, finish=lambda exit_code: ends.append(exit_code)
    )
    fake = types.SimpleNamespace(init=lambda **x: asked.update(x) or service, Settings=lambda **x: x)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    assert main([str(run), "--episodes", "2", "--logger", "wandb"]) == 0
    (row,) = rows
    written = results(run, "last-2")
    assert row["step"] == 120 and row["frames"] == 120 and ends == [0]
    assert row["evaluation/last/return_iqm"] == written["return_iqm"]
    assert (asked["id"], asked["resume"]) == (RunFolder(run).identity(), "allow")
    assert (asked["project"], asked["tags"]) == ("mbrl_lab", [])


def test_the_pictures_of_the_report_are_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(finished), "--episodes", "1"]) == 0
    named = [Path(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("report")]
    assert finished / "diagnostics" / "curves.png" in named
    assert all(path.stat().st_size > 0 for path in named)


@pytest.mark.parametrize(
    ("values", "expected"), [([7.0], 7.0), ([1, 2, 9], 4.0), ([100, 1, 2, 3], 2.5), ([-90, 4, 1, 2, 3, 5, 6, 99], 3.5)]
)
def test_interquartile_mean(values: list[float], expected: float) -> None:
    assert interquartile_mean(np.array(values, float)) == expected


def test_episodes_at_the_time_limit_are_counted(run: Path) -> None:
    runner = load_run(run)
    played = [dataclasses.replace(e, truncated=cut) for e in runner.evaluate(1) for cut in (False, True, True)]
    assert statistics(played)["at_time_limit"] == 2
    scored = statistics([dataclasses.replace(played[0], ret=16.1)], Reference(1.7, 30.5))
    assert scored["hns"] == pytest.approx(0.5)
    assert table(scored).splitlines()[1].split()[-2:] == ["0.500", "0"]
    runner.envs.close()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 steps whose model was fitted at the hundredth."""
    folder = tmp_path_factory.mktemp("runs") / "planned"
    settings = {
        "steps": 120,
        "eval.every": 0,
        "eval.final_episodes": 1,
        "dynamics.trainer.max_updates": 5,
        "algo.warmup": 100,
    }
    small = {"planner.horizon": 4, "planner.population": 16, "planner.iterations": 1}
    short = "+env.make.max_episode_steps=40"
    runner = make_run("mpc", "cartpole", "video.final=0", short, folder=folder, **settings, **small)
    runner.run()
    runner.envs.close()
    return folder


def test_the_model_can_be_validated_alone(planned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(planned), "--model"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "hold-out transitions" in lines[0] and lines[1].split()[:4] == ["of", "error", "bias", "spread"]
    assert [line.split()[0] for line in lines[2:7]] == ["state"] * 4 + ["reward"]
    (termination,) = (line for line in lines if line.startswith("termination  predicted probability: "))
    assert termination.endswith(" elsewhere")
    assert any(line.startswith("plans    predicted return ") and "ms each" in line for line in lines)
    values = json.loads((planned / "diagnostics" / "model.json").read_text())
    assert {"model/holdout/obs/rmse", "model/holdout/std", "model/holdout/coverage_95", "time/plan"} <= set(values)
    rows = (planned / "diagnostics" / "dimensions.csv").read_text().splitlines()
    assert rows[0] == "of,error,bias,spread,in_50,in_80,in_95" and len(rows) == 6
    assert len((planned / "diagnostics" / "horizon.csv").read_text().splitlines()) == 51
    assert not (planned / "evaluations").exists()


def test_a_run_without_a_model_has_none_to_validate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--model"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: --model: {run} is a run of algo=random, without a world model\n"


def test_a_stopped_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "answer", stopped)
    assert main(["outputs/mine"]) == 130
    assert capsys.readouterr().err == "stopped before the end; the same command begins again\n"


def test_a_stopped_evaluation_says_how_far_it_came(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counts: list[int] = []
    written = sorted((run / "evaluations").glob("*"))

    def stopping(*given: Any, **named: Any) -> Any:
        runner = load_run(*given, **named)

        def progress(step: int, note: Any) -> None:
            counts.append(sum(map(len, note.finished)))
            if counts[-1]:
                raise KeyboardInterrupt

        monkeypatch.setattr(runner.tracker, "progress", progress)
        monkeypatch.setattr(runner.tracker, "stop", lambda: print("line of progress", file=sys.stderr))
        return runner

    monkeypatch.setattr(evaluation, "load_run", stopping)
    assert main([str(run), "--episodes", "7"]) == 130
    lines = [f"played    {counts[-1]} of 7 episodes; nothing was written", evaluation.STOPPED]
    # The line of progress ends once, before these.
    assert capsys.readouterr().err.splitlines() == ["line of progress", *lines]
    assert sorted((run / "evaluations").glob("*")) == written
