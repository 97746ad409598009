"""How numbers are read from what a network says, and what it should have said."""

from __future__ import annotations

import pytest
import torch

from mbrl_lab.nets.heads import Number, TwoHot, begin_at_zero, head
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.ops import two_hot


def test_who_says_nothing_expects_exactly_zero() -> None:
    assert TwoHot(255).mean(torch.zeros(3, 255)).tolist() == [0.0, 0.0, 0.0]
    assert TwoHot(255).mean(torch.full((3, 255), 7.0)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bins", [41, 255])
def test_a_two_hot_target_is_what_it_came_from(bins: int) -> None:
    two = TwoHot(bins)
    x = torch.tensor([0.0, 0.3, -0.3, 1.0, -25.0, 1e4])
    torch.testing.assert_close(two.mean(two_hot(x, two.bins).log()), x, rtol=1e-4, atol=1e-4)


def test_the_loss_is_least_at_the_target_and_its_gradient_is_bounded_whatever_the_target() -> None:
    two = TwoHot(41)
    for x in (-3.0, 0.0, 1e6):
        out = torch.zeros(1, 41, requires_grad=True)
        (gradient,) = torch.autograd.grad(two.error(out, torch.tensor([x])).sum(), out)
        torch.testing.assert_close(gradient, out.softmax(-1) - two_hot(torch.tensor([x]), two.bins))
        assert gradient.abs().max() <= 1
    target = torch.tensor([5.0])
    right = two_hot(target, two.bins).clamp(min=1e-6).log()
    assert two.error(right, target) < two.error(right.roll(1, -1), target)


def test_numbers_are_in_units_of_their_scale() -> None:
    number = Number(100.0)
    assert number.mean(torch.tensor([[0.5]])).item() == 50
    assert number.error(torch.tensor([[0.5]]), torch.tensor([70.0])).item() == pytest.approx(0.04)


def test_bins_are_an_odd_number() -> None:
    assert isinstance(head(0), Number) and isinstance(head(5), TwoHot)
    with pytest.raises(ValueError, match="bins is 4; it must be an odd number"):
        head(4)


def test_a_network_that_begins_at_zero_says_zero_and_can_learn() -> None:
    net = begin_at_zero(mlp([3, 8, 2]))
    out = net(torch.randn(5, 3))
    assert out.tolist() == [[0.0, 0.0]] * 5
    out.sum().backward()
    assert net[-1].weight.grad is not None and net[-1].weight.grad.abs().sum() > 0
