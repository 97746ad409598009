"""Distributions over action sequences that planners sample from and fit to what scored well.

A plan is a dict whose "mean" [B, H, A] holds action probabilities if discrete, actions in [-1, 1] if continuous.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mbrl_lab.types import EnvSpec

Plan = dict[str, Tensor]


def coloured_noise(shape: tuple[int, ...], beta: float, device: torch.device | str) -> Tensor:
    """Unit Gaussian noise whose power along the last axis falls with frequency as f^-beta (Timmer & König 1995).

    White noise is filtered in the frequency domain; beta = 0 leaves it white, larger beta correlates neighbours more.
    """
    white = torch.randn(shape, device=device)
    if beta == 0:
        return white
    # Frequency 0 gets the gain of the lowest other one, as its own would be infinite.
    steps = shape[-1]
    frequency = torch.fft.fftfreq(steps, device=device).abs().clamp(min=1 / steps)
    gain = frequency ** (-beta / 2)

    # Unit variance whatever beta is: the mean power over all frequencies is 1.
    gain = gain / gain.square().mean().sqrt()
    return torch.fft.irfft(torch.fft.rfft(white) * gain[: steps // 2 + 1], n=steps)


@dataclass(frozen=True)
class Proposal(ABC):
    """`momentum`: the fraction of the old parameters that a fit keeps; `noise_beta`: the colour of draws over time."""

    spec: EnvSpec
    momentum: float = 0.0
    noise_beta: float = 0.0

    @abstractmethod
    def sample(self, plan: Plan, count: int) -> Tensor:
        """[B, count, H] int64 or [B, count, H, A] float32 sequences."""

    def prior(self, batch: int, horizon: int, device: torch.device | str) -> Plan:
        """The initial plan: equal probabilities, or actions of zero."""
        value = 1 / self.spec.action_dim if self.spec.discrete else 0.0
        return {"mean": torch.full((batch, horizon, self.spec.action_dim), value, device=device)}

    def shift(self, plan: Plan) -> Plan:
        """The plan of the step before, shifted by one step; its last step, and every spread, are the prior's."""
        # The spread is reset: a fit leaves it so small that the search could not leave the old plan.
        mean = plan["mean"]
        batch, horizon, _ = mean.shape
        prior = self.prior(batch, horizon, mean.device)
        return prior | {"mean": torch.cat([mean[:, 1:], prior["mean"][:, -1:]], 1)}

    def fit(self, plan: Plan, sequences: Tensor, weights: Tensor) -> Plan:
        """Move the plan to the weighted sequences; `weights` [B, N] sum to one over N."""
        return {"mean": self._blend(plan["mean"], average(self.spec.encode_action(sequences), weights))}

    def mode(self, plan: Plan) -> Tensor:
        """[B, H] int64 or [B, H, A]: the one sequence that stands for the plan."""
        return plan["mean"].argmax(-1) if self.spec.discrete else plan["mean"].clamp(-1, 1)

    def _blend(self, old: Tensor, new: Tensor) -> Tensor:
        return torch.lerp(new, old, self.momentum)


class UniformProposal(Proposal):
    """Every action equally likely, whatever the plan is (random shooting)."""

    def sample(self, plan: Plan, count: int) -> Tensor:
        batch, horizon, _ = plan["mean"].shape
        flat = self.spec.sample(batch * count * horizon, plan["mean"].device)
        return flat.view(batch, count, horizon, *flat.shape[1:])


@dataclass(frozen=True)
class CategoricalProposal(Proposal):
    """Independent action probabilities per step, `uniform_mix` of them spread evenly so that no action dies out.

    With `noise_beta` > 0 the draws of neighbouring steps are correlated, their probabilities unchanged: coloured noise
    goes through the Gaussian distribution function, which makes it uniform, and then through each step's inverse one.
    """

    uniform_mix: float = 0.0

    def sample(self, plan: Plan, count: int) -> Tensor:
        batch, horizon, actions = plan["mean"].shape
        # An action that no elite has would have probability 0 from then on.
        probabilities = (1 - self.uniform_mix) * plan["mean"] + self.uniform_mix / actions
        noise = coloured_noise((batch, count, horizon), self.noise_beta, plan["mean"].device)
        # Inverse transform sampling: a Gaussian's quantiles are uniform, and neighbours stay correlated.
        quantile = torch.special.ndtr(noise).transpose(1, 2).contiguous()

        # Rounding may leave the last cumulative sum below 1, and so a quantile beyond it.
        drawn = torch.searchsorted(probabilities.cumsum(-1), quantile, right=True)
        return drawn.clamp(max=actions - 1).transpose(1, 2)


@dataclass(frozen=True)
class GaussianProposal(Proposal):
    """Independent Gaussians per step and action dimension, samples clamped to [-1, 1]; the plan holds "std" too."""

    init_std: float = 0.7
    min_std: float = 0.05

    def prior(self, batch: int, horizon: int, device: torch.device | str) -> Plan:
        plan = super().prior(batch, horizon, device)
        return plan | {"std": torch.full_like(plan["mean"], self.init_std)}

    def sample(self, plan: Plan, count: int) -> Tensor:
        batch, horizon, size = plan["mean"].shape
        noise = coloured_noise((batch, count, size, horizon), self.noise_beta, plan["mean"].device).transpose(2, 3)
        return (plan["mean"][:, None] + plan["std"][:, None] * noise).clamp(-1, 1)

    def fit(self, plan: Plan, sequences: Tensor, weights: Tensor) -> Plan:
        # A smaller spread than `min_std` would stop the search early, on the first good sequence.
        mean = average(sequences, weights)
        std = average((sequences - mean[:, None]).square(), weights).sqrt()
        return {
            "mean": self._blend(plan["mean"], mean),
            "std": self._blend(plan["std"], std).clamp(min=self.min_std),
        }


@dataclass(frozen=True)
class Adaptive:
    """Makes the proposal that suits an environment's actions; it is fitted to the best sequences."""

    init_std: float = 0.7
    """Standard deviation of continuous actions before the first fit."""
    min_std: float = 0.05
    """Lower bound of that standard deviation."""
    uniform_mix: float = 0.1
    """Fraction of discrete actions' probability that is spread evenly."""
    momentum: float = 0.0
    """Fraction of the old parameters that a fit keeps."""
    noise_beta: float = 0.0
    """Exponent of the coloured noise's spectrum over time; 0: white."""

    def __post_init__(self) -> None:
        require(lambda x: x >= 0, "noise_beta", self.noise_beta, "at least 0")

    def __call__(self, spec: EnvSpec) -> Proposal:
        if spec.discrete:
            return CategoricalProposal(spec, self.momentum, self.noise_beta, self.uniform_mix)
        return GaussianProposal(spec, self.momentum, self.noise_beta, self.init_std, self.min_std)


def require(holds: Callable[[Any], bool], key: str, value: object, allowed: str, whole: bool = False) -> None:
    """ValueError that names the setting unless it is a number, a `whole` one where asked, of which `holds` is true."""
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not (number and holds(value)):
        raise ValueError(
            f"planner.{key} is {value!r}; it must be {'a whole number' if whole else 'a number'} {allowed}"
        )


def average(encoded: Tensor, weights: Tensor) -> Tensor:
    """[B, N, H, A] weighted by [B, N] -> [B, H, A]: no matrix product, which autocast would round to bfloat16."""
    return (weights[..., None, None] * encoded).sum(1)
