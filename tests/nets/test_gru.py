"""A recurrent unit by hand, and blocks that do not see each other."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mbrl_lab.nets.gru import BlockGRU, BlockLinear


def test_block_linear_has_one_layer_per_block() -> None:
    layer, x = BlockLinear(3, 4, 2), torch.randn(5, 3, 4)
    layer.bias.data.normal_()
    by_hand = [x[:, g] @ layer.weight[g] + layer.bias[g] for g in range(3)]
    torch.testing.assert_close(layer(x), torch.stack(by_hand, 1))


def test_gru_blocks_are_independent_before_the_norm() -> None:
    gru, memory, inputs = BlockGRU(3, 8, 16, blocks=4), torch.randn(1, 8), torch.randn(1, 3)
    gru.norm = torch.nn.Identity()  # type: ignore[assignment]
    jacobian = torch.autograd.functional.jacobian(lambda m: gru(m, inputs), memory)[0, :, 0]
    within = torch.block_diag(*[torch.ones(2, 2)] * 4).bool()
    assert (jacobian[~within] == 0).all() and (jacobian[within] != 0).all()
    jacobian = torch.autograd.functional.jacobian(lambda x: gru(memory, x), inputs)
    assert (jacobian != 0).all(), "all see the inputs"


def test_one_block_is_a_gru() -> None:
    gru, memory, inputs = BlockGRU(3, 4, 6, blocks=1), torch.randn(5, 4), torch.randn(5, 3)
    x = F.silu(gru.norm(torch.cat([memory, gru.enter(inputs)], -1) @ gru.mix.weight[0] + gru.mix.bias[0]))
    reset, fresh, update = (x @ gru.gates.weight[0] + gru.gates.bias[0]).chunk(3, -1)
    share = torch.sigmoid(update - 1)
    expected = share * torch.tanh(torch.sigmoid(reset) * fresh) + (1 - share) * memory
    torch.testing.assert_close(gru(memory, inputs), expected)


def test_blocks_must_divide_the_units() -> None:
    with pytest.raises(ValueError, match=r"^dynamics.state.blocks is 3; it must divide dynamics.state.units, 8$"):
        BlockGRU(3, 8, 16, blocks=3)
