"""The progress line: what it says, and how rarely."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mbrl_lab.env import Episode
from mbrl_lab.tracking.progress import EvaluationNote, LongRunNotice, Progress


class Clock:
    """A clock that shows the time it is given."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def train(progress: Progress, clock: Clock, steps: range, seconds: float) -> None:
    """Update it after each of these steps, which take so long."""
    for step in steps:
        clock.now += seconds
        progress.update(step)


def test_the_line_counts_from_where_a_resumed_run_begins() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100_000, start=20_000, stream=stream, clock=clock)
    clock.now += 10
    progress.update(30_000, train_return=23.14159, eval_return=-45.0)
    assert stream.getvalue() == ("30,000/100,000  30%  train 23.14  eval -45  1,000 steps/s  0:00:10, 0:01:10 left\n")


def test_the_speed_is_that_of_late() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(10**6, stream=stream, clock=clock)
    for second in range(1, 2000):
        clock.now += 10
        progress.update(second * 1000 if second < 1500 else 1_499_000 + (second - 1499) * 10)
    assert "  1 steps/s" in stream.getvalue().splitlines()[-1]


def test_evaluations_count_neither_for_the_speed_nor_for_what_is_left() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, clock=clock)
    train(progress, clock, range(1, 101), 0.1)
    for _ in range(30):
        clock.now += 10
        progress.update(100, note="evaluating")
    progress.update(100, eval_return=5.0)
    train(progress, clock, range(101, 202), 0.1)
    assert stream.getvalue().splitlines()[-1].endswith("eval 5  10 steps/s  0:05:20, 0:01:20 left")


def test_a_speed_is_shown_from_the_first_step_that_took_time() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(20, stream=stream, clock=clock)
    assert progress.line(clock.now) == "0/20  0%  ? steps/s  0:00:00, ? left"
    progress.update(1)
    assert stream.getvalue() == "1/20  5%  ? steps/s  0:00:00, ? left\n", "a step within one tick of the clock"
    clock.now += 0.1
    progress.update(20)
    assert progress.line(clock.now) == "20/20  100%  200 steps/s  0:00:00, 0:00:00 left"


def test_what_takes_long_is_announced_at_once() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, clock=clock)
    clock.now += 2
    progress.update(20)
    clock.now += 2
    progress.announce("filming final-0.mp4")
    clock.now += 100
    progress.update(20)
    progress.close()
    assert [line.split("  ")[-1] for line in stream.getvalue().splitlines()] == [
        "0:00:02, 0:01:38 left",
        "0:00:04, filming final-0.mp4",
        "0:01:44, 0:01:38 left",
    ]


def test_elsewhere_than_on_a_terminal_a_line_comes_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, clock=clock)
    train(progress, clock, range(1, 1001), 0.025)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split("/")[0] for line in lines] == ["1", "401", "801", "1,000"]
    assert lines[-1].startswith("1,000/1,000  100%")


def test_a_last_line_is_not_printed_twice() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1, stream=stream, clock=clock)
    progress.update(1)
    progress.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_on_a_terminal_the_line_is_rewritten_five_times_a_second_at_most() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(10_000, stream=stream, clock=clock)
    train(progress, clock, range(1, 2001), 0.001)
    progress.close()
    shown = stream.getvalue()
    assert 9 <= shown.count("\r") <= 12
    assert shown.count("\n") == 1 and shown.endswith("\x1b[K\n")
    assert max(len(line) for line in shown.replace("\x1b[K", "").split("\r")) <= 80


def ended(env: int, length: int) -> Episode:
    return Episode(env, 0, 0, 0.0, length, np.zeros(length, np.int64))


def evaluate(note: EvaluationNote, clock: Clock, rounds: int, *episodes: Episode) -> str:
    """What is said after so many steps of a second each, with the last of which these episodes ended."""
    for k in range(rounds):
        clock.now += 1
        note.advance(episodes if k == rounds - 1 else ())
    return str(note)


def test_an_evaluation_shows_episodes_steps_and_time_left() -> None:
    clock = Clock()
    note = EvaluationNote(3, 2, 100, [], clock)
    assert str(note) == "evaluating: 0 of 3 episodes, 0 steps"
    assert evaluate(note, clock, 10) == "evaluating: 0 of 3 episodes, 20 steps, 0:03:11 left", "90, 1 to reset, and 100"
    assert evaluate(note, clock, 10, ended(1, 20)).startswith("evaluating: 1 of 3 episodes, 40 steps, "), "20 and 20"
    assert evaluate(note, clock, 10, ended(0, 30)) == "evaluating: 2 of 3 episodes, 50 steps, 0:00:26 left"
    assert evaluate(note, clock, 11) == "evaluating: 2 of 3 episodes, 60 steps, 0:00:15 left", "the mean of 20 and 30"
    assert evaluate(note, clock, 15) == "evaluating: 2 of 3 episodes, 75 steps, 0:00:05 left", "30 is still possible"
    assert evaluate(note, clock, 10) == "evaluating: 2 of 3 episodes, 85 steps, 0:01:05 left", "the limit is"
    assert evaluate(note, clock, 1, ended(0, 36)) == "evaluating: 3 of 3 episodes, 86 steps, 0:00:00 left"


@pytest.mark.parametrize(
    ("limit", "trained", "left"), [(None, [], ""), (None, [20, 30], ", 0:00:15 left"), (50, [20, 30], ", 0:00:15 left")]
)
def test_remaining_time_is_estimated_from_training_or_not_at_all(
    limit: int | None, trained: list[int], left: str
) -> None:
    clock = Clock()
    note = EvaluationNote(1, 1, limit, trained, clock)
    assert evaluate(note, clock, 10) == f"evaluating: 0 of 1 episodes, 10 steps{left}"
    unknown = "" if limit is None else ", 0:00:15 left"
    assert evaluate(note, clock, 25) == f"evaluating: 0 of 1 episodes, 35 steps{unknown}"


def test_an_evaluation_is_spoken_of_now_and_then_and_put_into_words_only_then() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, clock=clock)
    note = EvaluationNote(2, 1, 1000, [], clock)
    asked = []
    note.rounds_left = lambda: asked.append(1) or 7.0  # type: ignore[method-assign]
    for _ in range(100):
        clock.now += 0.25
        note.advance(())
        progress.update(20, note=note)
    progress.update(20, eval_return=1.0)
    assert len(asked) == 3
    said = [line.split("  ")[-1] for line in stream.getvalue().splitlines()]
    assert said[1] == "0:00:10, evaluating: 0 of 2 episodes, 41 steps, 0:00:02 left"


def test_on_a_narrow_terminal_the_note_is_shown() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(1_000_000, stream=stream, clock=clock)
    clock.now += 3
    progress.update(900_000, train_return=-1234.5678, eval_return=-1000.0)
    note = EvaluationNote(20, 1, 1000, [], clock)
    clock.now += 1
    note.advance(())
    progress.update(900_000, note=note)
    last = stream.getvalue().split("\r")[-1]
    assert last == "900,000/1,000,000  evaluating: 0 of 20 episodes, 1 steps, 5:33:38 left\x1b[K"


def test_an_evaluation_alone_has_a_line_unless_it_is_short() -> None:
    clock, stream = Clock(), io.StringIO()
    for seconds in (5, 25):
        progress = Progress(0, stream=stream, clock=clock)
        note = EvaluationNote(1, 1, 50, [], clock)
        for _ in range(seconds):
            clock.now += 1
            note.advance(())
            progress.update(0, note=note)
        progress.close()
    assert stream.getvalue().splitlines() == [
        "evaluating: 0 of 1 episodes, 10 steps, 0:00:40 left",
        "evaluating: 0 of 1 episodes, 20 steps, 0:00:30 left",
    ]


def messages(total: int, seconds: float, steps: int) -> list[str]:
    """The messages on steps that take so long after a first one of 500 s, nine tenths of it learning."""
    notice, words = LongRunNotice(total), []
    for k in range(steps):
        clock = 500 + k * seconds
        words.append(notice.add(1000 + k, clock, 450 + 0.9 * k * seconds))
    return [w for w in words if w]


def test_the_hours_of_a_long_run_are_reported_once() -> None:
    """20 s are 40 steps of 0.5 s; 98,960 more are 13.7 hours. The first step, which was longer, does not count."""
    expected = "about 13.7 hours left: each of 98,960 steps takes 0.5 s, 0.45 s of it for learning (algo.update)"
    assert messages(100_000, 0.5, 300) == [expected]
    assert messages(100_000, 0.5, 40) == [], "too early"
    assert messages(8_200, 0.5, 300) == [], "less than an hour"
    assert len(messages(8_300, 0.5, 300)) == 1
