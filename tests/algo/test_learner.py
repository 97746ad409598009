"""The warm-up that algorithms share: random actions, then schedules that leave it out."""

from __future__ import annotations

import torch

from mbrl_lab.algo.learner import Learner, Updates, fit_due
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((2,), torch.float32, 5, True)


def counts(num_envs: int, steps: int) -> list[tuple[int, int]]:
    """(before, after) of each vector step."""
    return [(before, before + num_envs) for before in range(0, steps, num_envs)]


def test_updates_of_the_warmup_are_left_out() -> None:
    once, every_fourth, thrice = Updates(1, number=1, every=1), Updates(1, number=1, every=4), Updates(1, 3, every=4)
    assert [b for a, b in counts(1, 20) for _ in range(every_fourth.due(a, b, 10))] == [12, 16, 20]
    assert [every_fourth.due(a, b, 10) for a, b in counts(8, 24)] == [0, 2, 2], "12 and 16, then 20 and 24"
    assert [thrice.due(a, b, 10) for a, b in counts(8, 24)] == [0, 6, 6]
    assert [once.due(a, b, 10) for a, b in counts(8, 24)] == [0, 6, 8]


def test_fits_begin_at_the_end_of_the_warmup_and_count_from_there() -> None:
    assert [b for a, b in counts(1, 30) if fit_due(10, a, b, 7)] == [10, 17, 24]
    assert [b for a, b in counts(4, 30) if fit_due(10, a, b, 7)] == [12, 20, 24, 32]


def test_the_warmup_ends_once() -> None:
    learner = Learner(SPEC, warmup=10)
    assert [b for a, b in counts(1, 30) if learner.warmup_ends(a, b)] == [10]
    assert [b for a, b in counts(4, 30) if learner.warmup_ends(a, b)] == [12]


def test_random_actions_are_uniform() -> None:
    no = torch.zeros(5_000, dtype=torch.bool)
    step = Step(no.long(), torch.zeros(5_000, 2), no.float(), no, no)
    drawn = Learner(SPEC, warmup=10).random_action(step).bincount(minlength=5)
    assert (drawn - 1000).abs().max() < 150
