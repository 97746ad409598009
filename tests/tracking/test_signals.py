"""Signals: noted, then handed to whoever was there before; a second Ctrl-C stops at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from mbrl_lab.tracking.signals import Signals

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with Ctrl-C ignored
    before = [signal.getsignal(number) for number in WATCHED]
    yield
    after = [signal.getsignal(number) for number in WATCHED]
    for number, handler in zip(WATCHED, before, strict=True):
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", WATCHED)
def test_a_signal_is_noted_and_the_work_continues(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Signals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number.name
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_a_second_interrupt_stops_at_once() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_previous_handler_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: taken.append(number))
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert taken == []
            signals.hand_over()
            assert taken == [signal.SIGUSR2] and signals.received is None
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_bypassed_term_does_not_hide_a_requeue() -> None:
    def requeue(number: int, frame: object) -> None:
        raise SystemExit("requeued")

    term = signal.signal(signal.SIGTERM, lambda number, frame: None)
    usr2 = signal.signal(signal.SIGUSR2, requeue)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR2)
            with pytest.raises(SystemExit, match="requeued"):
                signals.hand_over()
    finally:
        signal.signal(signal.SIGTERM, term)
        signal.signal(signal.SIGUSR2, usr2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_where_none_stood_the_exit_code_tells(number: signal.Signals) -> None:
    with Signals() as signals, pytest.raises(SystemExit) as stop:
        os.kill(os.getpid(), number)
        signals.hand_over()
    assert stop.value.code == 128 + number


def test_an_interrupt_handed_over_is_an_interrupt() -> None:
    with Signals() as signals, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        signals.hand_over()


def test_where_it_may_stop_anywhere_a_signal_stops_it_at_once_even_one_that_came_before() -> None:
    heard: list[str | None] = []
    with Signals() as signals:
        with signals.immediately(lambda: heard.append(signals.received)):
            assert heard == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == ["SIGTERM"]
        os.kill(os.getpid(), signal.SIGUSR2)
        assert heard == ["SIGTERM"]
        with signals.immediately(lambda: heard.append("again")):
            assert heard == ["SIGTERM", "again"]


def test_without_a_signal_there_is_nothing_to_hand_over() -> None:
    with Signals() as signals:
        signals.hand_over()


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_it_does_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with Signals() as signals:
            seen.extend([signal.getsignal(signal.SIGTERM), signals.received])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM), None]


def test_a_forked_worker_outlives_an_interrupt_but_not_its_parents_order() -> None:
    with Signals() as signals:
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,), daemon=True)
        worker.start()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.2)
        assert worker.is_alive()
        worker.terminate()
        worker.join(5)
        assert worker.exitcode == -signal.SIGTERM and signals.received is None
