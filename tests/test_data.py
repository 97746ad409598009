"""mbrl-lab data export and replay.init: replay as recorded episodes, and runs that begin with them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from recipes import small

from mbrl_lab import load_run, make_run
from mbrl_lab.cli.data import main
from mbrl_lab.config import ConfigError
from mbrl_lab.data import Recorded, episodes_of, fill, read_episodes, write_minari, write_npz
from mbrl_lab.env import make_gym
from mbrl_lab.env.actions import Units, units_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

VECTOR = EnvSpec((3,), torch.float32, 2, discrete=False)
STACKED = EnvSpec((4, 5, 5), torch.uint8, 3, discrete=True, stack=4)
CONTINUOUS = Units(gymnasium.spaces.Box(-2, 6, (2,)), np.array([-2.0, -2.0]), np.array([6.0, 6.0]))
DISCRETE = Units(gymnasium.spaces.Discrete(3, start=1), np.array(1), np.array(2))


def played(spec: EnvSpec, replay: Replay, steps: int) -> None:
    """Random steps, in episodes of 5 steps and of 7, the latter with a terminal step."""
    for t in range(steps):
        first = torch.tensor([t % 6 == 0, t % 8 == 0])
        floats = spec.obs_dtype == torch.float32
        obs = torch.randn(2, *spec.obs_shape) if floats else torch.randint(255, (2, *spec.obs_shape)).to(torch.uint8)
        action = spec.sample(2).masked_fill(first.view(-1, *[1] * (not spec.discrete)), 0)
        reward = torch.randn(2).masked_fill(first, 0)
        replay.add(Step(action, obs, reward, torch.tensor([False, t % 8 == 7]), first))


def transitions(replay: Replay) -> list[tuple[Any, ...]]:
    """All transitions, sorted."""
    steps = replay.read(replay.transitions(), 2)
    t = steps.transitions()
    fields = (t.reward[0], t.terminal[0], t.obs[0].flatten(1).sum(1), t.next_obs[0].flatten(1).sum(1), t.action[0])
    rows = zip(*(x.reshape(len(t.reward[0]), -1).double().round(decimals=4).tolist() for x in fields), strict=True)
    return sorted(tuple(map(tuple, row)) for row in rows)


@pytest.mark.parametrize(("spec", "units"), [(VECTOR, CONTINUOUS), (STACKED, DISCRETE)], ids=["vectors", "stacked"])
@pytest.mark.parametrize("kind", ["npz", "minari"])
def test_replay_goes_out_and_comes_back(
    spec: EnvSpec, units: Units, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    replay = Replay(spec, 96, 2, 0)
    played(spec, replay, 48)
    episodes = episodes_of(replay.steps(0, 48), units)
    assert sorted(x.length for x in episodes) == [5] * 8 + [7] * 6
    assert {bool(x.terminations[-1]) for x in episodes if x.length == 7} == {True}
    about = {"algorithm": "Random", "description": "random steps"}
    if kind == "npz":
        write_npz(episodes, about, tmp_path / "data")
        place = str(tmp_path / "data")
    else:
        pytest.importorskip("minari"), pytest.importorskip("h5py")
        write_minari(episodes, about, "test/random-v0", units.space)
        place = "minari:test/random-v0"

    back = Replay(spec, 96, 2, 0)
    assert fill(back, read_episodes(place), units, place) == 96
    assert transitions(back) == transitions(replay)


def test_actions_are_those_of_the_environment() -> None:
    units = units_of(lambda: make_gym("Pendulum-v1"))
    assert units.to_env(np.array([[-1.0], [0.5]])).tolist() == [[-2.0], [1.0]]
    assert units.to_agent(np.array([[-2.0], [1.0]]), "x").tolist() == [[-1.0], [0.5]]
    assert DISCRETE.to_env(np.array([0, 2])).tolist() == [1, 3]
    assert DISCRETE.to_agent(np.array([1, 3]), "x").tolist() == [0, 2]
    discrete = units_of(lambda: make_gym("CartPole-v1"))
    assert discrete.to_agent(np.array([0, 1]), "x").tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"x: its actions are float64 \[1\], from -3 to -3, .* are Box\(-2.0, 2.0"):
        units.to_agent(np.array([[-3.0]]), "x")
    with pytest.raises(ValueError, match="this environment's are Discrete"):
        DISCRETE.to_agent(np.array([0]), "x")


def episode(steps: int, **other: Any) -> Recorded:
    """Of CartPole's spaces."""
    arrays = {
        "observations": np.zeros((steps + 1, 4), np.float32),
        "actions": np.zeros(steps, np.int64),
        "rewards": np.ones(steps, np.float32),
        "terminations": np.arange(steps) == steps - 1,
        "truncations": np.zeros(steps, bool),
    }
    return Recorded(**(arrays | other))


def test_only_the_newest_steps_stay_and_environments_get_as_many() -> None:
    spec = EnvSpec((4,), torch.float32, 2, discrete=True)
    units = Units(gymnasium.spaces.Discrete(2), np.array(0), np.array(1))
    replay = Replay(spec, 20, 2, 0)
    numbered = [episode(3, rewards=np.full(3, k, np.float32)) for k in range(9)]
    assert fill(replay, numbered, units, "x") == 20
    assert len(replay) == replay.added == 10
    rewards = replay.steps(0, 10).reward
    assert rewards.max() == 7, "the ninth found no partner"
    assert replay.steps(0, 10).first[0].all()
    with pytest.raises(ConfigError, match=r"holds fewer episodes than env\.num=2"):
        fill(Replay(spec, 20, 2, 0), numbered[:1], units, "x")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"observations": np.zeros((4, 3), np.float32)},
            r"its observations are float32 \[3\], this environment's .* \[4\]",
        ),
        ({"observations": np.zeros((4, 4), np.uint8)}, r"its observations are uint8 \[4\], this environment's"),
        ({"observations": np.full((4, 4), np.nan)}, "observations or rewards that are not finite"),
        ({"observations": np.zeros((3, 4))}, "observations are 3; 3 rewards need 4"),
        ({"actions": np.full(3, 2)}, r"its actions are int64 \[\], from 2 to 2, this environment's are Discrete\(2\)"),
        ({"actions": np.zeros((3, 1), np.float32)}, "its actions are float32"),
    ],
)
def test_data_of_another_environment_is_one_line(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    write_npz([episode(3, **other)], {}, tmp_path / "data")
    with pytest.raises(ValueError, match=words) as error:
        make_run("random", "cartpole", folder=tmp_path / "run", **{"replay.init": str(tmp_path / "data")})
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_places_that_hold_no_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.npz").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    np.savez(tmp_path / "bad" / "b.npz", rewards=np.zeros(3))
    np.savez(tmp_path / "bad" / "c.npz", **episode(3, actions=np.array([print] * 3))._asdict())
    for place, words in (("none", "there is no such folder"), ("empty", r"it has no \.npz file")):
        with pytest.raises(ConfigError, match=words):
            read_episodes(str(tmp_path / place))
    read = read_episodes(str(tmp_path / "bad"))
    for words in (r"a\.npz is no file of arrays", "b.npz has no array 'observations'", "c.npz is no file of arrays"):
        with pytest.raises(ConfigError, match=words):
            next(read)

    pytest.importorskip("minari"), pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match="minari:pendulum/none-v0, which cannot be read on this machine; its datasets: none; `mi"
    ):
        next(read_episodes("minari:pendulum/none-v0"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 random steps in CartPole, and its data beside it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    runner = make_run(
        "random", "cartpole", "eval.every=0", "eval.final_episodes=1", "video.final=0", folder=folder, steps=120
    )
    runner.run()
    runner.envs.close()
    assert main(["export", str(folder), "--out", str(folder.parent / "data")]) == 0
    return folder


def test_the_command(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(recorded), "--out", str(tmp_path / "data")]) == 0
    number = len(list((tmp_path / "data").glob("*.npz")))
    assert capsys.readouterr().out.splitlines() == [
        f"data      {120 + 1 - number} steps, {number} episodes",
        f"left out  {number} resets, one per episode: without an action; a run counts all but its first as steps",
        f"data      {tmp_path}/data: train with replay.init={tmp_path}/data",
    ]
    about = json.loads((tmp_path / "data" / "data.json").read_text())
    assert (about["algorithm"], about["environment"]["id"]) == ("Random", "CartPole-v1")
    assert main(["export", str(recorded), "--out", str(tmp_path / "data")]) == 2
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "other")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: {tmp_path}/data exists and is not an empty folder: choose another --out"
    assert "holds no run" in lines[1] and len(lines) == 2


def test_steps_that_replay_did_not_keep_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval.every=0", "eval.final_episodes=1", "video.final=0", "replay.capacity=30", "steps=40"]
    runner = make_run("random", "pendulum", *words, folder=tmp_path / "run")
    runner.run()
    runner.envs.close()
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "data")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("left out  1 reset") or lines[-3].startswith("left out  1 step")
    assert lines[-2] == "left out  11 older steps, which replay.capacity=30 did not keep"


def started(folder: Path, data: Path, steps: int) -> Path:
    """A run of MPC that begins with data, whose model is fitted at once."""
    algo, env, *rest = small("mpc_discrete")
    words = [
        *rest,
        "algo.warmup=2",
        f"replay.init={data}",
        "eval.every=0",
        "eval.final_episodes=1",
        "checkpoint.every=5",
    ]
    runner = make_run(algo[5:], env[4:], *words, f"steps={steps}", folder=folder)
    runner.run()
    runner.envs.close()
    return folder


def test_a_run_begins_with_recorded_steps_and_resumes_exactly(recorded: Path, tmp_path: Path) -> None:
    data = recorded.parent / "data"
    whole = started(tmp_path / "whole", data, 14)
    runner = load_run(whole, with_replay=True)
    with closing(runner.envs):
        number = len(list(data.glob("*.npz")))
        assert len(runner.replay) == 121 + 14 + 1 and number > 1
        assert runner.algo.warmed_up, "the model was fitted to what was recorded"

    # A resume does not read the data again.
    parted = started(tmp_path / "parted", data, 7)
    moved = data.rename(data.parent / "moved")
    try:
        started(parted, data, 14)
    finally:
        moved.rename(data)
    one, other = (load_run(folder) for folder in (whole, parted))
    with closing(one.envs), closing(other.envs):
        torch.testing.assert_close(one.algo.state_dict(), other.algo.state_dict(), rtol=0, atol=0)
