"""Priorities by hand and by brute force: what is drawn how often, the ring's seam, and what a resume puts back."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor

from mbrl_lab.priorities import FAN, SumTree
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((1,), torch.float32, 2, True)


def filled(rows: int, capacity: int, num_envs: int = 1) -> Replay:
    replay = Replay(SPEC, capacity * num_envs, num_envs, seed=0)
    more(replay, rows)
    return replay


def more(replay: Replay, rows: int) -> None:
    """Add rows whose observations are the numbers of their indices."""
    for _ in range(rows):
        obs = replay.added * replay.num_envs + torch.arange(replay.num_envs).float().unsqueeze(-1)
        none = torch.zeros(replay.num_envs)
        replay.add(Step(none.long(), obs, none, none.bool(), none.bool()))


def frequencies(replay: Replay, length: int, batch: int = 20_000) -> dict[int, float]:
    """How often each index is drawn."""
    indices, counts = replay.sample_by_priority(batch, length)[0].unique(return_counts=True)
    return {int(index): int(count) / batch for index, count in zip(indices, counts, strict=True)}


@pytest.mark.parametrize("leaves", [1, 5, FAN, FAN + 1, 3 * FAN**2])
def test_sums_and_leaves_are_those_of_a_running_sum(leaves: int) -> None:
    torch.manual_seed(leaves)
    tree, values = SumTree(leaves), torch.zeros(leaves, dtype=torch.float64)
    for _ in range(4):
        leaf = torch.randperm(leaves)[: max(leaves // 3, 1)]
        value = torch.randint(0, 4, (len(leaf),)).double()
        value[0] = 2
        values[leaf] = value
        tree.set(leaf, value)
    assert tree.total() == values.sum() > 0
    mass = torch.arange(int(values.sum())).double()
    assert torch.equal(tree.find(mass + 0.5), torch.searchsorted(values.cumsum(0), mass, right=True))
    assert torch.equal(tree.find(mass), torch.searchsorted(values.cumsum(0), mass, right=True))


def test_a_leaf_named_twice_takes_the_larger() -> None:
    tree = SumTree(300)
    tree.set(torch.tensor([7, 7, 299, 7]), torch.tensor([2.0, 5.0, 1.0, 3.0], dtype=torch.float64))
    assert tree.total() == 6
    tree.set(torch.tensor([7]), torch.tensor([0.25], dtype=torch.float64))
    assert tree.total() == 1.25 and tree.levels[0][7] == 0.25


def test_a_priority_of_zero_is_never_drawn_however_sums_are_rounded() -> None:
    torch.manual_seed(0)
    tree = SumTree(4 * FAN)
    value = torch.rand(4 * FAN, dtype=torch.float64) * 10.0 ** torch.randint(-9, 9, (4 * FAN,))
    value[::3] = 0
    value[-5:] = 0
    tree.set(torch.arange(4 * FAN), value)
    total = tree.total()
    mass = torch.cat([torch.rand(50_000, dtype=torch.float64) * total, value.cumsum(0), total[None], 2 * total[None]])
    assert (value[tree.find(mass)] > 0).all()


def test_indices_are_drawn_in_proportion_and_the_ratio_is_to_uniform() -> None:
    replay = filled(5, 10)
    replay.sample_by_priority(1, 2)
    replay.set_priorities(torch.arange(4), torch.tensor([1.0, 2.0, 5.0, 8.0]))
    assert frequencies(replay, 2) == pytest.approx({0: 1 / 16, 1: 2 / 16, 2: 5 / 16, 3: 8 / 16}, abs=1e-3)
    indices, ratio = replay.sample_by_priority(1000, 2)
    wanted = torch.tensor([1.0, 2.0, 5.0, 8.0], dtype=torch.float64) / 16 * 4
    torch.testing.assert_close(ratio, wanted[indices])


def test_each_draw_comes_from_a_stratum_of_its_own() -> None:
    replay = filled(9, 20)
    for _ in range(5):
        assert replay.sample_by_priority(8, 2)[0].tolist() == list(range(8))


def test_fresh_windows_get_the_largest_so_far_and_unfinished_ones_nothing() -> None:
    replay = filled(6, 20, num_envs=2)
    assert set(frequencies(replay, 3)) == set(range(8)), "of rows 0..5 those from 4 begin no window of 3"
    replay.set_priorities(torch.arange(8), torch.tensor([6.0, *[1.0] * 7]))
    replay.set_priorities(torch.tensor([0]), torch.tensor([1.0]))
    more(replay, 1)
    assert frequencies(replay, 3) == pytest.approx(dict.fromkeys(range(8), 1 / 20) | {8: 6 / 20, 9: 6 / 20}, abs=1e-3)
    assert replay.priorities is not None and replay.priorities.largest == 6


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("rows", [9, 10, 11, 12, 19, 20, 31, 57])
def test_over_the_rings_seam_only_complete_windows_are_drawn(rows: int, num_envs: int) -> None:
    """One row at a time, and in one go."""
    slow, fast = filled(4, 10, num_envs), filled(rows, 10, num_envs)
    while slow.added < rows:
        slow.sample_by_priority(3, 4)
        more(slow, 1)
    wanted = set(range(fast.oldest * num_envs, (rows - 3) * num_envs))
    for replay in (slow, fast):
        assert set(frequencies(replay, 4, 2000)) == wanted
        indices, ratio = replay.sample_by_priority(50, 4)
        windows = replay.read(indices, 4).obs[..., 0]
        assert torch.equal(windows, indices + num_envs * torch.arange(4.0).unsqueeze(-1))
        assert (ratio - 1).abs().max() < 1e-12


def test_what_was_overwritten_loses_its_priority_and_cannot_get_another() -> None:
    replay = filled(10, 10)
    replay.sample_by_priority(1, 2)
    replay.set_priorities(torch.arange(9), torch.full((9,), 0.5))
    replay.set_priorities(torch.tensor([2]), torch.tensor([100.0]))
    more(replay, 3)
    assert set(frequencies(replay, 2)) == set(range(3, 12))
    replay.set_priorities(torch.tensor([2, 12, 5]), torch.tensor([1e9, 1e9, 100.0]))
    assert replay.priorities is not None and replay.priorities.largest == 100
    assert set(frequencies(replay, 2)) == set(range(3, 12)), "index 2 is gone, index 12 begins no window yet"


def test_restored_it_draws_the_same_to_the_bit() -> None:
    torch.manual_seed(0)
    replay = filled(700, 500, num_envs=2)

    def learn(r: Replay, error: Tensor) -> tuple[Tensor, Tensor]:
        more(r, 3)
        indices, ratio = r.sample_by_priority(len(error), 3)
        r.set_priorities(indices, error)
        return indices, ratio

    for _ in range(30):
        learn(replay, torch.rand(64) + 1e-3)
    other = Replay(SPEC, 1000, 2, seed=77)
    other.load_state_dict(replay.state_dict())
    other.restore(replay.oldest, replay.steps(replay.oldest, replay.added))
    assert other.priorities is not replay.priorities
    for _ in range(200):
        error = torch.rand(64) + 1e-3
        for x, y in zip(learn(replay, error), learn(other, error), strict=True):
            assert torch.equal(x, y)


def test_windows_that_do_not_exist_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"raise algo\.warmup"):
        filled(3, 10).sample_by_priority(4, 4)


def test_a_million_indices_cost_little() -> None:
    """Of a binary tree in Python a batch would take seconds; of a whole running sum, 50 ms."""
    tree = SumTree(1_000_000)
    tree.set(torch.arange(1_000_000), torch.rand(1_000_000, dtype=torch.float64))
    assert len(tree.levels) == 3
    uniform = torch.rand(256, dtype=torch.float64)
    began = time.process_time()
    for _ in range(20):
        leaf = tree.find(uniform * tree.total())
        tree.set(leaf, uniform)
    assert time.process_time() - began < 20 * 0.02
