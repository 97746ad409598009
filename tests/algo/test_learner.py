"""The warm-up that algorithms share: random actions, then schedules that leave it out."""

from __future__ import annotations

import torch

from mbrl_lab.algo.learner import Learner
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((2,), torch.float32, 5, True)


def counts(num_envs: int, steps: int) -> list[tuple[int, int]]:
    """(before, after) of each vector step."""
    return [(before, before + num_envs) for before in range(0, steps, num_envs)]


def test_updates_of_the_warmup_are_left_out() -> None:
    learner = Learner(SPEC, warmup=10)
    assert [b for a, b in counts(1, 20) for _ in range(learner.due(a, b, 4))] == [12, 16, 20]
    assert [learner.due(a, b, 4) for a, b in counts(8, 24)] == [0, 2, 2], "12 and 16, then 20 and 24"
    assert [learner.due(a, b, 1) for a, b in counts(8, 24)] == [0, 6, 8]
    assert learner.due(0, 100, 0) == 0


def test_fits_begin_at_the_end_of_the_warmup_and_count_from_there() -> None:
    learner = Learner(SPEC, warmup=10)
    assert [b for a, b in counts(1, 30) if learner.fit_due(a, b, 7)] == [10, 17, 24]
    assert [b for a, b in counts(4, 30) if learner.fit_due(a, b, 7)] == [12, 20, 24, 32]


def test_the_warmup_ends_once() -> None:
    learner = Learner(SPEC, warmup=10)
    assert [b for a, b in counts(1, 30) if learner.warmup_ends(a, b)] == [10]
    assert [b for a, b in counts(4, 30) if learner.warmup_ends(a, b)] == [12]


def test_random_actions_are_uniform() -> None:
    no = torch.zeros(5_000, dtype=torch.bool)
    step = Step(no.long(), torch.zeros(5_000, 2), no.float(), no, no)
    drawn = Learner(SPEC, warmup=10).random_action(step).bincount(minlength=5)
    assert (drawn - 1000).abs().max() < 150
