"""How numbers are read from what a network says, and what it should have said."""

from __future__ import annotations

import pytest
import torch

from mbrl_lab.nets.heads import ScalarHead, TwoHotHead, make_head, zero_output
from mbrl_lab.nets.mlp import mlp
from mbrl_lab.ops import two_hot


def test_two_hot_mean_of_equal_logits_is_exactly_zero() -> None:
    assert TwoHotHead(255).mean(torch.zeros(3, 255)).tolist() == [0.0, 0.0, 0.0]
    assert TwoHotHead(255).mean(torch.full((3, 255), 7.0)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bins", [41, 255])
def test_two_hot_encodes_its_value(bins: int) -> None:
    two = TwoHotHead(bins)
    x = torch.tensor([0.0, 0.3, -0.3, 1.0, -25.0, 1e4])
    torch.testing.assert_close(two.mean(two_hot(x, two.bins).log()), x, rtol=1e-4, atol=1e-4)


def test_two_hot_loss_is_least_at_the_target_with_bounded_gradient() -> None:
    two = TwoHotHead(41)
    for x in (-3.0, 0.0, 1e6):
        out = torch.zeros(1, 41, requires_grad=True)
        (gradient,) = torch.autograd.grad(two.loss(out, torch.tensor([x])).sum(), out)
        torch.testing.assert_close(gradient, out.softmax(-1) - two_hot(torch.tensor([x]), two.bins))
        assert gradient.abs().max() <= 1
    target = torch.tensor([5.0])
    right = two_hot(target, two.bins).clamp(min=1e-6).log()
    assert two.loss(right, target) < two.loss(right.roll(1, -1), target)


def test_scalar_head_is_in_units_of_its_scale() -> None:
    number = ScalarHead(100.0)
    assert number.mean(torch.tensor([[0.5]])).item() == 50
    assert number.loss(torch.tensor([[0.5]]), torch.tensor([70.0])).item() == pytest.approx(0.04)


def test_bins_must_be_odd() -> None:
    assert isinstance(make_head(0), ScalarHead) and isinstance(make_head(5), TwoHotHead)
    with pytest.raises(ValueError, match="bins is 4; it must be an odd number"):
        make_head(4)


def test_zero_output_network_outputs_zero_and_can_learn() -> None:
    net = zero_output(mlp([3, 8, 2]))
    out = net(torch.randn(5, 3))
    assert out.tolist() == [[0.0, 0.0]] * 5
    out.sum().backward()
    assert net[-1].weight.grad is not None and net[-1].weight.grad.abs().sum() > 0
