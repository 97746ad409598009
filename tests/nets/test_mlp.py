"""The layers of an MLP, and their order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mbrl_lab.nets.mlp import mlp


def names(net: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in net]


def test_mlp_order_of_layers() -> None:
    assert names(mlp([3, 5, 5, 2])) == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert names(mlp([3, 5, 2], norm=True, dropout=0.1, activation=nn.SiLU)) == [
        *("Linear", "Dropout", "LayerNorm", "SiLU"),
        "Linear",
    ]


@pytest.mark.parametrize("sizes", [[3, 2], [3, 7, 2], [3, 7, 6, 5, 2]])
def test_shapes(sizes: list[int]) -> None:
    assert mlp(sizes, norm=True)(torch.randn(4, 8, 3)).shape == (4, 8, 2)


def test_mlp_layers_share_no_parameters() -> None:
    net = mlp([4, 4, 4, 4], norm=True)
    assert len({id(p) for p in net.parameters()}) == 3 * 2 + 2 * 2
