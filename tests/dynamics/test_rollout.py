"""What imagined episodes look like as rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mbrl_lab.algo.imagined import rollout
from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree

SPEC = EnvSpec((1,), torch.float32, 3, discrete=True)


class Counter(WorldModel):
    """Counts up by the action; pays the number it leaves, and goes on from it with a probability."""

    def __init__(self, goes_on: Callable[[Tensor], Tensor]) -> None:
        super().__init__(SPEC)
        self.goes_on = goes_on

    def observe(self, state: Tree | None, step: Step) -> Tree:
        return step.obs

    def features(self, state: Tree) -> Tensor:
        return state

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        after = state + action.unsqueeze(-1)
        return after, Outcome(state[:, 0], self.goes_on(after[:, 0]))


class Ones:
    """Always takes action 1."""

    def act(self, features: Tensor, explore: bool) -> Tensor:
        assert explore
        return torch.ones(len(features), dtype=torch.int64)

    def update(self, steps: Step) -> Metrics:
        raise NotImplementedError


def starts(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(-1)


def test_rows_are_what_a_real_episode_would_have_left() -> None:
    steps = rollout(Counter(torch.ones_like), Ones(), starts(0, 10), 3)
    assert steps.obs[..., 0].tolist() == [[0, 10], [1, 11], [2, 12], [3, 13]]
    assert steps.action.tolist() == [[0, 0], [1, 1], [1, 1], [1, 1]]
    assert steps.reward.tolist() == [[0, 0], [0, 10], [1, 11], [2, 12]]
    assert steps.first.tolist() == [[True, True], *[[False, False]] * 3]
    assert not steps.terminal.any()


def test_nothing_counts_after_an_imagined_termination() -> None:
    steps = rollout(Counter(lambda x: (x < 2).float()), Ones(), starts(0, 1, -5), 3)
    assert steps.terminal.T.tolist() == [[False, False, True, False], [False, True, False, False], [False] * 4]
    valid = steps.transitions().valid.T
    assert valid.tolist() == [[True, True, False], [True, False, False], [True, True, True]]


def test_terminations_have_the_models_probability() -> None:
    torch.manual_seed(0)
    steps = rollout(Counter(lambda x: torch.full_like(x, 0.7)), Ones(), torch.zeros(20_000, 1), 2)
    assert steps.terminal[1].float().mean().item() == pytest.approx(0.3, abs=0.01)
    alive = ~steps.terminal[1]
    assert steps.terminal[2][alive].float().mean().item() == pytest.approx(0.3, abs=0.015)
    assert not steps.terminal[2][~alive].any()


class Unsure(Counter):
    """Its members disagree by the number they are at."""

    def disagreement(self, state: Tree, action: Tensor) -> Tensor:
        return state[:, 0] * action


def test_a_step_above_max_disagreement_is_not_taken_and_is_not_terminal() -> None:
    steps = rollout(Unsure(torch.ones_like), Ones(), starts(0, 1, 5), 3, max_disagreement=1.0)
    assert steps.transitions().valid.T.tolist() == [[True, True, False], [True, False, False], [False, False, False]]
    assert not steps.terminal.any()
