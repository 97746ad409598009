"""The log of episodes: what is read back is what was played, also after a cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


@pytest.fixture
def log(folder: RunFolder) -> Iterator[EpisodeLog]:
    log = EpisodeLog(folder)
    yield log
    log.close()


def test_discrete_and_continuous_episodes_read_back(folder: RunFolder, log: EpisodeLog) -> None:
    discrete, continuous = np.array([0, 3, 1]), np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    log.add("train", 0, 0, 11, 3, 2.5, discrete)
    log.add("eval", 1, 0, 2**63, 3, float("nan"), continuous)
    log.add("train", 1, 7, 13, 9, -1.0, np.zeros(0, dtype=np.int64))
    seed, actions = log.read("train", 0)
    assert seed == 11 and actions.dtype == np.int32 and actions.tolist() == [0, 3, 1]
    seed, actions = EpisodeLog(folder).read("eval", -1)
    assert seed == 2**63 and actions.dtype == np.float32 and np.array_equal(actions, continuous)
    assert log.read("train", 1)[1].shape == (0,)
    with pytest.raises(IndexError):
        log.read("eval", 1)
    assert json.loads(folder.episodes.read_text().splitlines()[0]) == {
        "phase": "train",
        "env": 0,
        "index": 0,
        "seed": 11,
        "step": 3,
        "return": 2.5,
        "length": 3,
        "offset": 0,
        "action_dim": None,
    }
    assert folder.actions.read_bytes()[:12] == np.array([0, 3, 1], "<i4").tobytes()


def test_a_resumed_log_forgets_what_its_checkpoint_does_not_know(folder: RunFolder, log: EpisodeLog) -> None:
    log.add("train", 0, 0, 1, 2, 0.0, np.array([1, 2]))
    position = log.position()
    log.add("train", 0, 1, 2, 4, 0.0, np.array([3, 4]))
    log.truncate(position)
    log.add("train", 0, 1, 9, 5, 0.0, np.array([5, 6, 7]))
    assert [row["seed"] for row in log.finished("train")] == [1, 9]
    assert log.read("train", 1)[1].tolist() == [5, 6, 7]
    assert folder.actions.stat().st_size == 5 * 4


def test_a_row_that_is_still_being_written_is_left_out(folder: RunFolder, log: EpisodeLog) -> None:
    assert log.finished("eval") == []
    log.add("eval", 0, 0, 1, 2, 0.0, np.array([1]))
    with folder.episodes.open("ab") as file:
        file.write(b'{"phase": "ev')
    assert len(log.finished("eval")) == 1


def test_actions_must_look_like_actions(log: EpisodeLog) -> None:
    with pytest.raises(AssertionError):
        log.add("train", 0, 0, 1, 2, 0.0, np.array([0.5, 1.5]))
