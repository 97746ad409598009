"""A gated recurrent unit with block-diagonal recurrent weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BlockLinear(nn.Module):
    """[N, G, i] -> [N, G, o]: a linear layer for each of G blocks."""

    def __init__(self, blocks: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(blocks, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        # One product for all blocks, the bias within.
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class BlockGRU(nn.Module):
    """State [N, `units`] and inputs [N, `inputs`] -> the next state.

    Each of `blocks` equal parts of the state depends on itself and on all inputs, through a layer as wide as it is, and
    is updated by gates (block-diagonal, Hafner et al. 2023); with one block it is a GRU with that layer before it.
    """

    def __init__(self, inputs: int, units: int, width: int, blocks: int) -> None:
        super().__init__()
        if units % blocks:
            raise ValueError(f"dynamics.state.blocks is {blocks}; it must divide dynamics.state.units, {units}")
        self.blocks, part = blocks, units // blocks
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.SiLU())
        self.mix = BlockLinear(blocks, part + width, part)
        self.norm = nn.LayerNorm(units)
        self.gates = BlockLinear(blocks, part, 3 * part)

    def forward(self, state: Tensor, inputs: Tensor) -> Tensor:
        # Each block reads all inputs, but of the state only its own part.
        x = self.enter(inputs).unsqueeze(1).expand(-1, self.blocks, -1)
        x = torch.cat([state.unflatten(-1, (self.blocks, -1)).to(x.dtype), x], -1)
        x = F.silu(self.norm(self.mix(x).flatten(1))).unflatten(-1, (self.blocks, -1))
        reset, candidate, update = (g.flatten(1).float() for g in self.gates(x).chunk(3, -1))
        candidate = torch.tanh(reset.sigmoid() * candidate)

        # The bias of -1 starts the update gate at about a quarter, so that states last.
        return torch.lerp(state, candidate, (update - 1).sigmoid())
