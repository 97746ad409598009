"""Shares of actions by hand, warnings that come once, and the end of a run that has come far enough."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from mbrl_lab import monitor as module
from mbrl_lab.monitor import Actions, Monitor, Stop
from mbrl_lab.types import EnvSpec, Step

THREE = EnvSpec((1,), torch.float32, 3, True)
PLANE = EnvSpec((1,), torch.float32, 2, False)


def row(*action: Any, first: int = -1) -> Step:
    """What B environments did; the one numbered `first` began an episode."""
    b = len(action)
    begins = torch.arange(b) == first
    return Step(torch.tensor(action), torch.zeros(b, 1), torch.zeros(b), torch.zeros(b, dtype=torch.bool), begins)


def logged(actions: Actions) -> tuple[dict[str, float], int]:
    metrics, count = actions.metrics()
    return {k: float(v) for k, v in metrics.items()}, count


def test_fractions_of_discrete_actions() -> None:
    actions = Actions(THREE)
    assert logged(actions) == ({}, 0)
    for step in (row(0, 2), row(2, 2), row(0, 1, first=0)):
        actions.add(step)
    expected = {"actions/0": 0.2, "actions/1": 0.2, "actions/2": 0.6, "actions/top": 0.6}
    assert logged(actions) == (pytest.approx(expected), 5), "the action of a row that begins an episode was not taken"
    assert logged(actions) == ({}, 0), "logged once"


def test_many_actions_have_only_their_largest_fraction() -> None:
    actions = Actions(EnvSpec((1,), torch.float32, 19, True))
    actions.add(row(18, 18, 3, 5))
    assert logged(actions) == ({"actions/top": 0.5}, 4)


def test_sizes_of_continuous_actions() -> None:
    actions = Actions(PLANE)
    actions.add(row([-1.0, 0.5], [9.0, 9.0], first=1))
    actions.add(row([0.0, 1.0], [-0.5, 0.0]))
    metrics, count = logged(actions)
    sizes = torch.tensor([1, 0.5, 0, 1, 0.5, 0])
    assert count == 3 and metrics["actions/at_bounds"] == pytest.approx(2 / 6)
    assert metrics["actions/mean_abs"] == pytest.approx(0.5)
    assert metrics["actions/std_abs"] == pytest.approx(float(sizes.std(correction=0)))


@pytest.mark.parametrize("spec", [THREE, PLANE], ids=["discrete", "continuous"])
def test_action_fractions_are_the_same_to_the_bit_after_a_resume(
    spec: EnvSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 7)
    steps = [row(*spec.sample(2).tolist()) for _ in range(60)]
    whole = Actions(spec)
    for step in steps:
        whole.add(step)
    expected = logged(whole)
    for stop in range(0, 60, 5):
        one, other = Actions(spec), Actions(spec)
        for step in steps[:stop]:
            one.add(step)
        other.load_state_dict(one.state_dict())
        for step in steps[stop:]:
            other.add(step)
        assert logged(other) == expected


def watch(monitor: Monitor, step: int, action: Any, count: int = 200, **metrics: float) -> None:
    """A log interval in which one action was taken."""
    for _ in range(count):
        monitor.actions.add(row(action))
    shares = {k: float(v) for k, v in monitor.metrics().items()}
    monitor.logged({"step": step} | shares | {k.replace("_", "/"): v for k, v in metrics.items()})


def test_one_action_alone_is_warned_of_once_until_it_went_away(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(THREE, Stop())
    with caplog.at_level(logging.WARNING):
        watch(monitor, 1, 2)
        watch(monitor, 2, 2)
        later = Monitor(THREE, Stop())
        later.load_state_dict(monitor.state_dict())
        watch(later, 3, 2)
        assert caplog.messages == ["step 1: one action (actions/2) took 100.0% of the last 200 steps"]
        for _ in range(11):
            later.actions.add(row(0))
        watch(later, 4, 2, count=189)
        watch(later, 5, 0)
        watch(later, 6, 1, count=99)
    assert [m.partition(":")[0] for m in caplog.messages] == ["step 1", "step 5"]


def test_continuous_actions_at_their_bounds(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(PLANE, Stop())
    with caplog.at_level(logging.WARNING):
        watch(monitor, 1, [1.0, -0.2])
        watch(monitor, 2, [1.0, -1.0])
    assert caplog.messages == ["step 2: 100.0% of the actions of the last 200 steps lie at their bounds"]


@pytest.mark.parametrize(
    ("spec", "well", "low", "least"), [(THREE, 0.11, 0.09, "0.1"), (PLANE, -6.3, -6.5, "-6.4")], ids=["discrete", "2-d"]
)
def test_low_entropy(spec: EnvSpec, well: float, low: float, least: str, caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(spec, Stop())
    with caplog.at_level(logging.WARNING):
        for step, entropy in enumerate((well, low, low, None, low, well, low)):
            monitor.logged({"step": step} | ({} if entropy is None else {"policy/entropy": entropy}))
    words = f"policy/entropy is {low}, below {least}: the policy hardly explores"
    assert caplog.messages == [f"step 1: {words}", f"step 6: {words}"]


def test_a_run_stops_early_at_the_mean_of_the_window() -> None:
    monitor = Monitor(THREE, Stop("eval/return", 10.0, 2))
    done = []
    for value in (30.0, None, 1.0, 12.0, 8.0, 7.0):
        monitor.logged({"step": 0.0} | ({} if value is None else {"eval/return": value}))
        done.append(monitor.done)
    assert done == [False, False, True, False, True, False]
    assert monitor.values == [8.0, 7.0]


def test_nothing_to_wait_for_is_never_there() -> None:
    monitor = Monitor(THREE, Stop())
    monitor.logged({"step": 0.0, "eval/return": 1e9})
    assert not monitor.done and monitor.values == []


def test_the_early_stop_resumes_unless_its_metric_changed(caplog: pytest.LogCaptureFixture) -> None:
    monitor = Monitor(THREE, Stop("eval/return", 10.0, 2))
    monitor.logged({"step": 0.0, "eval/return": 11.0})
    same, other = Monitor(THREE, Stop("eval/return", 10.0, 2)), Monitor(THREE, Stop("train/return", 10.0, 2))
    for later in (same, other):
        later.load_state_dict(monitor.state_dict())
        later.logged({"step": 1.0, "eval/return": 9.0})
        later.close()
    assert same.done and not other.done
    assert caplog.messages == ["stop.metric=train/return was never logged"]
