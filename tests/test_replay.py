"""The counting environment through replay: every row, every boundary, and the ring's seam."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from counting import Counting, expected, play, seen
from torch import Tensor

from mbrl_lab import replay as module
from mbrl_lab.env import Envs, make_gym
from mbrl_lab.replay import Replay, free_memory, nbytes
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((3,), torch.float32, 4, True)
GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"


def filled(num: int, steps: int, capacity: int) -> tuple[Replay, list[Step], list[Tensor]]:
    """A replay of `capacity` rows for each environment, after a reset and `steps` steps."""
    rows, actions = play(Envs(Counting, num, seed=1), steps)
    replay = Replay(SPEC, capacity * num, num, seed=0)
    for row in rows:
        replay.add(row)
    return replay, rows, actions


def same(a: Step, b: Step) -> bool:
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stacked(rows: list[Step]) -> Step:
    return Step(*map(torch.stack, zip(*rows, strict=True)))


@pytest.mark.parametrize(
    ("num", "steps", "capacity"), [(1, 30, 100), (3, 30, 31), (3, 30, 20), (2, 95, 10), (4, 1, 50)]
)
def test_steps_are_the_ones_that_were_added(num: int, steps: int, capacity: int) -> None:
    replay, rows, actions = filled(num, steps, capacity)
    kept = min(capacity, steps + 1)
    assert (len(replay), replay.added, replay.oldest) == (kept, steps + 1, steps + 1 - kept)
    assert same(replay.latest(kept), stacked(rows[-kept:]))
    assert same(replay.steps(replay.oldest, replay.added), stacked(rows[-kept:]))
    by_hand = [stream[-kept:] for stream in expected(1, 0, num, actions)]
    assert seen([replay.latest(kept).at(t) for t in range(kept)]) == by_hand


@pytest.mark.parametrize(("num", "steps", "capacity"), [(1, 50, 100), (3, 50, 20), (3, 50, 21), (2, 3, 2)])
def test_transitions_are_all_those_within_an_episode(num: int, steps: int, capacity: int) -> None:
    replay, rows, _ = filled(num, steps, capacity)
    indices = replay.transitions()
    wanted = [t * num + env for t in range(replay.oldest, steps) for env in range(num) if not rows[t + 1].first[env]]
    assert indices.tolist() == wanted
    t = replay.read(indices, 2).transitions()
    assert t.valid.all()
    assert torch.equal(t.obs[0, :, 0], t.next_obs[0, :, 0]), "two episodes in one transition"
    assert torch.equal(t.obs[0, :, 1] + 1, t.next_obs[0, :, 1]), "not one step apart"
    assert torch.equal(t.action[0].float(), t.next_obs[0, :, 2]), "not the action that led there"
    assert torch.equal(t.reward[0], 10 * t.next_obs[0, :, 1] + t.action[0])


def test_valid_is_false_across_an_episode_boundary_and_nowhere_else() -> None:
    replay, rows, _ = filled(3, 60, 61)
    t = replay.latest(61).transitions()
    consecutive = t.obs[..., 1] + 1 == t.next_obs[..., 1]
    assert torch.equal(t.valid, consecutive & (t.obs[..., 0] == t.next_obs[..., 0]))
    assert (~t.valid).sum() == sum(int(row.first.sum()) for row in rows[1:])


def test_a_time_limit_is_stored_as_not_terminal() -> None:
    replay, _, _ = filled(4, 60, 61)
    t = replay.latest(61).transitions()
    over = torch.cat([~t.valid[1:], torch.zeros(1, 4, dtype=torch.bool)])  # the next row begins an episode
    assert (t.terminal & over).any() and (~t.terminal & over).any()
    assert not (t.terminal[:-1] & ~over[:-1]).any()


@pytest.mark.parametrize("steps", [19, 20, 27, 39, 40, 41])
def test_windows_never_cross_the_seam(steps: int) -> None:
    replay, rows, _ = filled(2, steps, 20)
    windows = replay.sample(100, 4)
    whole = stacked(rows[-len(replay) :])
    for b in range(100):
        window = windows.at((slice(None), b))
        places = [
            (t, env)
            for t in range(len(replay) - 3)
            for env in range(2)
            if same(window, whole.at((slice(t, t + 4), env)))
        ]
        assert places, f"window {b} is no four neighbouring rows of one environment: {window}"


def test_samples_are_uniform_over_windows_and_environments() -> None:
    replay = Replay(EnvSpec((1,), torch.float32, 2, True), 24, 2, seed=0)
    for t in range(17):
        obs = torch.tensor([[2.0 * t], [2.0 * t + 1]])
        none = torch.zeros(2)
        replay.add(Step(none.long(), obs, none, none.bool(), none.bool()))
    starts = replay.sample(20_000, 3).obs[0, :, 0].long()
    counts = torch.bincount(starts, minlength=34)
    assert counts[:10].sum() == 0 and counts[30:].sum() == 0, "rows 5..14 begin the windows of 3 among rows 5..16"
    assert counts[10:30].sub(1000).abs().max() < 5 * 1000**0.5


@pytest.mark.parametrize("history", [0, 4])
def test_sampled_transitions_are_uniform_over_the_valid_ones(history: int) -> None:
    replay, _, _ = filled(3, 60, 30)
    every = replay.transitions(history)
    listed = replay.transitions()
    assert torch.equal(every, listed[listed >= (replay.oldest + history) * 3])
    drawn = replay.sample_transitions(200 * len(every), history)
    counts = torch.bincount(torch.searchsorted(every, drawn), minlength=len(every))
    assert torch.isin(drawn, every).all() and counts.min() > 130 and counts.max() < 280


def test_transitions_are_sampled_where_every_other_window_is_none() -> None:
    """Episodes of one transition: of so few windows too many cross an episode's boundary, now and then."""
    replay, no = Replay(SPEC, 40, 1, seed=0), torch.zeros(1, dtype=torch.bool)
    for t in range(40):
        replay.add(Step(torch.zeros(1, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1), no, no | (t % 2 == 0)))
    for history in (0, 5):
        drawn = [replay.sample_transitions(3, history) for _ in range(100)]
        assert all(len(x) == 3 and torch.isin(x, replay.transitions(history)).all() for x in drawn)


def test_samples_follow_from_the_seed_and_not_from_the_global_one() -> None:
    first, second = filled(2, 40, 30)[0], filled(2, 40, 30)[0]
    second.load_state_dict(first.state_dict())
    for start, stop in ((11, 20), (20, 41)):
        second.restore(start, first.steps(start, stop))
    drawn = first.sample(50, 2)
    torch.manual_seed(99)
    assert same(drawn, second.sample(50, 2))
    assert not same(drawn, second.sample(50, 2))


@pytest.mark.parametrize("steps", [10, 29, 30, 47])
def test_restored_in_pieces_it_is_the_same_replay(steps: int) -> None:
    replay, _, _ = filled(3, steps, 30)
    replay.sample(5, 2)
    other = Replay(SPEC, 90, 3, seed=77)
    other.load_state_dict(replay.state_dict())
    middle = replay.oldest + 4
    for start, stop in ((replay.oldest, middle), (middle, replay.added)):
        other.restore(start, replay.steps(start, stop))
    assert same(other.latest(len(replay)), replay.latest(len(replay)))
    assert torch.equal(other.transitions(), replay.transitions())
    assert same(other.sample(20, 2), replay.sample(20, 2))
    for r in (replay, other):
        r.add(replay.latest(1).at(0))
    assert same(other.latest(5), replay.latest(5))


def test_indices_never_change_while_steps_come() -> None:
    envs = Envs(Counting, 2, seed=1)
    replay = Replay(SPEC, 40, 2, seed=0)
    replay.add(envs.reset())
    known: dict[int, tuple[float, ...]] = {}
    for _ in range(60):
        replay.add(envs.step(envs.spec.sample(2)))
        indices = replay.transitions()
        obs = replay.read(indices, 2).obs.movedim(0, 1).flatten(1)
        for index, x in zip(indices.tolist(), obs.tolist(), strict=True):
            assert known.setdefault(index, tuple(x)) == tuple(x)
    assert len(known) > 80 and min(indices) >= 2 * replay.oldest


def test_read_keeps_the_shape_of_its_indices() -> None:
    replay, _, _ = filled(2, 30, 20)
    indices = replay.transitions()[:6].view(2, 3)
    windows = replay.read(indices, 2)
    assert windows.obs.shape == (2, 2, 3, 3) and windows.reward.shape == (2, 2, 3)
    assert same(windows.at((slice(None), 1, 2)), replay.read(indices[1, 2:], 2).at((slice(None), 0)))


def test_continuous_actions_and_several_lengths() -> None:
    envs = Envs(lambda: make_gym("Pendulum-v1", max_episode_steps=7), 2, seed=0)
    replay = Replay(envs.spec, 100, 2, seed=0)
    rows, actions = play(envs, 12)
    for row in rows:
        replay.add(row)
    assert replay.latest(13).action.shape == (13, 2, 1)
    t = replay.read(replay.transitions(), 2).transitions()
    assert torch.equal(t.action[0, :2], actions[0]) and len(t.reward[0]) == 22


def test_steps_that_are_not_in_replay_are_rejected() -> None:
    replay, _, _ = filled(1, 40, 20)
    with pytest.raises(ValueError, match=r"raise algo\.warmup"):
        replay.sample(4, 21)
    for start, stop in ((20, 30), (21, 42)):
        with pytest.raises(AssertionError):
            replay.steps(start, stop)
    with pytest.raises(AssertionError):
        replay.latest(21)


def test_memory_counts_every_byte() -> None:
    replay, _, _ = filled(2, 3, 10)
    assert nbytes(SPEC, 20) == sum(x.nbytes for x in replay.store)
    frames = EnvSpec((4, 84, 84), torch.uint8, 6, True)
    assert nbytes(frames, 10) == 10 * (8 + 4 * 84 * 84 + 4 + 1 + 1)


def test_too_large_a_capacity_is_rejected_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    empty = module._empty

    def counted(spec: EnvSpec, rows: int, num: int, device: torch.device) -> Step:
        taken.append(rows * num)
        return empty(spec, rows, num, device)

    monkeypatch.setattr(module, "_empty", counted)
    monkeypatch.setattr(module, "free_memory", lambda device: nbytes(SPEC, 100))
    assert len(Replay(SPEC, 100, 1, seed=0).store.first) == 100
    taken.clear()
    with pytest.raises(ValueError, match=r"replay\.capacity=101 needs .* on cpu, .* at most 100 fit"):
        Replay(SPEC, 101, 1, seed=0)
    assert max(taken) == 1


def test_an_absurd_capacity_is_rejected() -> None:
    assert 2**20 < free_memory(torch.device("cpu")) < 2**60
    with pytest.raises(ValueError, match=r"replay\.capacity="):
        Replay(SPEC, 2**62, 1, seed=0)


def test_the_drawing_in_the_glossary_is_right() -> None:
    replay = Replay(SPEC, 12, 2, seed=0)
    for n in range(8):
        first = torch.tensor([n in (0, 5), n in (0, 4)])
        terminal = torch.tensor([n == 4, False])
        obs = torch.full((2, 3), float(n))
        replay.add(Step(torch.full((2,), 10 + n), obs, torch.full((2,), 20.0 + n), terminal, first))
    drawn = re.search(r"replay\.transitions\(\): +([\d, ]+)", GLOSSARY.read_text())
    assert drawn is not None and replay.transitions().tolist() == [int(x) for x in drawn[1].split(",")]
    assert (replay.slots, replay.oldest) == (6, 2)

    t = replay.read(torch.tensor([4]), 2).transitions()
    assert (t.obs[0, 0, 0], t.action[0, 0], t.reward[0, 0], t.next_obs[0, 0, 0]) == (2, 13, 23, 3)
    assert replay.terminal_windows(1).tolist() == [8]
