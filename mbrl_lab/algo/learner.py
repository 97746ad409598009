"""Learning from replay: when updates are due, a warm-up of random actions, and the algorithms' common bases.

`OffPolicy` is the plainest algorithm: a policy acts, and learns from windows of replay. `ModelBased` is the base of
those that fit a world model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl_lab.ops import Means, clipped, crossed
from mbrl_lab.protocols import Algo, Policy, WorldModel, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

MOMENTS = 10_000
"""Steps that scales of observations are taken from, at most."""

MOMENTS_EVERY = 1_000
"""Environment steps between the times when they are taken again."""

MIN_PRIORITY = 1e-6
"""Added to priorities, so that a window of TD error 0 may be drawn again."""


@dataclass(frozen=True)
class Updates:
    """Gradient steps of a policy: on how much, how many, how often."""

    batch: int
    """Windows of replay in a gradient step; imagined rollouts for a policy that learns from its own rollouts alone."""
    number: int
    """Gradient steps each time."""
    every: int
    """Environment steps between these times."""

    catch_up: int = 1
    """Factor on the number of gradient steps after the warm-up, until their total is number / every for each step. 1:
    those of the warm-up get none."""

    def due(self, before: int, after: int, warmup: int) -> int:
        """How many gradient steps are due in (before, after], two counts of environment steps, past the warm-up."""
        return self.number * crossed(self._learned(before, warmup), self._learned(after, warmup), self.every)

    def _learned(self, step: int, warmup: int) -> int:
        """Environment steps whose gradient steps are done at `step`, counted from `warmup` on."""
        # Steps after the warm-up count `catch_up` times until the total is that of a run without one, then once each.
        since = max(step - warmup, 0)
        return warmup + min(self.catch_up * since, since + (warmup if self.catch_up > 1 else 0))


def fit_due(warmup: int, before: int, after: int, every: int) -> bool:
    """Whether a fit is due in (before, after]: when the warm-up finishes, and every `every` steps after that."""
    # Counted from the end of the warm-up. Before it the count is negative, so reaching it crosses 0: the first fit.
    return after >= warmup and crossed(before - warmup, after - warmup, every) > 0


def fit_normaliser(policy: Policy, replay: Replay, model: WorldModel | None = None) -> None:
    """Give a policy the scales of real observations: of at most 10,000 steps, spread over replay.

    It does nothing for a policy without scales, or one whose inputs are features of the model, not observations.
    """
    if not policy.normalises or (model is not None and model.feature_spec != model.spec):
        return
    # Every k-th step: all of replay counts, and no read grows with it.
    indices = replay.transitions()
    policy.fit_normaliser(replay.read(indices[:: 1 + len(indices) // MOMENTS], 1).obs[0])


class Learner(Algo):
    """An algorithm whose first `warmup` environment steps are random actions; then it is `ready`.

    Subclasses set `ready` when they begin to act by their policy or planner. It is saved with the weights.
    """

    ready: Tensor

    def __init__(self, spec: EnvSpec, warmup: int) -> None:
        super().__init__()
        self.spec = spec
        self.warmup = warmup
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @property
    def warmed_up(self) -> bool:
        return bool(self.ready)

    def random_action(self, step: Step) -> Tensor:
        """[B] actions drawn uniformly, for the newest step."""
        return self.spec.sample(len(step.first), step.first.device)

    def warmup_ends(self, before: int, after: int) -> bool:
        """Whether the warm-up's last step lies in (before, after], two counts of environment steps."""
        return before < self.warmup <= after


def window_of(policy: Policy) -> int:
    """Steps in the windows of replay that a policy learns from. Raises ValueError if it cannot learn from replay."""
    if policy.window is None:
        name = option_of(type(policy))
        if policy.learns_through_model:
            raise ValueError(f"{name} follows gradients through a model: try algo=mbpo, or policy=sac")
        raise ValueError(f"{name} learns from its own rollouts alone, not from replay: try policy=ddqn or sac")
    return policy.window


class ModelBased(Learner):
    """A learner with a world model, whose state it filters along the episode; `policy` acts on the state's features."""

    policy: Policy

    def __init__(self, spec: EnvSpec, dynamics: Callable[[EnvSpec], WorldModel], warmup: int) -> None:
        super().__init__(spec, warmup)
        self.model = dynamics(spec)
        self.belief: Tree = None  # at the step that was acted on last

    @property
    def world_model(self) -> WorldModel:
        return self.model

    @torch.no_grad()
    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        state = self.observe(carry, step, explore)
        if explore and not self.ready:
            return self.random_action(step), state
        return self.policy.act(self.model.features(state), explore), state

    def observe(self, state: Tree | None, step: Step, explore: bool) -> Tree:
        """The model's state at the newest step."""
        state = self.model.observe(state, step)
        # An evaluation acts between two training steps, and must not leave its belief for replay.
        self.belief = state if explore else self.belief
        return state

    def allocate_memory(self) -> None:
        self.model.check_memory()


class OffPolicy(Learner):
    """Random actions during the warm-up, then the policy's, and gradient steps on windows drawn from all of replay.

    Evaluations always use the policy. Raises ValueError if the policy cannot learn from replay, or not by priority.
    """

    def __init__(
        self,
        spec: EnvSpec,
        policy: Callable[[EnvSpec], Policy],
        warmup: int,
        update: Updates,
        reward_clip: float,
        priority_exponent: float,
        importance_exponent: float,
        importance_steps: int,
    ) -> None:
        """
        Args:
            spec: the environment's spaces.
            policy: makes the policy.
            warmup: random steps before the first update.
            update: on how much of replay, how many and how often.
            reward_clip: for learning, rewards are clipped to [-reward_clip, reward_clip]; 0: not clipped.
            priority_exponent: windows are drawn by their latest priority to this power, alpha
                of Schaul et al. (2016) and omega of Rainbow (0.5); 0: uniformly.
            importance_exponent: initial beta of Schaul et al.; importance weights with beta 1 correct the bias fully.
            importance_steps: environment steps over which beta rises linearly to 1; 0: beta is constant.
        """
        super().__init__(spec, warmup)
        self.policy = policy(spec)
        self.window = window_of(self.policy)
        if priority_exponent and not self.policy.learns_by_priority:
            name = option_of(type(self.policy))
            raise ValueError(f"algo.priority_exponent is {priority_exponent}; it must be 0 with {name}")
        self.update = update
        self.reward_clip = reward_clip
        self.priority_exponent = priority_exponent
        self.importance_exponent = importance_exponent
        self.importance_steps = importance_steps

    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        if explore and not self.ready:
            return self.random_action(step), carry
        return self.policy.act(step.obs, explore), carry

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        measured = Means()
        # Evaluations during the warm-up use the untrained policy, but training still acts at random.
        if self.warmup_ends(before, after):
            self.ready.fill_(True)
        if fit_due(self.warmup, before, after, MOMENTS_EVERY):
            fit_normaliser(self.policy, replay)
        for _ in range(self.update.due(before, after, self.warmup)):
            if self.priority_exponent:
                measured.add(self.learn_by_priority(replay, self.beta(after)))
            else:
                steps = replay.sample(self.update.batch, self.window, self.policy.n_step)
                measured.add(self.policy.update(clipped(steps, self.reward_clip)))
        return measured.means()

    def learn_by_priority(self, replay: Replay, beta: float) -> Metrics:
        """A gradient step on windows drawn by priority, whose priorities it then updates."""
        indices, ratio = replay.sample_by_priority(self.update.batch, self.window)

        # w = (N P)^-beta / max w: the ratio is N P, each window's probability relative to uniform sampling.
        weight = ratio**-beta
        weight = (weight / weight.max()).float()

        steps = clipped(replay.read(indices, self.window, self.policy.n_step), self.reward_clip)
        metrics, priority = self.policy.update_weighted(steps, weight)
        replay.set_priorities(indices, (priority.double() + MIN_PRIORITY) ** self.priority_exponent)
        return metrics | {"replay/weight": weight.mean()}

    def beta(self, step: int) -> float:
        """The exponent of importance weights at an environment step."""
        fraction = min(step / self.importance_steps, 1.0) if self.importance_steps else 0.0
        return self.importance_exponent + fraction * (1 - self.importance_exponent)
