"""A tape of the loop's calls with dummy parts, and evaluation that leaves training as it was."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from counting import Counting
from torch import Tensor, nn

from mbrl_lab import runner as module
from mbrl_lab.env import Envs, Episode, episode_seed
from mbrl_lab.monitor import Monitor, Stop
from mbrl_lab.protocols import Algo
from mbrl_lab.replay import Replay
from mbrl_lab.runner import EVAL, FINAL, TRAIN, Compute, Runner, Schedule, summary
from mbrl_lab.scores import Reference
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.progress import Stopwatch
from mbrl_lab.tracking.tracker import Tracker
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

SPEC = EnvSpec((1,), torch.float32, 2, True)
CPU = Compute(torch.device("cpu"), torch.float32)
EPISODE = Episode(0, 0, 7, 1.0, 1, np.zeros(1, np.int64))
FOREVER = Schedule(6, 4, 0, 2, 2, 1, 0, 0)

Tape = list[Any]


class Writes:
    """Whatever is called on it stands on the tape, with its plain arguments."""

    def __init__(self, tape: Tape, name: str, **answers: Any) -> None:
        self.__dict__.update(tape=tape, name=name, answers=answers)

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            plain = [a for a in (*args, *kwargs.values()) if isinstance(a, str | int | float)]
            self.tape.append(" ".join(map(str, [f"{self.name}.{verb}", *plain])))
            answer = self.answers.get(verb)
            return answer() if callable(answer) else answer

        return called

    def __len__(self) -> int:
        return 0

    def __enter__(self) -> Writes:
        self.tape.append(f"{self.name} opens")
        return self

    def __exit__(self, *_: object) -> None:
        self.tape.append(f"{self.name} closes")


class Actor(Algo):
    """Adds up what it has seen, in its carry."""

    def __init__(self, tape: Tape, num_actions: int = 2) -> None:
        super().__init__()
        self.tape, self.num_actions = tape, num_actions

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        self.tape.append(f"act on {step.obs.flatten().tolist()} after {carry}{'' if explore else ' greedily'}")
        return torch.zeros(len(step.first), dtype=torch.int64), (carry or 0) + 1

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        self.tape.append(f"learn {before} {after}")
        return {"loss": torch.tensor(float(after))}


class World:
    """Environments that observe the step."""

    def __init__(self, tape: Tape, num: int, stream: int) -> None:
        self.tape, self.num, self.stream, self.spec, self.frame_skip = tape, num, stream, SPEC, 4
        self.time_limit = None
        self.time = 0

    def reset(self) -> Step:
        self.tape.append(f"envs({self.num}, {self.stream}).reset")
        return self._row(True)

    def step(self, action: Tensor) -> Step:
        self.tape.append(f"envs({self.num}, {self.stream}).step")
        self.time += 1
        return self._row(False)

    def finished(self) -> list[Episode]:
        ended = self.time % 2 == 0
        return [replace(EPISODE, env=i, index=self.time // 2 - 1) for i in range(self.num)] if ended else []

    def close(self) -> None:
        self.tape.append(f"envs({self.num}, {self.stream}).close")

    def state_dict(self) -> dict[str, Any]:
        return {}

    def _row(self, first: bool) -> Step:
        zero = torch.zeros(self.num)
        obs = torch.full((self.num, 1), float(self.time))
        return Step(zero.long(), obs, zero, zero.bool(), torch.full((self.num,), first))


def runner_on(tape: Tape, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(module, "Checkpoint", lambda path, *_: Writes(tape, f"checkpoint {path}"))

    def make_envs(num: int, stream: int) -> World:
        return World(tape, num, stream)

    replay = Writes(tape, "replay", state_dict=dict)
    replay.__dict__.update(num_envs=2, storage=torch.device("cpu"))
    folder = Writes(tape, "folder")
    folder.__dict__.update(last="last", best="best")
    tracker = Writes(tape, "tracker", state_dict=dict, log=dict)
    tracker.__dict__.update(folder=folder)
    parts: dict[str, Any] = {
        "algo": Actor(tape),
        "make_envs": make_envs,
        "envs": make_envs(2, TRAIN),
        "replay": replay,
        "tracker": tracker,
        "monitor": Monitor(SPEC, Stop()),
    }
    return Runner(**parts, schedule=schedule, seed=0, compute=CPU)


def test_a_row_holds_the_means_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Schedule(8, 4, 0, 1, 8, 1, 0, 0)
    runner, rows = runner_on([], schedule, monkeypatch), []
    monkeypatch.setattr(runner.tracker, "log", lambda row: rows.append(row) or row, raising=False)
    runner.run()
    assert [row.get("loss") for row in rows] == [(2 + 4) / 2, (6 + 8) / 2, None]


def test_seconds_by_a_clock_include_those_before_a_resume() -> None:
    now = itertools.count(100, 10)
    watch = Stopwatch(lambda: next(now))
    watch.before = 7
    watch.go_on()
    assert [watch.seconds(), watch.seconds()] == [17, 27]


def test_both_clocks_are_logged_and_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, rows = runner_on([], Schedule(8, 4, 0, 1, 8, 1, 0, 0), monkeypatch), []
    runner.clock.before, runner.processor.before = 1_000.0, 500.0  # as a resume sets them
    monkeypatch.setattr(runner.tracker, "log", lambda row: rows.append(row) or row, raising=False)
    runner.run()
    assert rows[-1]["time/seconds"] > 1_000 and rows[-1]["time/processor"] > 500
    saved = runner.state_dict()
    assert saved["seconds"] > 1_000 and saved["processor"] > 500


def test_the_loop_calls_its_parts_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    tape: Tape = []
    schedule = Schedule(
        steps=6,
        log_every=4,
        eval_every=6,
        eval_episodes=1,
        eval_num=8,
        final_episodes=2,
        checkpoint_every=4,
        video_final=3,
    )
    runner_on(tape, schedule, monkeypatch).run()
    assert tape == [
        "checkpoint last.load",
        "tracker opens",
        "tracker.restart",
        "envs(2, 0).reset",
        "replay.add",
        "tracker.start 0 6",
        # 0 -> 2
        "act on [0.0, 0.0] after None",
        "envs(2, 0).step",
        "replay.add",
        "learn 0 2",
        "tracker.trained 2",
        "tracker.progress 2",
        # 2 -> 4: a row and a checkpoint are due
        "act on [1.0, 1.0] after 1",
        "envs(2, 0).step",
        "replay.add",
        "learn 2 4",
        "tracker.trained 4",
        "tracker.progress 4",
        "tracker.log",
        "replay.state_dict",
        "tracker.state_dict",
        "checkpoint last.save",
        "folder.mark running 4",
        # 4 -> 6: an evaluation is due; it is the best so far
        "act on [2.0, 2.0] after 2",
        "envs(2, 0).step",
        "replay.add",
        "learn 4 6",
        "tracker.trained 6",
        "envs(1, 1).reset",
        "act on [0.0] after None greedily",
        "envs(1, 1).step",
        "tracker.progress 6",
        "act on [1.0] after 1 greedily",
        "envs(1, 1).step",
        "tracker.progress 6",
        "envs(1, 1).close",
        "tracker.evaluated 6",
        "checkpoint best.save",
        "tracker.progress 6",
        "tracker.log",
        # the end
        "replay.state_dict",
        "tracker.state_dict",
        "checkpoint last.save",
        "folder.mark running 6",
        "envs(2, 2).reset",
        "act on [0.0, 0.0] after None greedily",
        "envs(2, 2).step",
        "tracker.progress 6",
        "act on [1.0, 1.0] after 1 greedily",
        "envs(2, 2).step",
        "tracker.progress 6",
        "envs(2, 2).close",
        "tracker.evaluated 6",
        "tracker.log",
        "folder.mark done 6",
        "tracker.film_final 6",
        "tracker closes",
    ]


def real(
    tmp_path: Path, schedule: Schedule, algo: nn.Module | None = None, num: int = 2, stop: Stop | None = None
) -> Runner:
    """A runner whose parts are real, but for the algorithm."""

    def make_envs(count: int, stream: int) -> Envs:
        return Envs(Counting, count, 0, stream)

    envs, folder = make_envs(num, TRAIN), RunFolder(tmp_path)
    folder.open({"steps": schedule.steps}, [])
    tracker = Tracker(folder, {}, lambda path, seed, actions: None, 0)
    parts: dict[str, Any] = {"replay": Replay(envs.spec, 100, num, 0), "tracker": tracker}
    parts["monitor"] = Monitor(envs.spec, Stop() if stop is None else stop)
    algo = Drawing() if algo is None else algo
    return Runner(algo=algo, make_envs=make_envs, envs=envs, schedule=schedule, **parts, seed=0, compute=CPU)


class Drawing(Algo):
    """Random actions, and a loss that says which random number came last."""

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        self.drawn = torch.randint(4, (len(step.first),))
        return self.drawn, carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        return {"loss": self.drawn.float().mean()}


class Slow(Drawing):
    """Learns from step 6 on, which takes 3 s; everything else takes none."""

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.clock, self.steps = clock, 0

    @property
    def warmed_up(self) -> bool:
        return self.steps >= 6

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        self.steps = after
        self.clock.now += 3 * self.warmed_up
        return {}


def test_a_run_that_takes_hours_says_so_when_it_has_begun_to_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An evaluation in between, which takes 1,000 s, does not count."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now, process_time=float))
    runner = real(tmp_path, Schedule(4_020, 100, 16, 1, 1, 1, 0, 0), Slow(clock))
    evaluate = runner.evaluate

    def slowly(*args: Any) -> list[Episode]:
        began, played = clock.now, evaluate(*args)
        clock.now += 1_000
        runner.evaluating += clock.now - began
        return played

    monkeypatch.setattr(runner, "evaluate", slowly)
    with runner.tracker, caplog.at_level(logging.WARNING):
        runner.reset()
        for _ in range(20):
            runner.advance()
    runner.envs.close()
    words = "about 1.7 hours left: each of 4,000 steps takes 1.5 s, 1.5 s of it for learning (algo.update)"
    assert caplog.messages == [f"step 20: {words}"]


@pytest.mark.parametrize(("episodes", "num"), [(1, 4), (7, 3), (6, 3), (5, 8)])
def test_evaluation_counts_long_and_short_episodes_equally(tmp_path: Path, episodes: int, num: int) -> None:
    runner = real(tmp_path, Schedule(1, 1, 0, 1, num, 1, 0, 0))
    played = runner.evaluate(episodes)
    wide = min(num, episodes)
    assert [(e.index, e.env) for e in played] == [(k // wide, k % wide) for k in range(episodes)]
    assert [e.seed for e in played] == [episode_seed(0, FINAL, k % wide, k // wide) for k in range(episodes)]


def test_evaluation_repeats_and_streams_differ(tmp_path: Path) -> None:
    runner = real(tmp_path, FOREVER)
    first = runner.evaluate(4, EVAL)
    torch.manual_seed(123)
    again, final = runner.evaluate(4, EVAL), runner.evaluate(4, FINAL)
    assert [(e.seed, e.ret) for e in first] == [(e.seed, e.ret) for e in again]
    assert not {e.seed for e in first} & {e.seed for e in final}
    runner.steps = 10
    assert [e.seed for e in runner.evaluate(4, EVAL)] == [e.seed for e in first]
    assert [e.actions.tolist() for e in runner.evaluate(4, EVAL)] != [e.actions.tolist() for e in first]


def test_evaluating_does_not_disturb_training(tmp_path: Path) -> None:
    runs = []
    for name, every in (("a", 0), ("b", 5)):
        torch.manual_seed(0)
        runner = real(tmp_path / name, Schedule(40, 4, every, 3, 2, 1, 0, 0))
        runner.run()
        runs.append(runner)
    a, b = runs
    assert all(torch.equal(x, y) for x, y in zip(a.replay.latest(21), b.replay.latest(21), strict=True))
    assert a.folder.metrics.read_text() != b.folder.metrics.read_text()


def test_the_best_checkpoint_is_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = real(tmp_path, FOREVER)
    saved: Tape = []
    monkeypatch.setattr(module, "Checkpoint", lambda path: Writes(saved, path.name))
    with runner.tracker:
        for value in (3.0, 1.0, 3.0, 4.0, -5.0):
            monkeypatch.setattr(runner, "evaluate", lambda *_, v=value: [replace(EPISODE, ret=v)])
            runner.evaluate_policy()
    assert saved == ["best.save"] * 2 and runner.best == 4.0


def test_the_best_is_chosen_by_the_named_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = real(tmp_path, replace(FOREVER, best="eval/return_min"))
    saved: Tape = []
    monkeypatch.setattr(module, "Checkpoint", lambda path: Writes(saved, path.name))
    with runner.tracker:
        for low, high in ((1.0, 2.0), (0.0, 9.0), (1.5, 1.6)):
            monkeypatch.setattr(runner, "evaluate", lambda *_, v=(low, high): [replace(EPISODE, ret=r) for r in v])
            runner.evaluate_policy()
    assert saved == ["best.save"] * 2 and runner.best == 1.5


class Bad(Drawing):
    """Its loss is no number from the 8th step on."""

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        return {"model/train/loss": torch.tensor(float("nan") if after >= 8 else 1.0), "model/fine": 1.0}


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name(tmp_path: Path) -> None:
    runner = real(tmp_path, Schedule(100, 4, 0, 1, 1, 1, 0, 0), Bad())
    with pytest.raises(FloatingPointError, match="model/train/loss is nan at step 8"):
        runner.run()
    last = runner.folder.metrics.read_text().splitlines()[-1]
    assert '"model/train/loss": null' in last and '"step": 8' in last


def test_a_run_stops_early_when_it_is_good_enough(tmp_path: Path) -> None:
    schedule = Schedule(1000, 4, 0, 1, 1, 3, 0, 0)
    runner = real(tmp_path, schedule, Bad(), stop=Stop("model/fine", 1.0, 1))
    final = runner.run()
    rows = [json.loads(line) for line in runner.folder.metrics.read_text().splitlines()]
    assert runner.steps == 4 and [row["step"] for row in rows] == [4, 4]
    assert final["final/return"] == rows[1]["final/return"] and "final/return_iqm" in rows[1]
    assert runner.folder.status()["state"] == "done" and runner.folder.status()["step"] == 4


def test_a_run_may_wait_for_what_its_training_episodes_return(tmp_path: Path) -> None:
    runner = real(tmp_path, Schedule(1000, 4, 0, 1, 1, 1, 0, 0), stop=Stop("train/return", 10.0, 2))
    runner.run()
    assert 4 < runner.steps < 1000


def test_a_score_is_normalised_by_that_of_people() -> None:
    episodes = [replace(EPISODE, ret=r) for r in (1.7, 31.5, 30.5)]
    assert summary("eval", episodes, Reference(1.7, 30.5))["eval/hns"] == pytest.approx((63.7 / 3 - 1.7) / 28.8)


def test_summary_by_hand() -> None:
    episodes = [replace(EPISODE, ret=r, length=n) for r, n in ((1.0, 2), (3.0, 4), (8.0, 6))]
    assert summary("eval", episodes) == {
        "eval/return": 4.0,
        "eval/return_std": pytest.approx((26 / 3) ** 0.5),
        "eval/return_iqm": 4.0,
        "eval/return_min": 1.0,
        "eval/return_max": 8.0,
        "eval/length": 4.0,
    }


def test_lower_precision_sees_every_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several gradient steps lie within one `learn`, each of them on the weights that the one before left."""
    runner = runner_on([], FOREVER, monkeypatch)
    runner.precision = torch.bfloat16
    weight, x = nn.Parameter(torch.ones(4, 4)), torch.ones(2, 4)
    with runner.autocast():
        before = x @ weight
        weight.data.mul_(3)
        assert before.dtype == torch.bfloat16
        assert torch.equal(x @ weight, 3 * before)
