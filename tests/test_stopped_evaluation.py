"""A signal during an evaluation, and evaluations in the environment of training: neither leaves a trace."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from awkward_envs import Lonely
from test_resume import assert_same_run, saved_state, stopped, whole

from mbrl_lab import load_run, make_run
from mbrl_lab.cli import evaluate as evaluation
from mbrl_lab.cli.evaluate import main
from mbrl_lab.cli.train import run
from mbrl_lab.config import compose_config
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.folder import RunFolder

WALK = ["gym", "env.id=Drawn", "debug=smoke", "steps=110", "eval.every=30", "eval.episodes=3", "eval.num=1"]
WALK += ["eval.final_episodes=2", "log_every=40", "video.final=0", "checkpoint.every=37", "runtime.device=cpu"]
DDQN = ["ddqn", *WALK, "algo.warmup=20", "policy.width=8"]


@pytest.fixture(autouse=True)
def nobody_lives() -> Iterator[None]:
    Lonely.alive = Lonely.made = 0
    yield
    assert Lonely.alive == 0, "it was not closed"


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "calm"
    whole(DDQN, folder)
    return folder


def signal_at(runner: Runner, call: int, number: signal.Signals) -> None:
    """Have a signal come while an evaluation chooses its `call`-th action; that step may be its last."""
    act, left = runner.algo.act, iter(range(call))

    def acting(*given: object, explore: bool) -> object:
        if not explore and next(left, None) is None:
            raise AssertionError("the evaluation went on")
        if not explore and left.__length_hint__() == 0:  # type: ignore[attr-defined]
            os.kill(os.getpid(), number)
        return act(*given, explore=explore)  # type: ignore[arg-type]

    runner.algo.act = acting  # type: ignore[method-assign,assignment]


def interrupted(words: list[str], folder: Path, call: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Run until the signal, and see that it was obeyed."""
    runner = make_run(*words, folder=folder)
    signal_at(runner, call, number)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        runner.run()
    runner.envs.close()
    assert runner.folder.status()["state"] == "preempted"


def test_an_evaluation_that_was_stopped_is_done_again_from_its_beginning(calm: Path, tmp_path: Path) -> None:
    for call, number, step in ((9, signal.SIGINT, 30), (30, signal.SIGUSR2, 60)):
        interrupted(DDQN, tmp_path, call, number)
        state = saved_state(tmp_path)
        assert state["evaluation_due"] and state["step"] == step
    stopped(DDQN, tmp_path, 25)  # the evaluation at 60 counts as the first of them
    assert not saved_state(tmp_path)["evaluation_due"]
    whole(DDQN, tmp_path)
    assert_same_run(calm, tmp_path)


def test_so_is_one_at_the_last_step_and_the_final_one(tmp_path: Path) -> None:
    words = ["random", *WALK, "steps=60", "eval.every=60"]
    whole(words, tmp_path / "a")
    interrupted(words, tmp_path / "b", 4)
    assert saved_state(tmp_path / "b")["step"] == 60 and saved_state(tmp_path / "b")["evaluation_due"]
    done = sum(int(row["length"]) for row in episodes(tmp_path / "a", "eval")[:3])
    interrupted(words, tmp_path / "b", done + 2 + 3)  # two steps to reset, and three of the final evaluation
    assert not saved_state(tmp_path / "b")["evaluation_due"]
    whole(words, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def episodes(folder: Path, phase: str) -> list[dict[str, float]]:
    from mbrl_lab.tracking.episodes import EpisodeLog

    return EpisodeLog(RunFolder(folder)).finished(phase)  # type: ignore[arg-type]


def test_an_evaluation_that_never_terminates_can_be_stopped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for final in (False, True):
        words = ["random", *WALK, "env.id=Unending", "eval.every=0" if final else "eval.every=30"]
        interrupted(words, tmp_path / str(final), 200)
        stop = caplog.messages[-1]
        played = 2 if final else 3
        assert stop.startswith(f"stopped while evaluating: 0 of {played} episodes, 200 steps. The environment declares")
        assert "env.max_steps=1000 with env=gym sets a limit" in stop


def test_where_there_is_a_time_limit_no_other_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(["random", *WALK, "env.id=CartPole-v1"], tmp_path, 5)
    assert caplog.messages == []


def test_evaluate_names_it_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(["random", *WALK, "env.id=Unending"], tmp_path, 5)
    runner = load_run(tmp_path, trust=["awkward_envs"])
    signal_at(runner, 5, signal.SIGINT)
    with closing(runner.envs), pytest.raises(KeyboardInterrupt):
        runner.evaluate(1)
    assert "stopped while evaluating: 0 of 1 episodes, 4 steps" in caplog.messages[-1]


def test_a_handler_that_returns_has_the_evaluation_begin_again(calm: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        runner = make_run(*DDQN, folder=tmp_path)
        act = runner.algo.act
        due = [30, 60, 110]  # the last of them in the final evaluation

        def acting(*given: object, explore: bool) -> object:
            if not explore and due and runner.steps >= due[0]:
                del due[0]
                os.kill(os.getpid(), signal.SIGUSR2)
            return act(*given, explore=explore)  # type: ignore[arg-type]

        runner.algo.act = acting  # type: ignore[method-assign,assignment]
        runner.run()
        runner.envs.close()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert due == []
    assert_same_run(calm, tmp_path)


def test_evaluating_in_the_environment_of_training_gives_the_same_numbers(calm: Path, tmp_path: Path) -> None:
    shared = [*DDQN, "env.id=Lonely", "family=discrete", "eval.shared=true"]
    stopped(shared, tmp_path, 50)
    assert Lonely.made == 1
    interrupted(shared, tmp_path, 9)
    assert Lonely.made == 2
    whole(shared, tmp_path)
    assert_same_run(calm, tmp_path)


def test_so_it_is_with_several_in_processes(tmp_path: Path) -> None:
    words = [*DDQN, "env.num=2", "steps=70"]
    whole([*words, "eval.num=2"], tmp_path / "a")
    whole([*words, "eval.shared=true", "eval.num=7", "env.asynchronous=true"], tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_videos_and_pictures_of_a_shared_environment_need_no_second_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = ["planner.population=8", "planner.horizon=3", "planner.iterations=1", "algo.warmup=40"]
    words = ["algo=mpc", "env=gym", *WALK[1:], *plan, "dynamics.trainer.max_updates=2", "steps=60"]
    words += ["env.id=Lonely", "eval.shared=true", "video.every=3", "video.final=1"]
    run(compose_config(words), tmp_path, words)
    assert caplog.messages == []
    assert {"train-0.mp4", "train-3.mp4", "final-0.mp4"} <= {path.name for path in (tmp_path / "videos").iterdir()}
    assert (tmp_path / "diagnostics" / "predicted.png").exists()

    monkeypatch.setattr(evaluation, "draw_report", lambda runner, name: [])
    assert main([str(tmp_path), "--trust", "awkward_envs", "--episodes", "1", "--video", "1"]) == 0
    assert caplog.messages == []
