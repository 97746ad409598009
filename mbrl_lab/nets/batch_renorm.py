"""Batch renormalisation (Ioffe 2017), and K MLPs with it before each layer, as CrossQ has them (Bhatt et al. 2024)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from mbrl_lab.nets.ensemble import Layers, affine, uniform
from mbrl_lab.nets.precision import without_autocast

LARGEST_RATIO, LARGEST_SHIFT = 3.0, 5.0
"""r_max and d_max after the warm-up, all at once as in CrossQ's code; Ioffe (2017) raises them gradually."""

EPSILON = 1e-3
"""Added to variances."""


class BatchRenorm(nn.Module):
    """Standardises each member's batch [K, N, D]: in training by the batch's moments, corrected towards the running
    ones; otherwise by the running ones.

    In training x^ = (x - mean) / std * r + d with r = std / running std and d = (mean - running mean) / running std,
    both clipped and without gradients. In the first `warmup` batches r = 1 and d = 0, which is batch normalisation.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor

    def __init__(self, members: int, dim: int, momentum: float, warmup: int) -> None:
        super().__init__()
        self.momentum = momentum
        self.warmup = warmup
        self.gain = nn.Parameter(torch.ones(members, 1, dim))
        self.shift = nn.Parameter(torch.zeros(members, 1, dim))
        self.register_buffer("mean", torch.zeros(members, 1, dim))
        self.register_buffer("var", torch.ones(members, 1, dim))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if not self.training:
            # Moments, gain and shift are one scale and one offset, in one pass over the batch.
            scale = self.gain * (self.var + EPSILON).rsqrt()
            return torch.addcmul(self.shift - self.mean * scale, x, scale)

        # One column for each unit of each member. The correction is a constant: gradients flow through the batch's own
        # moments (Ioffe 2017, alg. 1).
        columns = x.transpose(0, 1).flatten(1)
        with torch.no_grad():
            mean, var = (m.view_as(self.mean) for m in moments(columns))
            std, running = (var + EPSILON).sqrt(), (self.var + EPSILON).sqrt()
            warm = self.batches >= self.warmup
            ratio = torch.where(warm, (std / running).clamp(1 / LARGEST_RATIO, LARGEST_RATIO), 1.0)
            offset = torch.where(warm, ((mean - self.mean) / running).clamp(-LARGEST_SHIFT, LARGEST_SHIFT), 0.0)
            self.mean.lerp_(mean, 1 - self.momentum)
            self.var.lerp_(var, 1 - self.momentum)
            self.batches += 1

        # (x^ r + d) gain + shift is batch normalisation with another gain and shift.
        gain, shift = self.gain * ratio, self.gain * offset + self.shift
        normed = nn.functional.batch_norm(
            columns, None, None, gain.flatten(), shift.flatten(), training=True, eps=EPSILON
        )
        return normed.view(x.shape[1], x.shape[0], x.shape[2]).transpose(0, 1)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """[N, D] -> mean and biased variance [D]."""
    # On a CPU torch.var_mean takes eight times as long over rows. The variance of batch_norm is the unbiased one.
    mean, var = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    nn.functional.batch_norm(x, mean, var, training=True, momentum=1.0)
    return mean, var * (1 - 1 / len(x))


class RenormMLP(nn.Module):
    """K MLPs with ReLU and batch renormalisation before each layer; the last layer is float32."""

    def __init__(
        self, members: int, inputs: int, outputs: int, width: int, depth: int, momentum: float, warmup: int
    ) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        weights, biases = zip(*(uniform(members, i, o) for i, o in itertools.pairwise(sizes)), strict=True)
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)
        self.norms = nn.ModuleList(BatchRenorm(members, i, momentum, warmup) for i in sizes[:-1])

    def layers(self) -> Layers:
        return list(zip(self.weights, self.biases, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """[K, N, i] -> [K, N, o]."""
        *hidden, (weight, bias) = self.layers()
        for (w, b), norm in zip(hidden, self.norms, strict=False):
            x = torch.relu(affine(b, norm(x), w))
        x = self.norms[-1](x)
        with without_autocast(x.device.type):
            return affine(bias, x, weight)
