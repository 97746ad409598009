"""Monitor: which actions a run takes, what in its log looks wrong, and whether it has come far enough."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl_lab.types import EnvSpec, Metrics, Step

log = logging.getLogger("mbrl_lab")

FOLD = 1024  # rows kept before they are counted: counting each alone would slow the loop
NAMED = 18  # actions that have a share of their own in the log; more have none
AT_BOUND = 0.999
ONE_SIDED = 0.95
FEWEST = 100  # actions between two rows of the log from which anything is concluded
LOW_ENTROPY = 0.1  # nats, of a choice among actions
LOW_DENSITY = -3.2  # nats a dimension: a normal distribution with a deviation of 0.01, where actions span 2


class Stop(NamedTuple):
    """A run may end when the mean of the last `window` logged values of `metric` is at or above `target`."""

    metric: str | None = None
    target: float | None = None
    window: int = 1


class Actions:
    """What was done since the last row of the log.

    Discrete: `actions/k`, the share of action k, and `actions/top`, the largest one. Continuous: mean and deviation of
    |action| over all dimensions, and `actions/at_bounds`, the share of those at -1 or 1.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.spec = spec
        self.sums = self._zeros()
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.waiting = 0  # rows in there

    def add(self, step: Step) -> None:
        """Note a row [B]."""
        self.pending.append((step.action, step.first))
        self.waiting += 1
        if self.waiting == FOLD:
            self._fold()

    def metrics(self) -> tuple[Metrics, int]:
        """The shares, and of how many actions; forgets them."""
        self._fold()
        sums, self.sums = self.sums, self._zeros()
        count = int(sums.sum()) if self.spec.discrete else int(sums[3])
        if not count:
            return {}, 0
        if not self.spec.discrete:
            mean = sums[0] / count
            deviation = (sums[1] / count - mean.square()).clamp(min=0).sqrt()
            shares: Metrics = {
                "actions/mean_abs": mean,
                "actions/std_abs": deviation,
                "actions/at_bounds": sums[2] / count,
            }
            return shares, count // self.spec.action_dim
        share = sums / count
        named: Metrics = {f"actions/{k}": share[k] for k in range(len(share))} if len(share) <= NAMED else {}
        return named | {"actions/top": share.max()}, count

    def state_dict(self) -> dict[str, Any]:
        """What waits stays apart: adding it up here would change the order of sums, and so their last bits."""
        return {"sums": self.sums, "pending": [self._joined()] if self.pending else [], "waiting": self.waiting}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.waiting = state["sums"].clone(), state["waiting"]
        self.pending = [(action, first) for action, first in state["pending"]]

    def _zeros(self) -> Tensor:
        return torch.zeros(self.spec.action_dim if self.spec.discrete else 4, dtype=torch.float64)

    def _joined(self) -> tuple[Tensor, Tensor]:
        """Actions and `first` of all that waits, one after the other."""
        actions, firsts = zip(*self.pending, strict=True)
        return torch.cat(actions), torch.cat(firsts)

    def _fold(self) -> None:
        if not self.pending:
            return
        action, first = self._joined()
        taken, self.pending, self.waiting = action[~first], [], 0
        if self.spec.discrete:
            self.sums += torch.bincount(taken, minlength=self.spec.action_dim)
        else:
            size = taken.double().abs().flatten()
            at_bound = (size >= AT_BOUND).double()
            self.sums += torch.stack([x.sum() for x in (size, size.square(), at_bound, torch.ones_like(size))])


class Monitor:
    """Sees every row of training, and every row of the log. A warning comes once, until what it warns of has gone."""

    def __init__(self, spec: EnvSpec, stop: Stop) -> None:
        self.spec, self.stop, self.actions = spec, stop, Actions(spec)
        self.count = 0
        self.warned: set[str] = set()
        self.values: list[float] = []

    @property
    def done(self) -> bool:
        """Whether the run has come far enough."""
        last, target = self.values[-self.stop.window :], self.stop.target
        return target is not None and len(last) == self.stop.window and sum(last) / len(last) >= target

    def metrics(self) -> Metrics:
        """What the next row of the log says of the actions since the last one."""
        shares, self.count = self.actions.metrics()
        return shares

    def logged(self, row: dict[str, float]) -> None:
        """Look at a row of the log."""
        if self.stop.metric in row:
            self.values = [*self.values, row[self.stop.metric]][-self.stop.window :]
        for kind, words in self.worries(row).items():
            if words and kind not in self.warned:
                log.warning("step %d: %s", row["step"], words)
            self.warned = self.warned | {kind} if words else self.warned - {kind}

    def worries(self, row: dict[str, float]) -> dict[str, str]:
        """What can be judged by this row: words where it looks wrong, none where it looks well."""
        told: dict[str, str] = {}
        if self.count >= FEWEST and self.spec.discrete and self.spec.action_dim > 1:
            share = row["actions/top"]
            which = next(key for key in row if key.startswith("actions/") and row[key] == share)
            words = f"one action ({which}) took {share:.1%} of the last {self.count:,} steps"
            told["actions"] = words if share > ONE_SIDED else ""
        elif self.count >= FEWEST and not self.spec.discrete:
            share = row["actions/at_bounds"]
            words = f"{share:.1%} of the actions of the last {self.count:,} steps lie at their bounds"
            told["actions"] = words if share > ONE_SIDED else ""
        if "policy/entropy" in row:
            least = LOW_ENTROPY if self.spec.discrete else LOW_DENSITY * self.spec.action_dim
            words = f"policy/entropy is {row['policy/entropy']:.3g}, below {least:.3g}: the policy hardly explores"
            told["entropy"] = words if row["policy/entropy"] < least else ""
        return told

    def close(self) -> None:
        """At the end of training: say so where the run waited for a number that never came."""
        if self.stop.metric is not None and not self.values:
            log.warning("stop.metric=%s was never logged", self.stop.metric)

    def state_dict(self) -> dict[str, Any]:
        stop = {"metric": self.stop.metric, "values": list(self.values)}
        return {"actions": self.actions.state_dict(), "warned": sorted(self.warned), **stop}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Values of another metric than is waited for now are dropped."""
        self.actions.load_state_dict(state["actions"])
        self.warned = set(state["warned"])
        self.values = list(state["values"]) if state["metric"] == self.stop.metric else []
