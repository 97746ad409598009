"""Frames kept singly and stacked when read: at an episode's beginning, at the ring's seam, by priority, on resume."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mbrl_lab import ops
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

STACK, NUM = 3, 2
SPEC = EnvSpec((STACK, 2, 2), torch.uint8, 4, True, stack=STACK)


def rows(count: int, seed: int = 0) -> list[Step]:
    """Frames that say their time and environment; an episode begins at about every fourth row."""
    torch.manual_seed(seed)
    first = torch.rand(count, NUM) < 0.25
    first[0] = True
    frame = (10 * torch.arange(count).view(-1, 1) + torch.arange(1, NUM + 1)).to(torch.uint8)
    made = []
    for t in range(count):
        stacks = torch.stack([by_hand(frame, first, t, env) for env in range(NUM)])
        obs = stacks.view(NUM, STACK, 1, 1).expand(-1, -1, 2, 2).contiguous()
        zeros = torch.zeros(NUM)
        made.append(Step(zeros.long(), obs, zeros + t, torch.zeros(NUM, dtype=torch.bool), first[t]))
    return made


def by_hand(frame: Tensor, first: Tensor, t: int, env: int) -> Tensor:
    """[STACK]: walk back from t until the row that begins the episode."""
    stack, now = [0] * STACK, t
    for place in reversed(range(STACK)):
        stack[place] = int(frame[now, env])
        if first[now, env]:
            break
        now -= 1
    return torch.tensor(stack, dtype=torch.uint8)


def filled(made: list[Step], capacity: int) -> Replay:
    replay = Replay(SPEC, capacity * NUM, NUM, seed=0)
    for row in made:
        replay.add(row)
    return replay


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 11, 23, 24])
def test_every_step_is_stacked_as_it_was_observed(count: int) -> None:
    made = rows(count)
    replay = filled(made, capacity=8)
    kept = min(count, 8)
    assert len(replay) == kept
    assert torch.equal(replay.latest(kept).obs, torch.stack([row.obs for row in made[-kept:]]))


def test_windows_are_stacked_whatever_they_begin_with() -> None:
    made = rows(24)
    replay = filled(made, capacity=8)
    window = replay.sample(200, 3)
    time = window.reward.long()
    env = (window.obs[..., -1, 0, 0].long() - 10 * time % 256) % 256 - 1
    truth = torch.stack([row.obs for row in made])
    assert torch.equal(window.obs, truth[time, env])
    assert time.min() == 16 and time.max() == 23


@pytest.mark.parametrize("n_step", [1, 2, 3])
def test_n_step_windows_have_the_first_and_the_bootstrap_observation(n_step: int) -> None:
    """Over the ring's seam, boundaries and terminal steps; all else is as without `n_step`."""
    made = rows(24)
    torch.manual_seed(1)
    made = [row._replace(terminal=(torch.rand(NUM) < 0.2) & ~row.first) for row in made]
    replay = filled(made, capacity=8)
    indices = replay.windows(300, 4)
    whole, windows = replay.read(indices, 4), replay.read(indices, 4, n_step)
    assert all(torch.equal(a, b) for a, b in zip(whole._replace(obs=windows.obs), windows, strict=True))
    assert torch.equal(windows.obs, ops.bootstrap_windows(whole, n_step).obs)

    bootstrap = []
    for first, terminal in zip(whole.first.T.tolist(), whole.terminal.T.tolist(), strict=True):
        row = 0
        while row < n_step and not first[row + 1]:
            row += 1
            if terminal[row]:
                break
        bootstrap.append(row)
    assert set(bootstrap) == set(range(n_step + 1))
    assert torch.equal(windows.obs[0], whole.obs[0])
    assert torch.equal(windows.obs[1], whole.obs[bootstrap, torch.arange(300)])


def test_only_two_observations_of_a_window_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, stacked = filled(rows(24), capacity=8), []
    stack = replay._stacked
    monkeypatch.setattr(replay, "_stacked", lambda indices: (stacked.append(indices.shape), stack(indices))[1])
    replay.sample(5, 4, 3)
    replay.sample(5, 4)
    replay.sample(5, 2, 1)
    assert stacked == [(2, 5), (4, 5), (2, 5)]


def test_what_is_drawn_by_priority_has_all_its_frames() -> None:
    made = rows(24)
    replay = filled(made[:12], capacity=8)
    for row in made[12:]:
        replay.sample_by_priority(1, 2)
        replay.add(row)
    indices, _ = replay.sample_by_priority(400, 2)
    assert sorted(set((indices // NUM).tolist())) == list(range(16, 23))
    truth = torch.stack([row.obs for row in made])
    assert torch.equal(replay.read(indices, 2).obs[1], truth[indices // NUM + 1, indices % NUM])


def test_a_restored_ring_stacks_the_same() -> None:
    made = rows(24)
    replay, other = filled(made, capacity=8), Replay(SPEC, 8 * NUM, NUM, seed=1)
    oldest = replay.added - replay.slots
    other.load_state_dict(replay.state_dict())
    other.restore(oldest, replay.steps(oldest, replay.added))
    assert torch.equal(other.latest(8).obs, replay.latest(8).obs)
