"""What each kind of part must provide: world models, planners, policies, algorithms and loggers.

Shapes: T time, B environments or batch, A action size, H horizon. Prefix shapes are [B] or [T, B].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map, tree_map_only

from mbrl_lab.ops import bootstrap_windows
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, FitResult, Metrics, Outcome, Step, Trajectory, Tree

if TYPE_CHECKING:
    from mbrl_lab.dynamics.validation import Validation


class WorldModel(nn.Module):
    """A simulator that fits itself, and a function of its state (a Tree with leading dimension B that the caller owns).

    Subclasses define `observe`, `imagine` and `features`. What else a model can do it says by the methods and flags
    below, which have defaults: nobody asks for its class.
    """

    spec: EnvSpec
    """What it observes."""
    feature_spec: EnvSpec
    """What a policy sees of its state."""

    recurrent = False
    """Whether its state is a belief that depends on everything since the episode began."""
    context = 1
    """Steps of replay from which `sample_features` infers a belief."""
    measures_disagreement = False
    """Whether `disagreement` has an answer."""
    decodes = False
    """Whether `decode` has an answer."""

    @property
    def predicts(self) -> str:
        """What reports compare with the truth: its `features`, the `observations` that it decodes, its `frames`, or
        `nothing` where there is nothing to validate."""
        return "features"

    def __init__(self, spec: EnvSpec, feature_spec: EnvSpec | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.feature_spec = spec if feature_spec is None else feature_spec

    @property
    def row_blocks(self) -> int:
        """Into how many equal contiguous blocks `imagine` divides its rows, each predicted by one network."""
        return 1

    def observe(self, state: Tree | None, step: Step) -> Tree:
        """Filter one real step [B] in, starting afresh where `step.first`; `state` is None before the first one."""
        raise NotImplementedError

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        """Predict one step for B rows. Rows are exchangeable: an ensemble may give each block of them to one member."""
        raise NotImplementedError

    def features(self, state: Tree) -> Tensor:
        """[B, ...]: what a policy sees of the state."""
        raise NotImplementedError

    def imagine_trajectory(self, choose: Callable[[Tensor], Tensor], state: Tree, horizon: int) -> Trajectory:
        """What follows from states [B] where `choose` maps features to actions.

        Nothing ends here: where a rollout draws whether an episode goes on, this keeps the probability.
        """
        features, actions, outcomes = [self.features(state)], [], []
        for _ in range(horizon):
            actions.append(choose(features[-1]))
            state, outcome = self.imagine(state, actions[-1])
            features.append(self.features(state))
            outcomes.append(outcome)
        reward, discount = (torch.stack(x) for x in zip(*outcomes, strict=True))
        valid = torch.ones_like(reward, dtype=torch.bool)
        return Trajectory(torch.stack(features), torch.stack(actions), reward, discount, valid)

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        """Learn from replay by its trainer's schedule, or for so many gradient `updates`. By default nothing."""
        return FitResult({})

    @torch.no_grad()
    def start_states(self, replay: Replay, count: int) -> Tree:
        """[count, ...]: states in which real transitions begin, drawn with replacement."""
        indices = replay.transitions()
        indices = indices[torch.randint(len(indices), (count,), device=indices.device)]
        return self.observe(None, replay.read(indices, 1).at(0))

    @torch.no_grad()
    def infer(self, steps: Step) -> Tree:
        """[L, B, ...]: beliefs at steps [L, B], as if an episode began with the first of them."""
        if not self.recurrent:
            flat = self.observe(None, Step(*(x.flatten(0, 1) for x in steps)))
            return tree_map_only(Tensor, lambda x: x.unflatten(0, steps.first.shape), flat)
        first = steps.first.clone()
        first[0] = True
        state, states = None, []
        for t in range(len(first)):
            state = self.observe(state, steps._replace(first=first).at(t))
            states.append(state)
        return tree_map(lambda *x: torch.stack(x), *states)

    @torch.no_grad()
    def sample_features(self, replay: Replay, batch: int, length: int, n_step: Tensor | int) -> Step:
        """[length, batch] real steps as a policy sees them: with features of beliefs in the place of observations.

        Of each window two observations, as `Replay.sample` gives for returns of `n_step` steps.
        """
        if self.feature_spec == self.spec:
            return replay.sample(batch, length, n_step)
        steps = replay.sample(batch, max(length, self.context))
        states = tree_map_only(Tensor, lambda x: x[-length:].flatten(0, 1), self.infer(steps))
        features = self.features(states).unflatten(0, (length, batch))
        return bootstrap_windows(steps.at(slice(len(steps.first) - length, None))._replace(obs=features), n_step)

    def disagreement(self, state: Tree, action: Tensor) -> Tensor | None:
        """[B]: epistemic uncertainty of one step, for models that measure it."""
        return None

    def decode(self, state: Tree) -> Tensor | None:
        """[..., *obs_shape]: the observations of states, in their own units, for models that predict them."""
        return None

    def held_out(self, replay: Replay) -> Step | None:
        """[2, N] steps that it was never trained on; None where there are none."""
        return None

    def validation(self, steps: Step) -> Validation | None:
        """Its one-step predictions beside real steps [2, N], all valid; None: it has no validation of its own."""
        return None

    def check_memory(self) -> None:
        """ValueError, naming settings, where a fit would not find the memory that it needs."""

    def store(self, replay: Replay, state: Tree) -> None:
        """Told the states [num_envs] that were inferred while acting, at the step of replay before the newest."""

    def trainer_state(self) -> dict[str, Any]:
        """What its trainer must remember to go on, beside weights: plain, as in a state_dict."""
        return {}

    def load_trainer_state(self, state: dict[str, Any]) -> None:
        """Put back what `trainer_state` gave."""


class Candidates(NamedTuple):
    """One iteration of a plan, handed to a planner's `watch` hook."""

    iteration: int
    sequences: Tensor  # [B, N, H] int64 or [B, N, H, A] float32
    scores: Tensor  # [B, N]; -inf where the model returned NaN


class Planner(Protocol):
    """A search for actions in a world model. It has no learned weights."""

    watch: Callable[[Candidates], None] | None
    horizon: int
    discount: float

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Tree:
        """The plan of one who knows nothing yet, for `batch` environments."""

    def plan(self, model: WorldModel, state: Tree, warm: Tree, context: PlanContext) -> tuple[Tensor, Tree]:
        """(model, state [B], the plan of the step before, what else there is) -> (action [B], plan).

        plan["score"] [B] is the return that it predicts: rewards up to the horizon, and the value after it.
        """


@dataclass(frozen=True)
class PlanContext:
    """What a planner may use beside the model. Planners ignore what they have no use for."""

    policy: Policy | None = None
    """Proposes actions from features, where there is one."""
    value: Callable[[Tree], Tensor] | None = None
    """States [B] at the horizon -> the return [B] that is expected from there; None: it counts as 0."""
    explore: bool = False
    """Whether the action is taken in training."""
    steps: int = 0
    """Environment steps learned from so far."""


class Policy(nn.Module):
    """Learned behaviour. It cannot tell real rows from imagined ones.

    Subclasses define `act` and `update`. What else a policy can do it says by the flags below.
    """

    estimates_value = False
    """Whether `value` has an answer."""
    learns_by_priority = False
    """Whether `update_weighted` has an answer."""
    learns_in_imagination = False
    """Whether it has `learn_in` and `update_critic`, as ActorCritic does."""

    @property
    def window(self) -> int | None:
        """Steps in a window of replay to learn from; None: it learns from rollouts of its own alone."""
        return None

    @property
    def n_step(self) -> Tensor | int:
        """The n of its n-step returns now, at most `window` - 1. `update` gets what `Replay.read` gives for both."""
        return (self.window or 2) - 1

    def act(self, features: Tensor, explore: bool) -> Tensor:
        """[B, ...] features -> [B] actions."""
        raise NotImplementedError

    def update(self, steps: Step) -> Metrics:
        """Learn from [L, B] steps."""
        raise NotImplementedError

    def update_own(self, steps: Step, chosen: Tensor) -> Metrics:
        """`update` from [T + 1, B] rows of its own; `chosen` [T, B] is false where the environment chose the action."""
        return self.update(steps)

    def update_weighted(self, steps: Step, importance: Tensor) -> tuple[Metrics, Tensor]:
        """`update` with each window's loss times its importance [B]; also the windows' priorities [B]."""
        raise NotImplementedError

    def value(self, features: Tensor) -> Tensor:
        """[B]: the return that is expected from states with these features [B, ...] on."""
        raise NotImplementedError


class Algo(nn.Module):
    """Who acts and when to learn. State between steps is the `carry`, which the caller owns.

    Modules, optimizers and generators that it holds as attributes are found and saved with the run.
    """

    planner: Planner | None = None
    """What it plans with, if it does."""

    @property
    def world_model(self) -> WorldModel | None:
        """The model that it learns in, if it does."""
        return None

    @property
    def warmed_up(self) -> bool:
        """Whether it has learned anything yet."""
        return True

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        """Choose actions [B] for the newest steps; `carry` is None at the very start."""
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
