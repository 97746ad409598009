"""The data everything exchanges, and the verbs each kind of part answers to.

Shapes: T time, B rows (environments or batch), A action size, H horizon. Prefix shapes are [B] or [T, B].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mbrl_lab.replay import Replay

Metrics = dict[str, Tensor | float]
"""Flat names to 0-d tensors or floats. Tensors stay on the device until the logger reads them."""

Tree = Any
"""Nested dicts, lists and tuples of tensors (or None), every tensor with the same leading dimension B."""


class Step(NamedTuple):
    """An action and all that came back: a row in replay, the argument of `act`, and what imagination returns."""

    action: Tensor  # taken to get here: [B] int64 or [B, A] float32 in [-1, 1]; zeros where `first`
    obs: Tensor  # [B, *obs_shape]
    reward: Tensor  # [B] float32, received on arriving here
    terminal: Tensor  # [B] bool: the value ends here (a time limit is not terminal)
    first: Tensor  # [B] bool: an episode begins here, the row before is unrelated

    def at(self, index: Any) -> Step:
        """Every field indexed alike."""
        return Step(*(x[index] for x in self))

    def to(self, device: torch.device | str) -> Step:
        """Every field on `device`."""
        return Step(*(x.to(device) for x in self))

    def transitions(self) -> Transition:
        """[T + 1, B] rows read as [T, B] transitions; `valid` is false across an episode boundary."""
        return Transition(
            obs=self.obs[:-1],
            action=self.action[1:],
            reward=self.reward[1:],
            next_obs=self.obs[1:],
            terminal=self.terminal[1:],
            valid=~self.first[1:],
        )


class Transition(NamedTuple):
    """What happened between two neighbouring rows. Learn only where `valid`."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor
    terminal: Tensor
    valid: Tensor

    def at(self, index: Any) -> Transition:
        """Every field indexed alike."""
        return Transition(*(x[index] for x in self))


class Outcome(NamedTuple):
    """What a world model predicts for one imagined step, beside its next state."""

    reward: Tensor  # [B] float32
    cont: Tensor  # [B] float32 in [0, 1]: the probability that the episode continues


@dataclass(frozen=True)
class EnvSpec:
    """What a learner must know of an environment. Actions are 0..action_dim-1 if discrete, else in [-1, 1].

    With `stack` above 1 an observation is the newest so many frames, the oldest first; frames before the episode are 0.
    """

    obs_shape: tuple[int, ...]
    obs_dtype: torch.dtype
    action_dim: int
    discrete: bool
    stack: int = 1

    def encode(self, action: Tensor) -> Tensor:
        """Actions as float vectors [..., A]: one-hot if discrete, as they are if continuous."""
        if not self.discrete:
            return action
        # The same numbers as one_hot, which looks for the extremes of its input first and counts in int64.
        return torch.nn.functional.embedding(action, torch.eye(self.action_dim, device=action.device))

    def random(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """[batch] actions drawn uniformly."""
        if self.discrete:
            return torch.randint(self.action_dim, (batch,), device=device)
        return torch.rand(batch, self.action_dim, device=device) * 2 - 1

    def no_action(self, batch: int, device: torch.device | str = "cpu") -> Tensor:
        """[batch] zeros: what stands in a row that begins an episode."""
        if self.discrete:
            return torch.zeros(batch, dtype=torch.int64, device=device)
        return torch.zeros(batch, self.action_dim, device=device)

    def of_features(self, dim: int) -> EnvSpec:
        """The same actions on observations that are feature vectors of `dim` floats."""
        return replace(self, obs_shape=(dim,), obs_dtype=torch.float32, stack=1)


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
