"""Small pieces of maths that several parts share: schedules, masked means, returns, and value transforms."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mbrl_lab.types import Metrics, Step


def crossed(before: int, after: int, every: int) -> int:
    """How many multiples of `every` lie in (before, after]: a schedule without state; `every` 0 means never."""
    return after // every - before // every if every else 0


def clipped(steps: Step, limit: float) -> Step:
    """The same steps with rewards clipped to +-`limit`; 0: as they are."""
    return steps._replace(reward=steps.reward.clamp(-limit, limit)) if limit else steps


def masked_mean(x: Tensor, mask: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Mean of `x` where `mask` (broadcast) holds; 0 where it holds nowhere."""
    # Expanded first: the sum of weights then counts every number that `x` has, not every entry of the mask.
    weight = mask.to(x.dtype).expand_as(x)
    if dim is None:
        dim = tuple(range(x.ndim))
    return (x * weight).sum(dim) / weight.sum(dim).clamp(min=1)


def gae(reward: Tensor, discount: Tensor, value: Tensor, next_value: Tensor, valid: Tensor, lam: float) -> Tensor:
    """Generalised advantage estimates [T, B] (Schulman et al. 2016, eq. 16).

    `discount` is gamma times the continue probability. A step that is not valid gets 0 and passes no credit back,
    so the step before it, whose `next_value` bootstraps, starts a sum of its own.
    """
    advantage = torch.zeros_like(value[0])
    out = []
    for t in reversed(range(len(reward))):
        # `next_value`, not value[t + 1]: at a time limit the step after belongs to the next episode.
        delta = reward[t] + discount[t] * next_value[t] - value[t]
        advantage = valid[t] * (delta + discount[t] * lam * advantage)
        out.append(advantage)
    return torch.stack(out[::-1])


def lambda_returns(reward: Tensor, discount: Tensor, next_value: Tensor, lam: float) -> Tensor:
    """TD(lambda) returns [T, B]: R_t = r_t + discount_t ((1 - lam) v_t+1 + lam R_t+1), R_T = v_T."""
    value = next_value[-1]
    out = []
    for t in reversed(range(len(reward))):
        value = reward[t] + discount[t] * ((1 - lam) * next_value[t] + lam * value)
        out.append(value)
    return torch.stack(out[::-1])


def n_step_return(
    reward: Tensor, terminal: Tensor, valid: Tensor, gamma: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Discounted rewards of T transitions [T, B], up to an episode boundary: (sum, discount, length), each [B].

    The target is sum + discount * value of the observation after `length` steps. A terminal step is the last one
    counted, and its discount is 0. A step that is not valid is not counted, so a time limit bootstraps.
    """
    counted = counted_steps(terminal, valid)
    length = counted.sum(0)

    weight = gamma ** torch.arange(len(reward), device=reward.device).unsqueeze(-1)
    terminated = (counted * terminal).any(0)
    return (counted * weight * reward).sum(0), gamma**length * ~terminated, length


def counted_steps(terminal: Tensor, valid: Tensor) -> Tensor:
    """[T, B]: 1 for transitions that a return from the first one counts, 0 from a boundary or a terminal step on."""
    # A terminal step counts itself; it ends what comes after it.
    alive = torch.cat([torch.ones_like(valid[:1]), ~terminal[:-1]])
    return (valid & alive).cumprod(0)


def bootstrap_steps(first: Tensor, terminal: Tensor, n_step: int) -> Tensor:
    """[B]: the step of windows [L, B] from which a return of at most `n_step` steps bootstraps; see `n_step_return`."""
    within = torch.arange(len(first) - 1, device=first.device).unsqueeze(-1) < n_step
    return counted_steps(terminal[1:], ~first[1:] & within).sum(0)


def bootstrap_windows(steps: Step, n_step: int) -> Step:
    """Windows [L, B] with two observations [2, B]: the first, and the one that a return bootstraps from."""
    if len(steps.first) == 2:
        return steps
    last = bootstrap_steps(steps.first, steps.terminal, n_step)
    return steps._replace(obs=torch.stack([steps.obs[0], pick(steps.obs.transpose(0, 1), last)]))


def pick(x: Tensor, index: Tensor) -> Tensor:
    """[N, K, ...] -> [N, ...]: of each of N the one of K that `index` [N] names."""
    return x[torch.arange(len(x), device=x.device), index]


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp |x| - 1), the inverse of symlog, sign(x) log(1 + |x|) (Hafner et al. 2023)."""
    return x.sign() * x.abs().expm1()


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """[...] values as [..., K] weights on the two neighbouring `bins` [K] (sorted), clamped to their range."""
    x = x.clamp(bins[0], bins[-1])
    # At least 1, so that the least value of all has a bin below it too.
    above = torch.searchsorted(bins, x.contiguous()).clamp(1, len(bins) - 1)
    low, high = bins[above - 1], bins[above]
    weight = (x - low) / (high - low)
    out = torch.zeros(*x.shape, len(bins), device=x.device, dtype=x.dtype)
    out.scatter_(-1, (above - 1).unsqueeze(-1), (1 - weight).unsqueeze(-1))
    return out.scatter_(-1, above.unsqueeze(-1), weight.unsqueeze(-1))


def project(x: Tensor, weight: Tensor, bins: Tensor) -> Tensor:
    """[..., K]: weights [..., N] at values `x` [..., N], split between neighbouring `bins` [K] (C51, alg. 1)."""
    return (weight.unsqueeze(-1) * two_hot(x, bins)).sum(-2)


def unimix(logits: Tensor, ratio: float) -> Tensor:
    """Log-probabilities of logits [..., K] mixed with a uniform distribution of weight `ratio` (Hafner et al. 2023)."""
    if not ratio:
        return logits.log_softmax(-1)
    # Probabilities are mixed, not logits: no class is ever less likely than ratio / K, and the logarithm is finite.
    return ((1 - ratio) * logits.softmax(-1) + ratio / logits.shape[-1]).log()


@torch.no_grad()
def polyak(target: Iterable[Tensor], source: Iterable[Tensor], tau: float) -> None:
    """Exponential moving average: target = (1 - tau) target + tau source, for each tensor."""
    # One call for all tensors: calls take longer than the arithmetic of small networks.
    torch._foreach_lerp_(list(target), list(source), tau)


@torch.no_grad()
def clip_norm(params: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients to a global norm of at most `max_norm`; []: the norm before."""
    params = [p for p in params if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None])

    # Below that norm torch multiplies by 1. On a CPU it pays to skip that; on a GPU the comparison would wait for it.
    if norm.device.type != "cpu" or not norm <= max_norm:
        nn.utils.clip_grads_with_norm_(params, max_norm, norm)
    return norm


def hash_uniform(ids: Tensor, salt: int) -> Tensor:
    """A fixed pseudo-random float64 in [0, 1) for each int64 id (the finaliser of splitmix64).

    An index is permanent, so what is decided by it (held out or not, in whose bootstrap) never changes.
    """
    # Constants of splitmix64 as signed numbers, since torch has no unsigned arithmetic.
    x = ids + (((salt + 1) * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63)
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    x = x ^ _shift(x, 31)
    # The 53 bits that a float64 holds exactly.
    return _shift(x, 11).double() / 2**53


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) shift right of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class Means:
    """Means of metrics, each over the times that it was measured, in double precision.

    Sums stay tensors until somebody asks, so that a GPU is not waited for at every gradient step.
    """

    def __init__(self) -> None:
        self.sums: Metrics = {}
        self.counts: dict[str, int] = {}

    def add(self, metrics: Metrics) -> None:
        """Count one measurement of each."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + (value.double() if isinstance(value, Tensor) else value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> Metrics:
        """The mean of each metric."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts as plain numbers, exactly."""
        return {"sums": {name: float(total) for name, total in self.sums.items()}, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
