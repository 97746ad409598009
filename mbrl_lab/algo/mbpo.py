"""MBPO: a policy that learns mostly from short imagined rollouts, begun in real states (Janner et al. 2019, alg. 2).

    for each environment step:
        a ~ pi(. | features of the belief), which the model filters along the episode;  keep the step in replay
        every `every` steps:                                                            fit_and_rollout
            fit the model p(s', r, continue | s, a) to replay: dynamics.trainer
            draw `rollouts.starts` states that the environment was in: posteriors, where the model filters
            roll pi out in the model from them, k steps                                 k: Rollouts.length_at
            (k = 0 while no step of the model is trusted: pi learns from real steps alone)
            keep the rollouts for `rollouts.keep` epochs
        `update.number` times every `update.every` steps:                               sample_batch
            update pi on `update.batch` windows, a fraction `real_ratio` of them real

A policy that learns from its own rollouts alone (PPO) gets `update.batch` fresh rollouts at each update instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from mbrl_lab.algo.imagined import Imagined, mean_length, mix, rollout
from mbrl_lab.algo.learner import ModelBased, Updates, fit_due, fit_normaliser, window_of
from mbrl_lab.ops import Means, clipped
from mbrl_lab.protocols import Policy, WorldModel, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

REAL_RATIO = 0.05
"""Fraction of real windows where none is given (Janner et al.)."""

PROBE = 1_000
"""Start states whose disagreement is logged."""


@dataclass(frozen=True)
class Rollouts:
    """The imagined rollouts: their number, their length, and how long they are kept."""

    starts: int
    """Rollouts after each fit."""
    length: Sequence[int]
    """[from, to, first, last]: steps, growing linearly between these epochs after the warm-up (appendix C)."""
    epoch: int
    """Environment steps of an epoch."""
    keep: int
    """Epochs that rollouts are kept."""
    adaptive: bool
    """Whether the latest fit's trusted horizon limits their length; at 0 there are none."""

    def length_at(self, steps: int) -> int:
        """Steps of a rollout, `steps` environment steps after the warm-up."""
        # From the shortest at epoch `first` to the longest at epoch `last`.
        shortest, longest, first, last = self.length
        # Whole epochs, as in the authors' code.
        progress = (steps // self.epoch - first) / (last - first)
        return int(shortest + (longest - shortest) * min(max(progress, 0.0), 1.0))


@dataclass(frozen=True)
class Uncertainty:
    """Limits and rewards of disagreement between an ensemble's members, in standard deviations of the targets."""

    max: float
    """A rollout stops before a step of more disagreement. 0: it never stops for it."""
    bonus: float
    """Reward for each unit of disagreement."""

    def check(self, model: WorldModel) -> None:
        """ValueError for a model that does not measure disagreement."""
        for key, value in (("max", self.max), ("bonus", self.bonus)):
            if value and not model.measures_disagreement:
                name = option_of(type(model))
                raise ValueError(
                    f"algo.uncertainty.{key} is {value}; with {name}, which measures no disagreement, it must be 0; "
                    f"dynamics=ensemble, frames and grid do"
                )


class MBPO(ModelBased):
    """See the top of this file. ValueError for settings that the model or the policy cannot follow."""

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], WorldModel],
        policy: Callable[[EnvSpec], Policy],
        warmup: int,
        every: int,
        rollouts: Rollouts,
        uncertainty: Uncertainty,
        real_ratio: float | None,
        update: Updates,
        reward_clip: float,
    ) -> None:
        """
        Args:
            spec: of the environment.
            dynamics: makes the model.
            policy: makes the policy, for the model's features.
            warmup: random steps before the first fit.
            every: environment steps between fits.
            rollouts: the number and length of rollouts after each fit, and how long they are kept.
            uncertainty: how disagreement stops and rewards them.
            real_ratio: fraction of real windows; None: 0.05, or 0 with a policy that learns from its own rollouts.
            update: of the policy: on how much, how many and how often.
            reward_clip: the policy learns from rewards clipped to [-reward_clip, reward_clip]; 0: not clipped.
        """
        super().__init__(spec, dynamics, warmup)
        self.policy = policy(self.model.feature_spec)
        self.on_policy = self.policy.window is None and not self.policy.learns_through_model
        uncertainty.check(self.model)
        if self.policy.learns_through_model:
            check_gradients(self.model, self.policy, real_ratio, reward_clip, uncertainty)

        self.every = every
        self.rollouts = rollouts
        self.uncertainty = uncertainty
        self.real = real_windows(real_ratio, self.on_policy, update.batch)
        # A policy that learns from its own rollouts gets those of its newest weights at each update.
        self.keeps_rollouts = not self.on_policy and self.real < update.batch
        self.update = update
        self.reward_clip = reward_clip

        self.trusted_horizon = 1
        self.imagined: Imagined | None = None

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        measured = Means()

        # The belief is that of the step before the newest, on which the policy acted last: rollouts branch off there.
        self.model.store(replay, self.belief)

        if fit_due(self.warmup, before, after, self.every):
            measured.add(self.fit_and_rollout(replay, after))

        # Updates of the policy, on steps, or through the model from states in which its rollouts begin.
        for _ in range(self.update.due(before, after, self.warmup)):
            if self.policy.learns_through_model:
                measured.add(self.policy.learn_through(self.model, self.sample_starts(replay, after)))
            else:
                measured.add(self.policy.update(clipped(self.sample_batch(replay, after), self.reward_clip)))
        return measured.means()

    def fit_and_rollout(self, replay: Replay, step: int) -> Metrics:
        """Fit the model, and imagine the rollouts that the policy learns from until the next fit."""
        self.ready.fill_(True)

        # With real windows alone (real_ratio=1, an ablation) nothing learns from the model.
        if not (self.keeps_rollouts or self.on_policy or self.policy.learns_through_model):
            return {}

        metrics, trusted_horizon, _ = self.model.fit(replay)
        # A model that does not measure it is trusted for one step.
        self.trusted_horizon = 1 if trusted_horizon is None else trusted_horizon

        states = self.model.start_states(replay, self.rollouts.starts if self.keeps_rollouts else PROBE)
        if self.keeps_rollouts and self.length(step):
            metrics = metrics | self.keep_rollouts(self.imagine(states, step))

        fit_normaliser(self.policy, replay, self.model)
        if self.model.measures_disagreement:
            probe = tree_map_only(Tensor, lambda x: x[:PROBE], states)
            disagreement = self.model.disagreement(probe, self.policy.act(self.model.features(probe), True))
            assert disagreement is not None, type(self.model)
            metrics = metrics | {"model/rollout/disagreement": disagreement.mean()}

        # Rollouts that a policy makes itself, to learn through the model, are as long as its horizon.
        if self.keeps_rollouts or self.on_policy:
            metrics = metrics | {"model/rollout/length": float(self.length(step))}
        return metrics

    def keep_rollouts(self, steps: Step) -> Metrics:
        """Keep imagined rollouts [length + 1, starts]; ValueError if none of them has a single step."""
        imagined = self.imagined_steps()
        imagined.add(steps)
        if not len(imagined.indices):
            raise ValueError(f"algo.uncertainty.max is {self.uncertainty.max}; the elites disagree more in all starts")
        return {"model/rollout/reward": steps.reward[1:].mean(), "model/rollout/continue": mean_length(steps)}

    def sample_batch(self, replay: Replay, step: int) -> Step:
        """The steps that one update of the policy learns from: real and imagined windows, or fresh rollouts."""
        batch = self.update.batch
        if self.on_policy:
            return self.imagine(self.model.start_states(replay, batch), step)
        real = self.real_at(step)
        if real == batch:
            return self.sample_real(replay, batch)
        imagined = self.imagined_steps().sample(batch - real, window_of(self.policy), self.policy.n_step)
        return mix(self.sample_real(replay, real), imagined) if real else imagined

    def sample_starts(self, replay: Replay, step: int) -> Tree:
        """[batch] states of the model, a fraction `real_ratio` of them real."""
        real = self.real_at(step)
        imagined = self.update.batch - real
        states = self.model.start_states(replay, real) if real else None
        if not imagined:
            return states
        branched = self.model.observe(None, self.imagined_steps().sample(imagined, 1).at(0))
        if states is None:
            return branched
        states = tree_map(lambda *x: torch.cat(x), states, branched)
        if self.model.batch_blocks == 1:
            return states

        # Shuffled, as each member predicts one block of the batch: the real states would always meet the first one.
        order = torch.randperm(self.update.batch, device=self.ready.device)
        return tree_map_only(Tensor, lambda x: x[order], states)

    def real_at(self, step: int) -> int:
        """How many windows of a batch are real: all of them while no step of the model is trusted."""
        return self.real if self.length(step) else self.update.batch

    def sample_real(self, replay: Replay, batch: int) -> Step:
        """[window, batch] real windows as the policy sees them."""
        return self.model.sample_features(replay, batch, window_of(self.policy), self.policy.n_step)

    def imagine(self, states: Tree, step: int) -> Step:
        """[length + 1, N] steps from states [N, ...]; FloatingPointError if a prediction is not finite."""
        steps = rollout(
            self.model, self.policy, states, self.length(step), self.uncertainty.max, self.uncertainty.bonus
        )
        # One look at all rollouts: numbers that are not finite would spread from replay to the policy unseen.
        if not (steps.obs.isfinite().all() and steps.reward.isfinite().all()):
            raise FloatingPointError(
                f"a prediction of the model is not finite at step {step}; see dynamics.optim.lr and .clip"
            )
        return steps

    def length(self, step: int) -> int:
        """k: steps of a rollout that is imagined after `step` environment steps."""
        # Epochs count from the end of the warm-up, as in the paper's code.
        length = self.rollouts.length_at(step - self.warmup)
        if not self.rollouts.adaptive:
            return length
        # A policy that learns from its own rollouts alone needs a step at least.
        return min(length, max(self.trusted_horizon, int(self.on_policy)))

    def allocate_memory(self) -> None:
        super().allocate_memory()
        if self.keeps_rollouts:
            # Rollouts are kept by fits: as many batches as there are fits in the epochs to keep.
            fits = max(1, self.rollouts.keep * self.rollouts.epoch // self.every)
            longest, device = self.rollouts.length[1], self.ready.device
            self.imagined = Imagined(self.model.feature_spec, fits, self.rollouts.starts, longest, device)

    def imagined_steps(self) -> Imagined:
        assert self.imagined is not None, "allocate_memory comes first"
        return self.imagined

    def get_extra_state(self) -> dict[str, Any]:
        imagined = {} if self.imagined is None else self.imagined.get_extra_state()
        return {"trusted_horizon": self.trusted_horizon, "trainer": self.model.trainer_state()} | imagined

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.trusted_horizon = state.get("trusted_horizon", 1)
        self.model.load_trainer_state(state.get("trainer", {}))
        if "rows" in state:
            self.imagined_steps().set_extra_state(state)


def check_gradients(
    model: WorldModel, policy: Policy, real_ratio: float | None, reward_clip: float, uncertainty: Uncertainty
) -> None:
    """ValueError where a policy cannot follow gradients through the model."""
    name = option_of(type(policy))
    if not model.differentiable:
        allowed = "dynamics=ensemble, latent, rssm_* and analytic have"
        raise ValueError(
            f"{name} follows gradients through the model, and {option_of(type(model))} has none: {allowed}"
        )
    if reward_clip:
        raise ValueError(
            f"algo.reward_clip is {reward_clip}; with {name} it must be 0, as a clipped reward has no gradient"
        )
    if uncertainty.bonus or (uncertainty.max and real_ratio == 1):
        key, value = ("bonus", uncertainty.bonus) if uncertainty.bonus else ("max", uncertainty.max)
        why = "as its own rollouts neither get a bonus nor stop early"
        raise ValueError(f"algo.uncertainty.{key} is {value}; with {name} it must be 0, {why}")
    if real_ratio != 1 and (model.recurrent or model.feature_spec != model.spec):
        why = f"as kept rollouts hold features, not states of {option_of(type(model))}"
        raise ValueError(f"algo.real_ratio is {real_ratio}; with {name} it must be 1, {why}")


def real_windows(real_ratio: float | None, on_policy: bool, batch: int) -> int:
    """How many windows of a batch are real. ValueError for a policy that learns from its own rollouts alone."""
    if on_policy and real_ratio:
        raise ValueError(
            f"algo.real_ratio is {real_ratio}; with a policy that learns from its own rollouts it must be 0"
        )
    ratio = REAL_RATIO if real_ratio is None else real_ratio
    # The rest of the batch is imagined; a fraction of a window is dropped.
    return 0 if on_policy else int(batch * ratio)
