"""How the networks of a world model are optimised: settings of Adam, grouped as in a policy's `optim`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Optim:
    """Adam."""

    lr: float
    """Learning rate."""
    clip: float
    """Largest norm of the gradient. 0: not clipped."""


@dataclass(frozen=True)
class DecayOptim(Optim):
    """Adam with L2 regularisation of the weights, not of the biases."""

    weight_decay: float | Sequence[float]
    """The same for all layers, or a number for each (PETS: more towards the output)."""

    def by_layer(self, layers: int) -> list[float]:
        """The decay of each layer. ValueError for a list of another length."""
        decay = self.weight_decay
        each = [float(decay)] * layers if isinstance(decay, int | float) else list(decay)
        if len(each) != layers:
            allowed = f"a number or {layers}, one for each layer"
            raise ValueError(f"dynamics.optim.weight_decay is {each}; it must be {allowed}")
        return each


@dataclass(frozen=True)
class AnnealedOptim(Optim):
    """Adam whose learning rate falls late, when a run is nearly over: a noisy model would not settle."""

    anneal_updates: int
    """Updates in whose second half the learning rate falls to a hundredth. 0: it never falls."""
