"""Heads: how a network's output is read as one number, and the loss of that reading."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.ops import symexp, two_hot

SYMLOG_RANGE = 20.0
"""Bins lie between symexp(-20) and symexp(20) (Hafner et al. 2023, section "Robust predictions")."""


class Head(nn.Module):
    """A reading of `outputs` numbers as one."""

    outputs: int

    def mean(self, out: Tensor) -> Tensor:
        """[..., outputs] -> [...]: the expected number."""
        raise NotImplementedError

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        """[..., outputs] and targets [...] -> [...]."""
        raise NotImplementedError


class ScalarHead(Head):
    """The number itself, in units of `scale`; the loss is the squared error in the same units."""

    outputs = 1

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def mean(self, out: Tensor) -> Tensor:
        return out.float().squeeze(-1) * self.scale

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return (out.float().squeeze(-1) - target / self.scale).square()


class TwoHotHead(Head):
    """A distribution over bins, evenly spaced in symlog; the loss is the cross-entropy with the two-hot target.

    The size of its gradients does not depend on that of the target (Hafner et al. 2023, section "Robust predictions").
    ValueError for an even number of `bins`: one of them is 0.
    """

    bins: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        if bins % 2 == 0:
            raise ValueError(f"bins is {bins}; it must be an odd number, so that one of the bins is 0")
        self.outputs = bins

        # Mirrored, so that bins of opposite sign cancel to the bit.
        upper = symexp(torch.linspace(0, SYMLOG_RANGE, bins // 2 + 1))
        self.register_buffer("bins", torch.cat([-upper.flip(0)[:-1], upper]), persistent=False)

    def mean(self, out: Tensor) -> Tensor:
        weighted = out.float().softmax(-1) * self.bins

        # Bins of opposite sign are added pairwise: in any other order equal weights would not give exactly 0.
        half = self.outputs // 2
        return (weighted[..., :half].flip(-1) + weighted[..., half + 1 :]).sum(-1)

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return -(two_hot(target, self.bins) * F.log_softmax(out.float(), -1)).sum(-1)


def make_head(bins: int, scale: float = 1.0) -> Head:
    """A `TwoHotHead`, or for no bins a `ScalarHead`."""
    return TwoHotHead(bins) if bins else ScalarHead(scale)


@torch.no_grad()
def zero_output(net: nn.Sequential) -> nn.Sequential:
    """The same network with its last layer set to 0, so that its first outputs are 0 (Hafner et al. 2023)."""
    last = net[-1]
    assert isinstance(last, nn.Linear), last
    last.weight.zero_()
    last.bias.zero_()
    return net
