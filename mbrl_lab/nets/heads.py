"""How a network's last layer is read as one number, and what it should have said."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbrl_lab.ops import symexp, two_hot

RANGE = 20.0
"""Bins lie between symexp(-20) and symexp(20), as in Hafner et al. (2023)."""


class Head(nn.Module):
    """A reading of `outputs` numbers."""

    outputs: int

    def mean(self, out: Tensor) -> Tensor:
        """[..., outputs] -> [...]: the number it expects."""
        raise NotImplementedError

    def error(self, out: Tensor, target: Tensor) -> Tensor:
        """[..., outputs] and [...] -> [...]: the loss."""
        raise NotImplementedError


class Number(Head):
    """The number itself, in units of `scale`; the loss is the squared error in the same units."""

    outputs = 1

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def mean(self, out: Tensor) -> Tensor:
        return out.float().squeeze(-1) * self.scale

    def error(self, out: Tensor, target: Tensor) -> Tensor:
        return (out.float().squeeze(-1) - target / self.scale).square()


class TwoHot(Head):
    """Weights on bins that are evenly spaced in symlog; the loss is the cross-entropy with the two-hot target.

    Whatever its size, a target pulls alike (Hafner et al. 2023, eq. 9-11). An odd number of `bins`, so that one is 0.
    """

    bins: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        if bins % 2 == 0:
            raise ValueError(f"bins is {bins}; it must be an odd number, so that one of the bins is 0")
        self.outputs = bins
        upper = symexp(torch.linspace(0, RANGE, bins // 2 + 1))
        self.register_buffer("bins", torch.cat([-upper.flip(0)[:-1], upper]), persistent=False)

    def mean(self, out: Tensor) -> Tensor:
        """Bins of opposite sign are added pairwise: in any other order equal weights would not give 0."""
        weighted = out.float().softmax(-1) * self.bins
        half = self.outputs // 2
        return (weighted[..., :half].flip(-1) + weighted[..., half + 1 :]).sum(-1)

    def error(self, out: Tensor, target: Tensor) -> Tensor:
        return -(two_hot(target, self.bins) * F.log_softmax(out.float(), -1)).sum(-1)


def head(bins: int, scale: float = 1.0) -> Head:
    """`TwoHot`, or for no bins a `Number`."""
    return TwoHot(bins) if bins else Number(scale)


@torch.no_grad()
def begin_at_zero(net: nn.Sequential) -> nn.Sequential:
    """The same network, which says 0 whatever it is asked, until it has learned."""
    last = net[-1]
    assert isinstance(last, nn.Linear), last
    last.weight.zero_()
    last.bias.zero_()
    return net
