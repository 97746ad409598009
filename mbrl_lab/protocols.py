"""What each kind of part must provide: world models, planners, policies, algorithms and loggers.

Shapes: T time, B rows (environments or batch), A action size, H horizon. Prefix shapes are [B] or [T, B].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Outcome, Step, Tree


class WorldModel(Protocol):
    """A simulator one can fit, and a function of its state (a Tree with leading dimension B that the caller owns)."""

    spec: EnvSpec

    @property
    def row_blocks(self) -> int:
        """Into how many equal contiguous blocks `imagine` divides its rows, each predicted by one network; often 1."""

    def observe(self, state: Tree | None, step: Step) -> Tree:
        """Filter one real step [B] in, starting afresh where `step.first`; `state` is None before the first one."""

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        """Predict one step for B rows. Rows are exchangeable: an ensemble may give each block of them to one member."""

    def features(self, state: Tree) -> Tensor:
        """[B, ...]: what a policy sees of the state."""

    def reached(self, replay: Replay, indices: Tensor) -> Tensor:
        """Of indices [N] in replay those before which it still has all that a state is made of."""

    def recall(self, replay: Replay, indices: Tensor) -> Tree:
        """[N, ...]: the states in such indices [N]."""

    def update(self, steps: Step) -> tuple[Tree, Metrics]:
        """One gradient step on [L, B] rows; returns states from which imagination may start."""


class Candidates(NamedTuple):
    """One iteration of a plan, handed to a planner's `watch` hook."""

    iteration: int
    sequences: Tensor  # [B, N, H] int64 or [B, N, H, A] float32
    scores: Tensor  # [B, N]; -inf where the model returned NaN


class Planner(Protocol):
    """A search for actions in a world model. It has no learned weights."""

    watch: Callable[[Candidates], None] | None

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Tree:
        """The plan of one who knows nothing yet, for `batch` environments."""

    def plan(self, model: WorldModel, state: Tree, warm: Tree) -> tuple[Tensor, Tree]:
        """(model, state [B], the plan of the step before) -> (action [B], plan); plan["score"] [B] is its promise."""


class Policy(Protocol):
    """Learned behaviour. It cannot tell real rows from imagined ones."""

    def act(self, features: Tensor, explore: bool) -> Tensor:
        """[B, ...] features -> [B] actions."""

    def update(self, steps: Step) -> Metrics:
        """Learn from [L, B] rows."""


class Algo(nn.Module):
    """Who acts and when to learn. What must be remembered between steps is `carry`, which the caller owns.

    Modules, optimizers and generators that it holds as attributes are found and saved with the run.
    """

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        """Choose actions [B] for the rows just seen; `carry` is None at the very start."""
        raise NotImplementedError

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        """Learn whatever is due between two counts of environment steps."""
        raise NotImplementedError

    def allocate(self) -> None:
        """Take what room training will need; ValueError, naming settings, where there is none."""

    def get_extra_state(self) -> Tree:
        """What it needs to go on learning, but not to act, beside its weights: plain values and tensors.

        The last checkpoint holds it, the best one does not.
        """
        return {}

    def set_extra_state(self, state: Tree) -> None:
        """Put back what `get_extra_state` gave."""


class Logger(Protocol):
    """Where metrics go."""

    def log(self, row: dict[str, float]) -> None:
        """Write one row; it holds `step` and `frames`."""

    def close(self, ok: bool) -> None:
        """Flush and let go."""


@runtime_checkable
class Gallery(Protocol):
    """A logger that takes pictures and videos too."""

    def attach(self, paths: Sequence[Path]) -> None:
        """Keep these files of the run."""
