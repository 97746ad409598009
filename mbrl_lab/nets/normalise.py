"""Normalisation, by moments of data or by running statistics of a stream of batches, saved with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normaliser(nn.Module):
    """Standardises vectors [..., D]; a dimension that does not vary keeps scale 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation from [N, D]."""
        # Nearly constant dimensions are only centred: divided by their standard deviation they would be noise.
        std = x.std(0, correction=0)
        self.mean.copy_(x.mean(0))
        self.scale.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class Moments(nn.Module):
    """Mean and variance of everything counted so far; 0 and 1 before that."""

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    @torch.no_grad()
    def add(self, x: Tensor, counts: Tensor) -> None:
        """Count those of [N, *shape] for which `counts` [N] holds."""
        x, weight = x.double(), counts.double().view(-1, *[1] * (x.ndim - 1))
        number = weight.sum()
        mean = (x * weight).sum(0) / number.clamp(min=1)
        squares = ((x - mean).square() * weight).sum(0)

        # Merge the two sets' sums of squares (Chan et al. 1979), in float64: the sums grow for a whole run.
        fraction = number / (self.count + number).clamp(min=1)
        delta = mean - self.mean
        squares = squares + self.var * self.count + delta.square() * self.count * fraction
        self.mean += delta * fraction
        self.count += number
        # In place: the variance is a buffer. It stays 1 until something is counted.
        self.var.copy_(torch.where(self.count > 0, squares / self.count.clamp(min=1), self.var))


class Standardise(nn.Module):
    """Tensors [..., *shape] standardised by the moments of those counted, and clipped at `limit`."""

    def __init__(self, shape: tuple[int, ...], limit: float = 10.0) -> None:
        super().__init__()
        self.moments = Moments(shape)
        self.limit = limit

    def forward(self, x: Tensor) -> Tensor:
        mean, scale = self.moments.mean, (self.moments.var + 1e-8).rsqrt()
        if not x.is_floating_point():
            # Bytes lose nothing in float32, which is faster than the float64 of the statistics.
            mean, scale = mean.float(), scale.float()
        return ((x - mean) * scale).float().clamp(-self.limit, self.limit)

    def undo(self, x: Tensor) -> Tensor:
        """The inverse of `forward`, but for the clipping."""
        return (x * (self.moments.var + 1e-8).sqrt() + self.moments.mean).float()


class RewardScale(nn.Module):
    """Rewards divided by the standard deviation of their discounted sums since the start of each episode.

    A sum continues from one call to the next, so calls must follow each other without a gap; a call with another number
    of environments starts its sums at 0.
    """

    def __init__(self, gamma: float, limit: float = 10.0) -> None:
        super().__init__()
        self.gamma = gamma
        self.limit = limit
        self.moments = Moments(())
        self.sums = torch.zeros(0)

    @torch.no_grad()
    def forward(self, reward: Tensor, valid: Tensor) -> Tensor:
        """[T, B] -> [T, B]: count the valid rewards, then scale all; a step that is not valid starts an episode."""
        total = self.sums.to(reward) if len(self.sums) == reward.shape[1] else torch.zeros_like(reward[0])
        sums = []
        for r, same_episode in zip(reward, valid, strict=True):
            total = same_episode * (self.gamma * total + r)
            sums.append(total)
        # The last sums belong to episodes that continue in the next call.
        self.sums = total
        self.moments.add(torch.stack(sums).flatten(), valid.flatten())
        return (reward * (self.moments.var + 1e-8).rsqrt()).float().clamp(-self.limit, self.limit)

    def get_extra_state(self) -> Tensor:
        """The sums. They are no buffer, as their number is not known before the first call."""
        return self.sums

    def set_extra_state(self, state: Tensor) -> None:
        self.sums = state
