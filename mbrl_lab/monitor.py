"""Monitor: statistics of a run's actions, warnings about its metrics, and whether it may stop early."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl_lab.types import EnvSpec, Metrics, Step

log = logging.getLogger("mbrl_lab")

CHUNK = 1024
"""Vector steps that are kept before they are counted: counting each one separately would slow down the loop."""

NAMED = 18
"""Up to this number of discrete actions, each one's fraction is logged; with more actions only the largest."""

AT_BOUND = 0.999
"""|action| from which an action counts as at its bound."""

ONE_SIDED = 0.95
"""Fraction of one action, or of actions at their bounds, above which there is a warning."""

FEWEST = 100
"""Minimum number of actions between two rows of the log for a warning."""

LOW_ENTROPY = 0.1
"""Nats: the entropy of a discrete policy below which there is a warning."""

LOW_DENSITY = -3.2
"""Nats per dimension, for continuous actions: the entropy of a Gaussian with std 0.01, where actions span 2."""


class Stop(NamedTuple):
    """A run stops early when the mean of the last `window` logged values of `metric` is at or above `target`."""

    metric: str | None = None
    target: float | None = None
    window: int = 1


class Actions:
    """Statistics of the actions taken since the last row of the log.

    Discrete: `actions/k`, the fraction of action k, and `actions/top`, the largest one. Continuous: mean and std of
    |action| over all dimensions, and `actions/at_bounds`, the fraction of those at -1 or 1.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self.sums = self._zeros()
        self.pending: list[tuple[Tensor, Tensor]] = []  # (action, first) of steps that are not in the sums yet
        self.waiting = 0  # how many they are

    def add(self, step: Step) -> None:
        """Count the actions of a vector step [B]."""
        self.pending.append((step.action, step.first))
        self.waiting += 1
        if self.waiting == CHUNK:
            self._count()

    def metrics(self) -> tuple[Metrics, int]:
        """The fractions, and of how many actions; counting starts again."""
        self._count()
        sums, self.sums = self.sums, self._zeros()

        # Discrete sums are a histogram; continuous ones are [sum |a|, sum a^2, at bounds, number of values].
        count = int(sums.sum()) if self.spec.discrete else int(sums[3])
        if not count:
            return {}, 0

        if not self.spec.discrete:
            mean = sums[0] / count
            # E[x^2] - E[x]^2 may be slightly negative by rounding.
            std = (sums[1] / count - mean.square()).clamp(min=0).sqrt()
            metrics: Metrics = {
                "actions/mean_abs": mean,
                "actions/std_abs": std,
                "actions/at_bounds": sums[2] / count,
            }
            return metrics, count // self.spec.action_dim

        fraction = sums / count
        named: Metrics = {f"actions/{k}": fraction[k] for k in range(len(fraction))} if len(fraction) <= NAMED else {}
        return named | {"actions/top": fraction.max()}, count

    def state_dict(self) -> dict[str, Any]:
        """Pending steps stay uncounted, since another order of the sums would change their last bits."""
        return {"sums": self.sums, "pending": [self._joined()] if self.pending else [], "waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.waiting = state["sums"].clone(), state["waiting"]
        self.pending = [(action, first) for action, first in state["pending"]]

    def _zeros(self) -> Tensor:
        return torch.zeros(self.spec.action_dim if self.spec.discrete else 4, dtype=torch.float64)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Actions and `first` of all pending steps, one after the other."""
        actions, firsts = zip(*self.pending, strict=True)
        return torch.cat(actions), torch.cat(firsts)

    def _count(self) -> None:
        if not self.pending:
            return

        # A step that begins an episode has no action: the zeros stored there are not counted.
        action, first = self._joined()
        taken = action[~first]
        self.pending, self.waiting = [], 0
        if self.spec.discrete:
            self.sums += torch.bincount(taken, minlength=self.spec.action_dim)
        else:
            size = taken.double().abs().flatten()
            at_bound = (size >= AT_BOUND).double()
            self.sums += torch.stack([x.sum() for x in (size, size.square(), at_bound, torch.ones_like(size))])


class Monitor:
    """Watches actions and logged metrics. A warning is printed once, and again only after its cause was absent."""

    def __init__(self, spec: EnvSpec, stop: Stop) -> None:
        self.spec = spec
        self.stop = stop
        self.actions = Actions(spec)
        self.count = 0
        self.warned: set[str] = set()
        self.values: list[float] = []

    @property
    def done(self) -> bool:
        """Whether the run has reached `stop.target`."""
        last, target = self.values[-self.stop.window :], self.stop.target
        return target is not None and len(last) == self.stop.window and sum(last) / len(last) >= target

    def metrics(self) -> Metrics:
        """Metrics of the actions since the last row of the log, for the next one."""
        metrics, self.count = self.actions.metrics()
        return metrics

    def logged(self, row: dict[str, float]) -> None:
        """Examine a row of the log: print warnings, and keep the metric that may stop the run."""
        if self.stop.metric in row:
            self.values = [*self.values, row[self.stop.metric]][-self.stop.window :]

        # A kind whose cause is absent in this row may warn again; one that cannot be checked keeps its state.
        for kind, warning in self.warnings(row).items():
            if warning and kind not in self.warned:
                log.warning("step %d: %s", row["step"], warning)
            self.warned = self.warned | {kind} if warning else self.warned - {kind}

    def warnings(self, row: dict[str, float]) -> dict[str, str]:
        """For each kind that can be checked in this row: a warning, or an empty text."""
        found: dict[str, str] = {}
        if self.count >= FEWEST and self.spec.discrete and self.spec.action_dim > 1:
            top = row["actions/top"]
            which = next(key for key in row if key.startswith("actions/") and row[key] == top)
            text = f"one action ({which}) took {top:.1%} of the last {self.count:,} steps"
            found["actions"] = text if top > ONE_SIDED else ""
        elif self.count >= FEWEST and not self.spec.discrete:
            at_bounds = row["actions/at_bounds"]
            text = f"{at_bounds:.1%} of the actions of the last {self.count:,} steps lie at their bounds"
            found["actions"] = text if at_bounds > ONE_SIDED else ""

        if "policy/entropy" in row:
            # The entropy of a continuous policy is differential, and negative for a narrow one.
            least = LOW_ENTROPY if self.spec.discrete else LOW_DENSITY * self.spec.action_dim
            text = f"policy/entropy is {row['policy/entropy']:.3g}, below {least:.3g}: the policy hardly explores"
            found["entropy"] = text if row["policy/entropy"] < least else ""
        return found

    def close(self) -> None:
        """After training: warn if the metric by which the run was to stop was never logged."""
        if self.stop.metric is not None and not self.values:
            log.warning("stop.metric=%s was never logged", self.stop.metric)

    def state_dict(self) -> dict[str, Any]:
        stop = {"metric": self.stop.metric, "values": list(self.values)}
        return {"actions": self.actions.state_dict(), "warned": sorted(self.warned), **stop}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Values of another metric than `stop.metric` is now are dropped."""
        self.actions.load_state_dict(state["actions"])
        self.warned = set(state["warned"])
        self.values = list(state["values"]) if state["metric"] == self.stop.metric else []
