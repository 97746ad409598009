"""Known answers for the shared pieces of maths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mbrl_lab import ops

BINS = torch.linspace(-3, 3, 13)


@pytest.mark.parametrize(
    ("before", "after", "every", "times"),
    [
        (0, 1, 1, 1),
        (0, 99, 100, 0),
        (99, 100, 100, 1),
        (100, 199, 100, 0),
        (96, 104, 4, 2),
        (0, 1000, 0, 0),
        (0, 5, 7, 0),
    ],
)
def test_crossed(before: int, after: int, every: int, times: int) -> None:
    assert ops.crossed(before, after, every) == times


@pytest.mark.parametrize("num_envs", [1, 3, 7])
def test_crossed_counts_every_multiple_once(num_envs: int) -> None:
    counts = [ops.crossed(step, step + num_envs, 10) for step in range(0, 2100, num_envs)]
    assert sum(counts) == 2100 // 10


def test_masked_mean_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0, 30.0], [4.0, 50.0, 60.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert ops.masked_mean(x, mask).item() == pytest.approx(7 / 3)
    torch.testing.assert_close(ops.masked_mean(x, mask, 1), torch.tensor([1.5, 4.0]))
    torch.testing.assert_close(ops.masked_mean(x, mask, 0), torch.tensor([2.5, 2.0, 0.0]))


def test_masked_mean_of_nothing_is_zero_with_zero_gradient() -> None:
    x = torch.ones(3, requires_grad=True)
    mean = ops.masked_mean(x, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert x.grad is not None and not x.grad.any()


def brute_force_gae(
    reward: Tensor, discount: Tensor, value: Tensor, next_value: Tensor, valid: Tensor, lam: float
) -> Tensor:
    """Sum over all later rows of an unbroken stretch, term by term."""
    out = torch.zeros_like(reward)
    time, batch = reward.shape
    for b in range(batch):
        for t in range(time):
            weight = 1.0
            for k in range(t, time):
                if not valid[k, b]:
                    break
                out[t, b] += weight * (reward[k, b] + discount[k, b] * next_value[k, b] - value[k, b])
                weight *= lam * float(discount[k, b])
    return out


def test_gae_is_its_sum() -> None:
    time, batch = 12, 5
    reward, value, next_value = torch.randn(3, time, batch)
    discount = 0.9 * (torch.rand(time, batch) > 0.2)  # some rows are terminal
    valid = torch.rand(time, batch) > 0.2  # and some stand between two episodes
    assert not valid.all() and not discount.all()
    expected = brute_force_gae(reward, discount, value, next_value, valid, 0.8)
    torch.testing.assert_close(ops.gae(reward, discount, value, next_value, valid, 0.8), expected)


def test_gae_with_lambda_one_is_return_less_value() -> None:
    reward, value = torch.ones(4, 1), torch.full((4, 1), 10.0)
    next_value = torch.cat([value[1:], torch.zeros(1, 1)])
    got = ops.gae(reward, torch.ones(4, 1), value, next_value, torch.ones(4, 1, dtype=torch.bool), 1.0)
    torch.testing.assert_close(got, torch.tensor([[4.0], [3.0], [2.0], [1.0]]) - 10)


def test_lambda_returns_at_both_ends() -> None:
    reward, next_value = torch.randn(2, 6, 3)
    discount = torch.rand(6, 3)
    one_step = reward + discount * next_value
    torch.testing.assert_close(ops.lambda_returns(reward, discount, next_value, 0.0), one_step)
    to_the_end = [one_step[-1]]
    for t in (4, 3, 2, 1, 0):
        to_the_end.insert(0, reward[t] + discount[t] * to_the_end[0])
    torch.testing.assert_close(ops.lambda_returns(reward, discount, next_value, 1.0), torch.stack(to_the_end))


def test_lambda_returns_by_hand() -> None:
    got = ops.lambda_returns(
        torch.tensor([[1.0], [2.0]]), torch.tensor([[0.5], [0.5]]), torch.tensor([[4.0], [8.0]]), 0.25
    )
    torch.testing.assert_close(got, torch.tensor([[1 + 0.5 * (0.75 * 4 + 0.25 * 6)], [2 + 0.5 * 8]]))


def test_lambda_returns_and_gae_agree() -> None:
    reward, value = torch.randn(6, 3), torch.randn(7, 3)
    discount, valid = torch.rand(6, 3), torch.ones(6, 3, dtype=torch.bool)
    advantage = ops.gae(reward, discount, value[:-1], value[1:], valid, 0.7)
    torch.testing.assert_close(ops.lambda_returns(reward, discount, value[1:], 0.7), advantage + value[:-1])


T, F = True, False
N_STEP = [  # terminal, valid -> sum, discount, length; rewards 1, 2, 4 halved by every step are 1, 1, 1
    ([F, F, F], [T, T, T], 3.0, 0.125, 3),  # nothing happens
    ([F, T, F], [T, T, F], 2.0, 0.0, 2),  # the value ends, another episode begins
    ([F, T, F], [T, T, T], 2.0, 0.0, 2),  # the value ends and the rows go on: a lost life
    ([T, F, F], [T, F, T], 1.0, 0.0, 1),  # at once
    ([F, F, F], [T, T, F], 2.0, 0.25, 2),  # a time limit: the last observation before it bootstraps
    ([F, F, T], [T, F, T], 1.0, 0.5, 1),  # what ends later is another episode's
    ([F, F, F], [F, T, T], 0.0, 1.0, 0),  # nothing to learn here
]


@pytest.mark.parametrize(("terminal", "valid", "total", "discount", "length"), N_STEP)
def test_n_step_return_by_hand(
    terminal: list[bool], valid: list[bool], total: float, discount: float, length: int
) -> None:
    columns = [torch.tensor(x).unsqueeze(-1) for x in ([1.0, 2.0, 4.0], terminal, valid)]
    got = ops.n_step_return(*columns, 0.5)
    assert [x.item() for x in got] == [total, discount, length]


def brute_force_n_step(reward: list[float], terminal: list[bool], valid: list[bool], gamma: float) -> list[float]:
    total = 0.0
    for k in range(len(reward)):
        if not valid[k]:
            return [total, gamma**k, k]
        total += gamma**k * reward[k]
        if terminal[k]:
            return [total, 0.0, k + 1]
    return [total, gamma ** len(reward), len(reward)]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_n_step_return_is_its_sum(steps: int) -> None:
    reward, terminal, valid = torch.randn(steps, 200), torch.rand(steps, 200) < 0.2, torch.rand(steps, 200) < 0.8
    expected = [
        brute_force_n_step(*columns, 0.9)
        for columns in zip(*(x.T.tolist() for x in (reward, terminal, valid)), strict=True)
    ]
    got = ops.n_step_return(reward, terminal, valid, 0.9)
    torch.testing.assert_close(torch.stack([x.float() for x in got], 1), torch.tensor(expected))


def test_symexp_undoes_symlog() -> None:
    x = torch.tensor([-1e6, -3.0, -1e-4, 0.0, 1e-4, 3.0, 1e6])
    torch.testing.assert_close(ops.symexp(x.sign() * x.abs().log1p()), x, rtol=1e-5, atol=0)
    torch.testing.assert_close(ops.symexp(torch.tensor([-0.6931472, 1.0])), torch.tensor([-1.0, torch.e - 1]))


def test_two_hot_gives_the_value_back() -> None:
    x = torch.cat([torch.rand(4, 50) * 6 - 3, BINS[:12].expand(4, 12), torch.full((4, 1), 3.0)], 1)
    weights = ops.two_hot(x, BINS)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(x))
    torch.testing.assert_close(weights @ BINS, x)
    assert (weights >= 0).all() and ((weights > 0).sum(-1) <= 2).all()


def test_two_hot_on_uneven_bins_and_outside_of_them() -> None:
    got = ops.two_hot(torch.tensor([-9.0, 1.0, 9.0]), torch.tensor([0.0, 4.0, 5.0]))
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0, 0.0], [0.75, 0.25, 0.0], [0.0, 0.0, 1.0]]))


def brute_force_project(x: list[float], weight: list[float], low: float, high: float, atoms: int) -> list[float]:
    """Algorithm 1 of Bellemare et al. 2017, line by line."""
    m, step = [0.0] * atoms, (high - low) / (atoms - 1)
    for value, p in zip(x, weight, strict=True):
        b = (min(max(value, low), high) - low) / step
        lower, upper = math.floor(b), math.ceil(b)
        if lower == upper:
            m[lower] += p
        else:
            m[lower] += p * (upper - b)
            m[upper] += p * (b - lower)
    return m


@pytest.mark.parametrize(
    ("low", "high", "atoms"), [(-10.0, 10.0, 51), (0.0, 100.0, 51), (-1.0, 1.0, 2), (-3.0, 5.0, 7)]
)
def test_project_is_c51s_algorithm(low: float, high: float, atoms: int) -> None:
    bins, weight = torch.linspace(low, high, atoms, dtype=torch.double), torch.rand(9, atoms).double()
    reward, discount = torch.randn(9, 1).double() * (high - low) / 3, torch.rand(9, 1).double()
    discount[:3] = 0  # an end: all of it falls on the reward
    reward[0], reward[4], discount[4] = low, 0, 1
    x = reward + discount * bins
    expected = [brute_force_project(*row, low, high, atoms) for row in zip(x.tolist(), weight.tolist(), strict=True)]
    torch.testing.assert_close(ops.project(x, weight, bins), torch.tensor(expected, dtype=torch.double))


def test_project_keeps_the_mean_within_the_support() -> None:
    bins, weight = torch.linspace(-10, 10, 51), torch.rand(64, 51).softmax(-1)
    x = 0.5 * bins + torch.rand(64, 1) * 8 - 4
    got = ops.project(x, weight, bins)
    torch.testing.assert_close(got.sum(-1), torch.ones(64))
    torch.testing.assert_close(got @ bins, (weight * x).sum(-1))


def test_polyak() -> None:
    target, source = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = [
        0.75 * t.detach() + 0.25 * s.detach() for t, s in zip(target.parameters(), source.parameters(), strict=True)
    ]
    ops.polyak(target.parameters(), source.parameters(), 0.25)
    torch.testing.assert_close(list(map(torch.Tensor.detach, target.parameters())), expected)


def splitmix64(x: int) -> int:
    """The finaliser on Python's integers (Steele, Lea and Flood 2014)."""
    x &= 2**64 - 1
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


@pytest.mark.parametrize("salt", [0, 1, 2, 3, 999])
def test_hash_uniform_is_splitmix64(salt: int) -> None:
    ids = [0, 1, 2, 12345, 2**40, 2**62]
    golden = (salt + 1) * 0x9E3779B97F4A7C15
    expected = [(splitmix64(i + golden) >> 11) / 2**53 for i in ids]
    assert ops.hash_uniform(torch.tensor(ids), salt).tolist() == expected


def test_hash_uniform_is_uniform_and_salts_are_independent() -> None:
    ids = torch.arange(50_000)
    u, v = ops.hash_uniform(ids, 0), ops.hash_uniform(ids, 1)
    assert u.min() >= 0 and u.max() < 1
    assert torch.histc(u, 20, 0, 1).sub(2500).abs().max() < 5 * 2500**0.5
    assert torch.corrcoef(torch.stack([u, v]))[0, 1].abs() < 0.02
    assert torch.corrcoef(torch.stack([u[:-1], u[1:]]))[0, 1].abs() < 0.02


@pytest.mark.parametrize(
    ("bound", "left"), [(10.0, [3.0, 4.0]), (5.0, [3.0, 4.0]), (2.5, [1.5, 2.0]), (math.inf, [3.0, 4.0])]
)
def test_gradients_are_shrunk_to_a_norm(bound: float, left: list[float]) -> None:
    params = [
        torch.zeros(1, requires_grad=True),
        torch.zeros(1, requires_grad=True),
        torch.zeros(1, requires_grad=True),
    ]
    params[0].grad, params[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert ops.clip_norm(iter(params), bound).item() == 5.0
    assert [p.grad.item() for p in params[:2]] == pytest.approx(left)  # type: ignore[union-attr]


def test_pick_takes_one_of_each() -> None:
    x = torch.arange(12).view(2, 3, 2)
    assert ops.pick(x, torch.tensor([2, 0])).tolist() == [[4, 5], [6, 7]]


def test_means_are_over_the_times_that_each_was_measured() -> None:
    means = ops.Means()
    assert means.means() == {}
    means.add({"a": torch.tensor(1.0), "b": 5.0})
    means.add({"a": torch.tensor(2.0)})
    assert means.means() == {"a": 1.5, "b": 5.0}


def test_means_go_on_to_the_bit_from_what_was_saved() -> None:
    values = torch.rand(50)
    whole, first, second = ops.Means(), ops.Means(), ops.Means()
    for value in values:
        whole.add({"x": value})
    for value in values[:20]:
        first.add({"x": value})
    second.load_state_dict(first.state_dict())
    for value in values[20:]:
        second.add({"x": value})
    assert float(second.means()["x"]) == float(whole.means()["x"])
    assert float(whole.means()["x"]) == pytest.approx(float(values.double().mean()), abs=1e-15)
