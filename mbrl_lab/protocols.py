"""The interfaces of world models, planners, policies, algorithms and loggers.

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


def option_of(part: type) -> str:
    """How a command line chooses a class of ours, e.g. `policy=sac`, for messages; the name of any other class.

    The modules of our parts have the names of their options; encoders share one.
    """
    package, *names = part.__module__.split(".")
    if package != __package__ or len(names) != 2:
        return part.__name__
    if names == ["nets", "encoder"]:
        return f"encoder={part.__name__.lower()}"
    return "=".join(names)


class WorldModel(nn.Module):
    """A learned simulator. Its state, a Tree with leading dimension B, is owned by the caller.

    Subclasses define `observe`, `imagine` and `features`. A model declares its optional abilities by the flags and
    methods below, which have defaults: no code checks its class.
    """

    spec: EnvSpec
    """The spec of the observations."""
    feature_spec: EnvSpec
    """The spec of `features`, a policy's input."""

    recurrent = False
    """Whether its state is a belief that depends on all steps since the episode began."""
    context_length = 1
    """The least number of replay steps from which `sample_features` infers a belief."""
    noise_shape: tuple[int, ...] = ()
    """Of a recurrent model: the shape of the random numbers that `observe` draws for one belief."""
    measures_disagreement = False
    """Whether `disagreement` is implemented."""
    decodes = False
    """Whether `decode` is implemented."""
    learns_jointly = False
    """Whether it has `joint_loss`, as Implicit does, whose gradient other losses of its latents may join."""
    differentiable = False
    """Whether gradients of what `imagine` returns reach its state and continuous actions."""

    @property
    def predicts(self) -> str:
        """The predictions that reports compare with real steps: `features`, decoded `observations`, `frames`, or
        `nothing` if there is nothing to validate."""
        return "features"

    def __init__(self, spec: EnvSpec, feature_spec: EnvSpec | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.feature_spec = spec if feature_spec is None else feature_spec

    @property
    def batch_blocks(self) -> int:
        """Number of equal contiguous blocks into which `imagine` divides its batch, each predicted by one network."""
        return 1

    def observe(self, state: Tree | None, step: Step) -> Tree:
        """Update the belief with a real step [B], reset where `step.first`; `state` is None before the first step."""
        raise NotImplementedError

    def observe_with(self, state: Tree, step: Step, noise: Tensor) -> Tree:
        """`observe` of a recurrent model, with its random numbers [B, *noise_shape], uniform in [0, 1), given."""
        raise NotImplementedError

    def imagine(self, state: Tree, action: Tensor) -> tuple[Tree, Outcome]:
        """Predict one step for a batch of B states. An ensemble may use one member for each block of the batch."""
        raise NotImplementedError

    def features(self, state: Tree) -> Tensor:
        """[B, ...]: the features of the state, which are a policy's input."""
        raise NotImplementedError

    def imagine_trajectory(self, choose: Callable[[Tensor], Tensor], state: Tree, horizon: int) -> Trajectory:
        """Imagine `horizon` steps from states [B], where `choose` maps features to actions.

        No episode terminates here: a rollout samples terminations, this returns the continue probabilities.
        """
        features, actions, outcomes = [self.features(state)], [], []
        for _ in range(horizon):
            actions.append(choose(features[-1]))
            state, outcome = self.imagine(state, actions[-1])
            features.append(self.features(state))
            outcomes.append(outcome)
        reward, cont = (torch.stack(x) for x in zip(*outcomes, strict=True))
        valid = torch.ones_like(reward, dtype=torch.bool)
        return Trajectory(torch.stack(features), torch.stack(actions), reward, cont, valid)

    def fit(self, replay: Replay, updates: int | None = None) -> FitResult:
        """Train on replay by the trainer's schedule, or for `updates` gradient steps; the default does nothing."""
        return FitResult({})

    @torch.no_grad()
    def start_states(self, replay: Replay, count: int) -> Tree:
        """[count, ...]: the start states of real transitions, drawn with replacement."""
        return self.observe(None, replay.read(replay.sample_transitions(count), 1).at(0))

    @torch.no_grad()
    def infer(self, steps: Step) -> Tree:
        """[L, B, ...]: beliefs at steps [L, B], inferred as if an episode began with the first of them."""
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
    def sample_features(self, replay: Replay, batch: int, length: int, n_step: int) -> Step:
        """[length, batch] real steps as a policy's input: observations are replaced by features of beliefs.

        Each window holds two observations, the first and the one that the `n_step` return bootstraps from, as those of
        `Replay.sample`.
        """
        if self.feature_spec == self.spec:
            return replay.sample(batch, length, n_step)
        steps = replay.sample(batch, max(length, self.context_length))
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
        """[2, N] steps that the model has not been trained on; None if there are none."""
        return None

    def validation(self, steps: Step) -> Validation | None:
        """One-step predictions for real steps [2, N], all valid; None: the model has no validation of its own."""
        return None

    def check_memory(self) -> None:
        """Raise a ValueError that names the settings if a fit would run out of memory."""

    def store(self, replay: Replay, state: Tree) -> None:
        """Store the states [num_envs] that were inferred while acting, for the step of replay before the newest."""

    def trainer_state(self) -> dict[str, Any]:
        """The state of the trainer besides weights: plain values and tensors, as in a state_dict."""
        return {}

    def load_trainer_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `trainer_state`."""


class Candidates(NamedTuple):
    """The sequences and scores of one planning iteration, passed to a planner's `on_candidates` hook."""

    iteration: int
    sequences: Tensor  # [B, N, H] int64 or [B, N, H, A] float32
    scores: Tensor  # [B, N]; -inf where the model returned NaN


class Planner(Protocol):
    """A search for actions in a world model. It has no learned weights."""

    on_candidates: Callable[[Candidates], None] | None
    horizon: int
    discount: float
    proposals: int
    """Sequences of an iteration that the context's policy proposes; above 0 it needs one."""

    def start(self, spec: EnvSpec, batch: int, device: torch.device | str) -> Tree:
        """The initial plan, for `batch` environments."""

    def plan(self, model: WorldModel, state: Tree, previous: Tree, context: PlanContext) -> tuple[Tensor, Tree]:
        """(model, state [B], the plan of the previous step, context) -> (action [B], plan).

        plan["predicted_return"] [B]: rewards up to the horizon and the value after it.
        """


@dataclass(frozen=True)
class PlanContext:
    """Inputs of a planner besides the model. A planner ignores those that it does not use."""

    policy: Policy | None = None
    """Proposes actions from features; None: there is no policy."""
    value: Callable[[Tree], Tensor] | None = None
    """States [B] at the horizon -> the expected return [B] from there; None: it counts as 0."""
    explore: bool = False
    """True in training, false in evaluation."""
    steps: int = 0
    """Environment steps learned from so far."""


class Policy(nn.Module):
    """A learned policy. Real and imagined steps look the same to it.

    Subclasses define `act` and `update`. A policy declares its optional abilities by the flags below.
    """

    estimates_value = False
    """Whether `value` is implemented."""
    learns_by_priority = False
    """Whether `update_weighted` is implemented."""
    learns_in_imagination = False
    """Whether it has `learn_in` and `update_critic`, as ActorCritic does."""
    learns_jointly = False
    """Whether it has `td_loss` and `actor_loss`, as SAC does, so that its critics may train a model's latents."""
    normalises = False
    """Whether it takes the scales of its inputs from `fit_normaliser`."""
    learns_through_model = False
    """Whether it has `learn_through`, which needs a model that is `differentiable`."""

    @property
    def window(self) -> int | None:
        """Steps in a window of replay to learn from; None: the policy learns only from its own rollouts."""
        return None

    @property
    def n_step(self) -> int:
        """The current n of the n-step returns, at most `window` - 1. `update` gets windows read with both."""
        return (self.window or 2) - 1

    def act(self, features: Tensor, explore: bool) -> Tensor:
        """[B, ...] features -> [B] actions."""
        raise NotImplementedError

    def scores(self, features: Tensor) -> Tensor:
        """[B, A]: what the policy acts by when it neither explores nor draws at random.

        For discrete actions values or log-probabilities, of which it takes the largest; a continuous action itself.
        An exported policy is made of this.
        """
        raise NotImplementedError

    def update(self, steps: Step) -> Metrics:
        """Learn from [L, B] steps."""
        raise NotImplementedError

    def update_on_policy(self, steps: Step, chosen: Tensor) -> Metrics:
        """`update` on [T + 1, B] steps of its own; `chosen` [T, B] is false where the environment chose the action."""
        return self.update(steps)

    def update_weighted(self, steps: Step, importance: Tensor) -> tuple[Metrics, Tensor]:
        """`update` with each window's loss weighted by its importance [B]; also returns the priorities [B]."""
        raise NotImplementedError

    def learn_through(self, model: WorldModel, state: Tree) -> Metrics:
        """Learn from rollouts of its own that begin in states [B] of a model, by gradients through the model."""
        raise NotImplementedError

    def fit_normaliser(self, obs: Tensor) -> None:
        """Take the scales of inputs from real observations [N, ...]."""
        raise NotImplementedError

    def value(self, features: Tensor) -> Tensor:
        """[B]: the expected return from states with these features [B, ...]."""
        raise NotImplementedError


class Algo(nn.Module):
    """Chooses actions and decides when to learn. The state of acting between steps is the `carry`, owned by the caller.

    Modules, optimizers and generators that are its attributes are found and saved with the run.
    """

    planner: Planner | None = None
    """The planner, for an algorithm that plans."""

    @property
    def world_model(self) -> WorldModel | None:
        """The world model, for an algorithm that has one."""
        return None

    @property
    def warmed_up(self) -> bool:
        """Whether the random warm-up, if there is one, has finished."""
        return True

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        """Choose actions [B] for the newest step; `carry` is None in the first call."""
        raise NotImplementedError

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        """Make the updates that are due between two counts of environment steps."""
        raise NotImplementedError

    def allocate_memory(self) -> None:
        """Allocate the memory of training. Raises a ValueError that names the settings if there is too little."""

    def get_extra_state(self) -> Tree:
        """State besides the weights that learning needs on a resume, but acting does not: plain values and tensors.

        The last checkpoint holds it, the best one does not.
        """
        return {}

    def set_extra_state(self, state: Tree) -> None:
        """Restore the result of `get_extra_state`."""


class Logger(Protocol):
    """A destination of metrics."""

    def log(self, row: dict[str, float]) -> None:
        """Write one row; it holds `step` and `frames`."""

    def close(self, ok: bool) -> None:
        """Flush and close; `ok` is whether the run finished without an error."""


@runtime_checkable
class FileLogger(Protocol):
    """A logger that also stores pictures and videos."""

    def attach(self, paths: Sequence[Path]) -> None:
        """Store these files of the run."""
