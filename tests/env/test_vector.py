"""Environments that are closed whatever happens, lent to evaluations, and stepped by processes that signals spare."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import awkward_envs
import gymnasium
import pytest
import torch
from awkward_envs import Drawn, Lonely, Slow, Unclosable
from counting import Counting, play
from gymnasium.vector import SyncVectorEnv
from runs import metrics
from test_resume import assert_same_run, whole

from mbrl_lab import make_run
from mbrl_lab.env import Envs, vector
from mbrl_lab.tracking.folder import RunFolder

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def untold() -> Iterator[None]:
    """Nothing was warned of yet, and nobody lives."""
    vector.warn_once.cache_clear()
    Lonely.alive = Lonely.made = 0
    yield
    vector.warn_once.cache_clear()


class Fails(SyncVectorEnv):
    """A vector environment of its own that cannot be closed."""

    def __init__(self, num: int) -> None:
        super().__init__([Drawn] * num)

    def close_extras(self, **kwargs: object) -> None:
        raise RuntimeError("no way out\nand more")


def test_close_that_raises_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        Envs(Unclosable, 2, 0).close()
    assert caplog.messages == ["close() of the environment failed: OSError: the simulator does not answer"]
    Envs(Drawn, 2, 0, make_vector=Fails).close()
    assert caplog.messages[1:] == ["close() of the environment failed: RuntimeError: no way out"]


def test_those_beside_one_that_cannot_be_closed_are_closed() -> None:
    made = iter([Unclosable, Lonely])
    Envs(lambda: next(made)(), 2, 0).close()
    assert (Lonely.made, Lonely.alive) == (1, 0)


def test_close_that_raises_in_a_process_of_its_own_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    envs = Envs(Unclosable, 2, 0, asynchronous=True)
    workers = list(envs.vector.processes)
    envs.close()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert caplog.messages == ["close() of the environment failed: OSError: the simulator does not answer"]


@pytest.mark.parametrize("put_away", [False, True])
def test_lent_environments_resume_where_they_were(put_away: bool) -> None:
    envs, other = Envs(Lonely, 1, 3), Envs(Drawn, 1, 3)
    play(other, 0)
    envs.reset()
    apart = Envs(Drawn, 1, 3, stream=5)
    for k in range(40):
        action = torch.tensor([k % 2])
        assert all(map(torch.equal, envs.step(action), other.step(action)))
        if k % 7 == 3:
            lent = envs.lend(5)
            assert all(map(torch.equal, lent.reset(), apart.reset()))
            assert all(map(torch.equal, lent.step(action), apart.step(action)))
            lent.close()
            assert Lonely.alive, "it was only lent"
        if put_away and k % 5 == 0:
            envs.put_away()
            assert not Lonely.alive
    assert [e.ret for e in envs.finished()] == [e.ret for e in other.finished()] != []
    assert envs.steps == 40
    envs.close()
    assert not Lonely.alive and (Lonely.made > 5) is put_away


def test_an_environment_that_does_not_reset_fully_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    class Drifts(Drawn):
        drift = 0.0

        def step(self, action: object) -> awkward_envs.Result:
            self.drift += 1.0
            obs, reward, *rest = super().step(action)
            return obs, reward + self.drift, *rest  # type: ignore[return-value]

    envs = Envs(Drifts, 1, 0)
    play(envs, 3)
    envs.lend(1).reset()
    envs.step(torch.tensor([0]))
    assert "is not the same: eval.shared needs that" in caplog.text


def test_a_time_limit_is_known() -> None:
    limited = partial(gymnasium.make, "CartPole-v1", max_episode_steps=77)
    assert (Envs(limited, 2, 0).time_limit, Envs(Counting, 1, 0).time_limit) == (77, None)


class Stuck(Drawn):
    """A step of it never ends."""

    def step(self, action: object) -> awkward_envs.Result:
        time.sleep(3600)
        raise AssertionError


def test_workers_in_a_step_that_nobody_waits_for_are_killed() -> None:
    envs = Envs(Stuck, 2, 0, asynchronous=True)
    envs.reset()
    workers = list(envs.vector.processes)
    envs.vector.step_async(envs.spec.sample(2).numpy())
    for worker in workers:
        for name in vector.STOP_SIGNALS:
            os.kill(worker.pid, signal.Signals[name])
    time.sleep(0.05)
    assert all(worker.is_alive() for worker in workers), "they leave that to this process"
    envs.close()
    assert [worker.exitcode for worker in workers] == [-signal.SIGKILL] * 2


class Group:
    """A process of its own group that does something, with all that it starts."""

    def __init__(self, work: Callable[[], None]) -> None:
        self.alive, inherited = os.pipe()
        self.process = FORK.Process(target=self._begin, args=(work,))
        self.process.start()
        os.close(inherited)

    @staticmethod
    def _begin(work: Callable[[], None]) -> None:
        os.setsid()
        work()

    def wait_until(self, there: Callable[[], bool]) -> None:
        for _ in range(3000):
            if there():
                return
            assert self.process.is_alive(), "it ended before"
            time.sleep(0.02)
        raise AssertionError("it took too long")

    def wait_until_all_are_gone(self) -> int | None:
        """The exit code, once nobody holds the pipe any more that all of them inherited."""
        assert select.select([self.alive], [], [], 60)[0], "somebody is left"
        os.close(self.alive)
        self.process.join()
        return self.process.exitcode


def test_no_worker_outlives_a_killed_parent_not_even_in_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector, "GRACE", 0.1)

    def work() -> None:
        envs = Envs(Stuck, 2, 0, asynchronous=True)
        envs.reset()
        (tmp_path / "there").touch()
        envs.step(torch.tensor([0, 1]))

    group = Group(work)
    group.wait_until((tmp_path / "there").exists)
    group.process.kill()
    assert group.wait_until_all_are_gone() == -signal.SIGKILL


def test_workers_that_nobody_closes_do_not_keep_python_from_exiting() -> None:
    kept = []
    group = Group(lambda: kept.append(Envs(Drawn, 2, 0, asynchronous=True)))
    assert group.wait_until_all_are_gone() == 0


def test_a_signal_to_all_processes_saves_and_marks_preempted(tmp_path: Path) -> None:
    words = ["random", "gym", "env.id=Slow", "env.num=2", "env.asynchronous=true", "debug=smoke", "steps=100"]
    words += ["log_every=10", "eval.every=50", "eval.episodes=3", "video.final=0", "checkpoint.every=0"]
    folder = tmp_path / "b"

    def work() -> None:
        runner = make_run(*words, folder=folder)
        try:
            runner.run()
        finally:
            runner.envs.close()

    def come_to(step: int) -> Callable[[], bool]:
        return lambda: (folder / "metrics.jsonl").exists() and any(r["step"] >= step for r in metrics(folder))

    for step, number in ((20, signal.SIGINT), (60, signal.SIGTERM)):
        group = Group(work)
        group.wait_until(come_to(step))
        os.killpg(group.process.pid or 0, number)
        # A process of multiprocessing that ends by KeyboardInterrupt says 1.
        assert group.wait_until_all_are_gone() == (1 if number == signal.SIGINT else 128 + number)
        assert RunFolder(folder).status()["state"] == "preempted" and RunFolder(folder).status()["step"] >= step
    whole(words, folder)
    whole([*words, "env.asynchronous=false", "env.id=Drawn"], tmp_path / "a")
    assert_same_run(tmp_path / "a", folder)


assert Slow  # registered under its name
