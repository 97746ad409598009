"""A batched ensemble is so many separate networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.ensemble import uniform
from mbrl_lab.nets.mlp import mlp


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
def test_ensemble_equals_separate_networks(depth: int) -> None:
    net = randomised(4, 5, 3, 16, depth)
    x = torch.randn(4, 7, 5)
    out = net(x)
    assert out.shape == (4, 7, 3)
    for k in range(4):
        torch.testing.assert_close(out[k], member(net, k)(x[k]))


@pytest.mark.parametrize("rows", [100, 700])
def test_ensemble_equals_separate_networks_at_any_batch_size(rows: int) -> None:
    net = randomised(4, 5, 3, 16, 2)
    x = torch.randn(4, rows, 5)
    with torch.no_grad():
        out = net(x)
        for k in range(4):
            torch.testing.assert_close(out[k], member(net, k)(x[k]))


def test_ensemble_gradients_equal_those_of_separate_networks() -> None:
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
def test_initial_weights_are_truncated_normals(inputs: int, width: int) -> None:
    net = EnsembleMLP(5, inputs, 200, width, 2)
    for weight, fan_in in zip(net.weights, (inputs, width, width), strict=True):
        std = 0.5 / fan_in**0.5
        assert weight.abs().max() <= 2 * std
        assert weight.abs().max() > 1.9 * std
        assert weight.std().item() == pytest.approx(0.8796 * std, rel=0.05)  # of a normal cut at two deviations
        assert abs(weight.mean().item()) < 0.05 * std
    assert not any(bias.any() for bias in net.biases)


def test_members_are_initialised_differently() -> None:
    weight = EnsembleMLP(3, 4, 2, 8, 1).weights[0]
    assert not torch.equal(weight[0], weight[1]) and not torch.equal(weight[1], weight[2])


def critics(**options: Any) -> EnsembleMLP:
    net = EnsembleMLP(3, 5, 2, 16, 2, nn.functional.relu, initial=uniform, **options)
    for gain, shift in zip(net.gains, net.shifts, strict=True):
        nn.init.normal_(gain)
        nn.init.normal_(shift)
    return net


def critic(net: EnsembleMLP, k: int) -> nn.Sequential:
    """Member k as a network of torch's own layers."""
    alone = mlp([5, 16, 16, 2], norm=len(net.gains) > 0, dropout=net.dropout)
    linears = [layer for layer in alone if isinstance(layer, nn.Linear)]
    for weight, bias, linear in zip(net.weights, net.biases, linears, strict=True):
        linear.weight.data, linear.bias.data = weight.detach()[k].T.clone(), bias.detach()[k, 0].clone()
    norms = [layer for layer in alone if isinstance(layer, nn.LayerNorm)]
    for gain, shift, norm in zip(net.gains, net.shifts, norms, strict=True):
        norm.weight.data, norm.bias.data = gain.detach()[k, 0].clone(), shift.detach()[k, 0].clone()
    return alone


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("rows", [7, 700])
def test_critics_equal_separate_networks(norm: bool, rows: int) -> None:
    net, x = critics(norm=norm), torch.randn(3, rows, 5)
    with torch.no_grad():
        out = net(x)
        for k in range(3):
            torch.testing.assert_close(out[k], critic(net, k)(x[k]))


@pytest.mark.parametrize("norm", [False, True])
def test_critic_gradients_equal_those_of_separate_networks(norm: bool) -> None:
    net, x = critics(norm=norm), torch.randn(3, 20, 5)
    net(x).square().sum().backward()
    for k in range(3):
        alone = critic(net, k)
        alone(x[k]).square().sum().backward()
        expected = [p.grad for layer in alone if isinstance(layer, nn.LayerNorm) for p in layer.parameters()]
        got = [p.grad[k, 0] for pair in zip(net.gains, net.shifts, strict=True) for p in pair]
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(net.weights[0].grad[k], alone[0].weight.grad.T)


@pytest.mark.parametrize("rows", [200, 700])
def test_dropout_is_active_in_training_mode_only(rows: int) -> None:
    """Before a layer norm, as DroQ has it: with everything dropped, nothing but shifts and biases is left."""
    net, x = critics(norm=True, dropout=0.5), torch.randn(3, rows, 5)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))
        net.dropout = 1.0
        out = net(x)
        torch.testing.assert_close(out, out[:, :1].expand_as(out))
        assert out.any()
        net.eval()
        out = net(x)
        assert torch.equal(net(x), out) and not torch.allclose(out, out[:, :1])


def test_uniform_initialisation_is_that_of_torch_linear() -> None:
    net, linear = EnsembleMLP(20, 9, 50, 100, 1, initial=uniform), nn.Linear(100, 1000)
    for weight, bias, fan_in in zip(net.weights, net.biases, (9, 100), strict=True):
        for parameter in (weight, bias):
            assert 0.97 * fan_in**-0.5 < parameter.abs().max() <= fan_in**-0.5
            assert parameter.std().item() == pytest.approx(fan_in**-0.5 / 3**0.5, rel=0.05)
    assert net.weights[1].std().item() == pytest.approx(linear.weight.std().item(), rel=0.05)
    assert net.biases[1].std().item() == pytest.approx(linear.bias.std().item(), rel=0.05)


def test_parameter_names_without_norm() -> None:
    names = {name for name, _ in EnsembleMLP(2, 3, 1, 4, 1).named_parameters()}
    assert names == {"weights.0", "weights.1", "biases.0", "biases.1"}
