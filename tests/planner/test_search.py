"""How sequences are scored and scores become weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from worlds import Table, Toy

from mbrl_lab.planner.search import best_weights, elite_weights, expectation, score_sequences, softmax_weights
from mbrl_lab.types import EnvSpec, Outcome, Tree

INF, NAN = float("inf"), float("nan")


def by_hand(model: Table, sequence: tuple[int, ...], discount: float) -> float:
    """The return of one sequence, written out."""
    total, alive = 0.0, 1.0
    for time, action in enumerate(sequence):
        total += alive * model.reward[time, action].item()
        alive *= model.discount[time, action].item() * discount
    return total


def test_scores_are_discounted_sums_of_rewards_for_every_sequence() -> None:
    model = Table(torch.randn(4, 3), torch.rand(4, 3))
    every = list(itertools.product(range(3), repeat=4))
    scores = score_sequences(model, model.begin(2), torch.tensor([every, every[::-1]]), discount=0.9)
    expected = torch.tensor([by_hand(model, s, 0.9) for s in every])
    torch.testing.assert_close(scores, torch.stack([expected, expected.flip(0)]))


def test_no_reward_counts_after_a_termination() -> None:
    model = Table(torch.ones(3, 2), torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
    scores = score_sequences(model, model.begin(1), torch.tensor([[[0, 0, 0], [0, 1, 0], [1, 1, 1]]]))
    assert scores.tolist() == [[3.0, 2.0, 2.0]]


def test_what_comes_after_a_plan_counts_as_far_as_the_episode_goes_on() -> None:
    model = Table(torch.ones(3, 2), torch.tensor([[1.0, 1.0], [1.0, 0.5], [1.0, 0.0]]))
    scores = score_sequences(
        model, model.begin(1), torch.tensor([[[0, 0, 0], [0, 1, 0], [0, 0, 1]]]), 1, 0.5, lambda s: 100.0 * s["time"]
    )
    assert scores.tolist() == [[1 + 0.5 + 0.25 + 300 / 8, 1 + 0.5 + 0.125 + 300 / 16, 1.75]]


class Rows(Toy):
    """Pays each row its number, and remembers what it was asked."""

    def __init__(self, spec: EnvSpec, broken: int | None = None, where: str = "reward") -> None:
        super().__init__(spec)
        self.broken, self.where, self.asked = broken, where, []

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        self.asked.append((state["env"], action))
        outcome = Outcome(torch.arange(len(action)).float(), torch.ones(len(action)))
        if self.broken is not None:
            getattr(outcome, self.where)[self.broken] = NAN
        return state, outcome


def test_rollouts_run_over_particles_then_sequences_then_environments() -> None:
    model = Rows(EnvSpec((1,), torch.float32, 9, discrete=True))
    sequences = torch.tensor([[[0], [1], [2]], [[3], [4], [5]]])
    scores = score_sequences(model, {"env": torch.tensor([0, 1])}, sequences, particles=2)
    env, action = model.asked[0]
    assert env.tolist() == [0, 1] * 6
    assert action.tolist() == [0, 3, 1, 4, 2, 5] * 2 and action.dtype == torch.int64
    assert scores.tolist() == [[3.0, 5.0, 7.0], [4.0, 6.0, 8.0]]


def test_continuous_actions_arrive_as_vectors() -> None:
    model = Rows(EnvSpec((1,), torch.float32, 2, discrete=False))
    sequences = torch.rand(2, 3, 4, 2)
    score_sequences(model, {"env": torch.arange(2)}, sequences, particles=2)
    expected = torch.stack([sequences[b, n, 3] for _ in range(2) for n in range(3) for b in range(2)])
    torch.testing.assert_close(model.asked[3][1], expected)


@pytest.mark.parametrize("where", ["reward", "cont"])
@pytest.mark.parametrize("broken", [3, 9])
def test_one_nan_in_one_particle_condemns_the_sequence(where: str, broken: int) -> None:
    model = Rows(EnvSpec((1,), torch.float32, 9, discrete=True), broken, where)
    scores = score_sequences(model, {"env": torch.arange(2)}, torch.zeros(2, 3, 1, dtype=torch.int64), particles=2)
    assert scores[1, 1] == -INF
    assert scores.isfinite().sum() == 5


class Counting(Toy):
    """Pays the action, terminates where it is 9, and counts the rollouts of each call."""

    def __init__(self, blocks: int) -> None:
        super().__init__(EnvSpec((1,), torch.float32, 10, discrete=True))
        self.blocks = blocks
        self.counts: list[int] = []

    @property
    def batch_blocks(self) -> int:
        return self.blocks

    def begin(self, batch: int) -> Tree:
        return {"env": torch.arange(batch).float(), "rest": [None]}

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        self.counts.append(len(action))
        assert len(action) % self.batch_blocks == 0
        return state, Outcome(action.float() + state["env"], (action != 9).float())


@pytest.mark.parametrize("blocks", [1, 5])
@pytest.mark.parametrize("ending", [0.02, 0.3])
def test_terminated_sequences_are_dropped_and_score_the_same(blocks: int, ending: float) -> None:
    model = Counting(blocks)
    sequences = torch.randint(9, (3, 32, 20))
    sequences[torch.rand(3, 32, 20) < ending] = 9
    scores = score_sequences(model, model.begin(3), sequences, particles=2)

    before_the_end = (sequences == 9).cumsum(-1) - (sequences == 9).long() == 0
    rewards = sequences + torch.arange(3)[:, None, None]
    assert torch.equal(scores, (rewards * before_the_end).sum(-1).float())
    assert model.counts[0] == 192 + 3 * (blocks == 5)
    assert model.counts[-1] < 0.85 * model.counts[0]


def test_a_search_in_which_everything_terminates_stops_early() -> None:
    model = Counting(1)
    scores = score_sequences(model, model.begin(2), torch.full((2, 4, 30), 9))
    assert scores.tolist() == [[9.0] * 4, [10.0] * 4]
    assert len(model.counts) == 1


class Members(Counting):
    """Pays the number of the block that a rollout lies in."""

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        _, outcome = super().imagine(state, action)
        member = torch.arange(self.batch_blocks).repeat_interleave(len(action) // self.batch_blocks)
        return state, outcome._replace(reward=member.float())


def test_a_rollout_stays_with_its_member_when_others_are_dropped() -> None:
    model = Members(4)
    sequences = torch.randint(9, (1, 64, 16))
    sequences[torch.rand(1, 64, 16) < 0.1] = 9
    scores = score_sequences(model, model.begin(1), sequences)
    lengths = (((sequences == 9).cumsum(-1) - (sequences == 9).long()) == 0).sum(-1)
    assert model.counts[-1] < model.counts[0]
    assert torch.equal(scores[0], (torch.arange(64) // 16 * lengths[0]).float())


def test_elites_have_equal_weights_and_ties_share_the_last_places() -> None:
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    third = 1 / 3
    expected = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.5, third / 2, third / 2, third / 2], [0.25] * 4])
    torch.testing.assert_close(elite_weights(scores, 2), expected)


@pytest.mark.parametrize("weigh", [lambda s: elite_weights(s, 2), lambda s: softmax_weights(s, 1.0), best_weights])
def test_a_condemned_sequence_has_no_weight_until_all_are(weigh) -> None:  # type: ignore[no-untyped-def]
    weights = weigh(torch.tensor([[-INF, 1.0, -INF], [-INF, -INF, -INF]]))
    assert weights[0].tolist() == [0.0, 1.0, 0.0]
    assert weights[1].isfinite().all() and weights[1].sum() == pytest.approx(1.0)


def test_softmax_weights_fall_by_e_per_temperature() -> None:
    weights = softmax_weights(torch.tensor([[1000.0, 998.0, -INF]]), 2.0)
    torch.testing.assert_close(weights[0, 1] / weights[0, 0], torch.tensor(-1.0).exp())


def test_a_plan_promises_the_mean_of_what_it_was_fitted_to() -> None:
    scores = torch.tensor([[2.0, 4.0, -INF], [-INF, -INF, -INF]])
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3]])
    assert expectation(scores, weights).tolist() == [3.0, -INF]
