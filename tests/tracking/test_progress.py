"""The progress line: what it says, and how seldom."""

from __future__ import annotations

import io

from mbrl_lab.tracking.progress import Progress


class Clock:
    """A clock that tells what it is told."""

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


def test_of_a_speed_nothing_is_said_within_the_first_second() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(1000, stream=stream, clock=clock)
    clock.now += 0.001
    progress.update(1)
    assert stream.getvalue() == "1/1,000  0%  ? steps/s  0:00:00, ? left\n"


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


def test_a_last_line_is_not_said_twice() -> None:
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
