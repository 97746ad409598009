"""A person's play: the model beside the real environment, from the same state and under the same actions."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imageio.v3 import imread
from small import SMALL

from mbrl_lab import load_run, make_run
from mbrl_lab.app import stored_config
from mbrl_lab.config import ConfigError, build
from mbrl_lab.play import drawing
from mbrl_lab.play.session import Session, playable
from mbrl_lab.runner import TRAIN, Runner
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder


def session_of(runner: Runner, folder: Path) -> Session:
    return Session(runner, build(stored_config(RunFolder(folder)).env.make))


@pytest.fixture
def played(breakout: Path) -> Iterator[Session]:
    runner = load_run(breakout)
    session = session_of(runner, breakout)
    yield session
    session.close()
    runner.envs.close()


@pytest.fixture
def started(tmp_path: Path) -> Any:
    """Sessions in runs that have not been trained, their models taken as fitted."""
    opened: list[Any] = []

    def start(algo: str, env: str, *words: str) -> Session:
        runner = make_run(algo, env, *SMALL, *words, folder=tmp_path / "run")
        runner.algo.get_buffer("ready").fill_(True)
        session = session_of(runner, tmp_path / "run")
        opened.extend([session, runner.envs])
        return session

    yield start
    for each in opened:
        each.close()


def pixels(address: str) -> np.ndarray:
    return np.asarray(imread(base64.b64decode(address.partition(",")[2]), extension=".png"))


def test_with_the_true_equations_both_worlds_stay_the_same(started: Any) -> None:
    session = started("mpc", "cartpole", "dynamics=analytic")
    now = session.start()
    assert session.opening()["drawn"] and pixels(now["pictures"][0]).shape == (400, 600, 3)
    while not now["over"][1]:
        now = session.advance(["ArrowRight"])
        assert now["difference"] < 1e-4 and now["pictures"][0] == now["pictures"][1]
    assert now["over"] == [True, True] and now["termination"] == 1
    assert now["totals"] == [now["step"]] * 2 and 5 < now["step"] < 20
    again = session.advance(["ArrowRight"])
    assert again["totals"] == now["totals"], "a world that is over stays as it is"
    assert session.start()["step"] == 0 and session.start()["over"] == [False, False]


def test_a_wrong_model_is_seen_to_diverge(started: Any) -> None:
    session = started("mpc", "cartpole", "dynamics=analytic")
    true = session.model.next_obs
    session.model.next_obs = lambda obs, action: true(obs, action) + torch.tensor([0.05, 0, 0, 0])
    session.start()
    steps = [session.advance(["ArrowLeft"] if k % 2 else ["ArrowRight"]) for k in range(5)]
    apart = [step["difference"] for step in steps]
    assert apart == sorted(apart) and apart[0] == pytest.approx(0.025) and apart[-1] > 0.1
    assert steps[-1]["pictures"][0] != steps[-1]["pictures"][1]
    assert steps[-1]["values"][0][0] - steps[-1]["values"][1][0] > 0.2


def test_grids_are_pictures_and_keys_move_the_paddle(played: Session) -> None:
    first = played.start()
    assert {("no key", "noop"), ("ArrowLeft", "left"), ("ArrowRight", "right")} <= {*played.opening()["keys"]}
    assert first["pictures"][0] == first["pictures"][1] and pixels(first["pictures"][1]).shape == (10, 10, 3)
    now = played.advance(["ArrowLeft"])
    other = pixels(now["pictures"][1])
    assert (other[-1, 3] > 0).any() and not (other[-1, 4] > 0).any(), "one to the left of the middle"
    assert now["disagreement"] >= 0 and 0 <= now["termination"] <= 1 and now["values"] == []


def test_a_state_of_training_is_one_that_the_run_was_in(played: Session) -> None:
    """Replayed from its seed and actions: the observation is that of the same step of a replayed episode."""
    assert played.opening()["training"]
    (_, row), *_ = [pair for pair in played.logged if pair[1]["length"] > 3]
    _, actions = EpisodeLog(played.runner.folder).read("train", played.logged[0][0])
    played._drawn_from_training = lambda: (row["index"], torch.as_tensor(actions[:3]))  # type: ignore[method-assign]
    now = played.start(training=True)

    envs = played.runner.make_envs(1, TRAIN)
    step = envs.reset(row["index"])
    for action in actions[:3]:
        step = envs.step(torch.as_tensor(action)[None])
    assert torch.equal(played.real, step.obs[0]) and now["difference"] == 0
    assert envs.state_dict()["index"] == [row["index"]]
    envs.close()


@pytest.mark.parametrize(
    ("algo", "env", "words", "keys"),
    [
        ("dreamer", "minatar_breakout", [], ["ArrowLeft"]),
        ("dreamer", "cartpole", [], ["ArrowLeft"]),
        ("mbpo", "pendulum", [], ["ArrowRight"]),
        ("mpc", "hopper", [], ["ArrowRight", "ArrowUp"]),
    ],
    ids=["rssm", "latent", "ensemble", "robot"],
)
def test_every_kind_of_model_is_played_in(algo: str, env: str, words: list[str], keys: list[str], started: Any) -> None:
    session = started(algo, env, *words)
    assert session.start()["step"] == 0
    for _ in range(3):
        now = session.advance(keys)
    assert now["step"] == 3 and all(np.isfinite([*now["rewards"], now["difference"], now["termination"]]))
    assert session.opening()["drawn"], session.opening()["why_not"]
    assert all(pixels(address).ndim == 3 for address in now["pictures"])
    assert (now["disagreement"] is None) == (algo == "dreamer")


def test_without_a_display_vectors_are_traces(started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(make: Any) -> Any:
        raise RuntimeError("cannot render without a display: install EGL")

    monkeypatch.setattr(drawing, "drawing_env", nothing)
    session = started("mpc", "cartpole", "dynamics=analytic")
    assert not session.opening()["drawn"]
    assert session.opening()["why_not"] == "cannot render without a display: install EGL"
    now = session.start()
    assert now["pictures"] == [None, None] and [len(values) for values in now["values"]] == [4, 4]


def test_an_environment_whose_state_is_not_observed_is_traces() -> None:
    class Hidden:
        pass

    with pytest.raises(ValueError, match="the state of Hidden does not follow from its observations"):
        drawing.put_into_state(Hidden(), np.zeros(3))


def test_runs_without_a_model_to_play_in_are_a_line(tmp_path: Path) -> None:
    runner = make_run("random", "cartpole", *SMALL, folder=tmp_path / "random")
    with pytest.raises(
        ConfigError, match=r"^it is a run of algo=random, without a world model to play in: name a run of"
    ):
        playable(runner, "it")
    runner = make_run("sac", "pendulum", *SMALL, folder=tmp_path / "sac")
    with pytest.raises(ConfigError, match=r"^it is a run of algo=sac, without a world model to play in: name a run of"):
        playable(runner, "it")
    runner = make_run("mpc", "cartpole", *SMALL, folder=tmp_path / "mpc")
    with pytest.raises(ConfigError, match="it has no fitted model to play in at step 0"):
        playable(runner, "it")
    runner = make_run("dreamer", "cartpole", *SMALL, "dynamics.decode=false", folder=tmp_path / "blind")
    runner.algo.get_buffer("ready").fill_(True)
    with pytest.raises(ConfigError, match="it: Latent predicts no observations, so there is nothing to see"):
        playable(runner, "it")
