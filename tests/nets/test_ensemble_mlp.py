"""A batched ensemble is so many separate networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mbrl_lab.nets import EnsembleMLP


def member(net: EnsembleMLP, k: int) -> nn.Sequential:
    """Member k as a network of its own."""
    layers: list[nn.Module] = []
    for weight, bias in net.layers():
        linear = nn.Linear(weight.shape[1], weight.shape[2])
        linear.weight.data, linear.bias.data = weight.detach()[k].T.clone(), bias.detach()[k, 0].clone()
        layers += [linear, nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def randomised(members: int, inputs: int, outputs: int, width: int, depth: int) -> EnsembleMLP:
    net = EnsembleMLP(members, inputs, outputs, width, depth)
    for bias in net.biases:
        nn.init.normal_(bias)
    return net


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_it_is_separate_networks(depth: int) -> None:
    net = randomised(4, 5, 3, 16, depth)
    x = torch.randn(4, 7, 5)
    out = net(x)
    assert out.shape == (4, 7, 3)
    for k in range(4):
        torch.testing.assert_close(out[k], member(net, k)(x[k]))


@pytest.mark.parametrize("rows", [100, 700])
def test_it_is_separate_networks_for_few_rows_and_for_many(rows: int) -> None:
    net = randomised(4, 5, 3, 16, 2)
    x = torch.randn(4, rows, 5)
    with torch.no_grad():
        out = net(x)
        for k in range(4):
            torch.testing.assert_close(out[k], member(net, k)(x[k]))


def test_gradients_are_those_of_separate_networks() -> None:
    net = randomised(3, 2, 1, 8, 2)
    x, y = torch.randn(3, 20, 2), torch.randn(3, 20, 1)
    (net(x) - y).square().mean((1, 2)).sum().backward()
    for k in range(3):
        alone = member(net, k)
        (alone(x[k]) - y[k]).square().mean().backward()
        for weight, bias, linear in zip(net.weights, net.biases, alone[::2], strict=True):
            torch.testing.assert_close(weight.grad[k], linear.weight.grad.T)
            torch.testing.assert_close(bias.grad[k, 0], linear.bias.grad)


@pytest.mark.parametrize(("inputs", "width"), [(9, 400), (100, 100)])
def test_weights_begin_as_truncated_normals(inputs: int, width: int) -> None:
    net = EnsembleMLP(5, inputs, 200, width, 2)
    for weight, fan_in in zip(net.weights, (inputs, width, width), strict=True):
        std = 0.5 / fan_in**0.5
        assert weight.abs().max() <= 2 * std
        assert weight.abs().max() > 1.9 * std
        assert weight.std().item() == pytest.approx(0.8796 * std, rel=0.05)  # of a normal cut at two deviations
        assert abs(weight.mean().item()) < 0.05 * std
    assert not any(bias.any() for bias in net.biases)


def test_members_begin_different() -> None:
    weight = EnsembleMLP(3, 4, 2, 8, 1).weights[0]
    assert not torch.equal(weight[0], weight[1]) and not torch.equal(weight[1], weight[2])
