"""Few rows are computed in float32 even under autocast, many are not, and without autocast nothing changes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mbrl_lab.nets import EnsembleMLP
from mbrl_lab.nets.precision import SMALL_BATCH, differentiate, fp32_if_small, gains_from_bf16


@pytest.mark.parametrize(("rows", "dtype"), [(SMALL_BATCH - 1, torch.float32), (SMALL_BATCH, torch.bfloat16)])
def test_small_batches_stay_in_float32(rows: int, dtype: torch.dtype) -> None:
    net, x = nn.Linear(5, 3), torch.randn(rows, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = fp32_if_small(net, x.bfloat16())
    assert out.dtype == dtype
    if dtype == torch.float32:
        assert torch.equal(out, net(x.bfloat16().float()))


@pytest.mark.parametrize("rows", [1, SMALL_BATCH])
def test_fp32_if_small_without_autocast_is_the_network(rows: int) -> None:
    net, x = nn.Linear(5, 3), torch.randn(rows, 5)
    assert torch.equal(fp32_if_small(net, x), net(x))


def test_differentiate_equals_backward_outside_autocast() -> None:
    net, x = nn.Linear(5, 3), torch.randn(7, 5)
    net(x).square().sum().backward()
    plain = net.weight.grad
    net.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            loss = net(x).square().sum()
        differentiate(loss)
    assert plain is not None and net.weight.grad is not None and torch.equal(plain, net.weight.grad)


def test_differentiate_gives_gradients_to_inputs_only() -> None:
    one, other = nn.Linear(2, 1), nn.Linear(2, 1)
    differentiate((one(torch.ones(1, 2)) + other(torch.ones(1, 2))).sum(), list(one.parameters()))
    assert one.weight.grad is not None and other.weight.grad is None


@pytest.mark.parametrize(
    ("net", "large"),
    [
        (nn.Linear(128, 128), False),
        (nn.Linear(256, 256), True),
        (nn.Conv2d(64, 64, 3), True),
        (EnsembleMLP(7, 20, 6, 64, 2), False),
        (EnsembleMLP(7, 20, 6, 200, 2), True),
    ],
)
def test_gains_from_bf16_counts_the_layer_of_one_member(net: nn.Module, large: bool) -> None:
    assert gains_from_bf16(net) is large
