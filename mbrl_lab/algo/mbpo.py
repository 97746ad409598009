"""MBPO: a policy that learns mostly from short imagined rollouts, begun in real states (Janner et al. 2019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.algo.imagined import Imagined, mix, rows_alive
from mbrl_lab.algo.learner import Learner
from mbrl_lab.algo.off_policy import window_of
from mbrl_lab.dynamics.rollout import rollout
from mbrl_lab.ops import Means, clipped
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

REAL_RATIO = 0.05
"""The share of real rows where none is given, the authors'."""

SURVEYED = 1_000
"""States whose disagreement is logged."""


class MBPO(Learner):
    """Random actions for `warmup` steps; from then on a fit of the model every `every` steps, and the policy learns.

    After each fit rollouts begin in `starts` real states drawn anew, and stay for `keep` epochs of `epoch` steps.
    `rollout`: their length grows from the first to the second number while as many epochs as the last two say have
    passed since the warm-up. `updates` gradient steps every `updates_every` environment steps see `batch` windows each,
    a share `real_ratio` of them real. A policy that can only learn from what it did itself (PPO) gets `batch` fresh
    rollouts each time instead, and nothing real.
    `max_uncertainty`: rollouts stop before a step on which the elites disagree more, in standard deviations; 0: never.
    `explore_bonus`: so much reward for each unit of disagreement, in imagination.
    `earn`: rollouts are no longer than the latest fit of a model of images says that it has earned, but one step.
    """

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], WorldModel],
        policy: Callable[[EnvSpec], Policy],
        warmup: int,
        every: int,
        starts: int,
        epoch: int,
        keep: int,
        rollout: Sequence[int],
        real_ratio: float | None,
        batch: int,
        updates: int,
        updates_every: int,
        reward_clip: float,
        max_uncertainty: float,
        explore_bonus: float,
        earn: bool,
    ) -> None:
        model = dynamics(spec)
        super().__init__(spec, warmup)
        self.model = model
        self.policy = policy(model.feature_spec)
        self.belief: Tree = None
        if (max_uncertainty or explore_bonus) and not model.measures_disagreement:
            key, value = ("max_uncertainty", max_uncertainty) if max_uncertainty else ("explore_bonus", explore_bonus)
            name = type(model).__name__
            raise ValueError(f"algo.{key} is {value}; with {name}, which measures no disagreement, it must be 0")
        self.on_policy = self.policy.window is None
        self.real = share(real_ratio, self.on_policy, batch)
        self.every, self.starts, self.epoch, self.keep = every, starts, epoch, keep
        self.lengths, self.batch, self.updates, self.updates_every = tuple(rollout), batch, updates, updates_every
        self.reward_clip, self.max_uncertainty, self.explore_bonus = reward_clip, max_uncertainty, explore_bonus
        self.earn, self.earned = earn, 1
        self.imagined: Imagined | None = None

    @property
    def world_model(self) -> WorldModel:
        return self.model

    @torch.no_grad()
    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        belief = self.model.observe(carry, step)
        self.belief = belief if explore else self.belief
        if explore and not self.ready:
            return self.random_action(step), belief
        return self.policy.act(self.model.features(belief), explore), belief

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        measured = Means()
        self.model.store(replay, self.belief)
        if self.fit_due(before, after, self.every):
            measured.add(self.renew(replay, after))
        for _ in range(self.updates * self.due(before, after, self.updates_every)):
            measured.add(self.policy.update(clipped(self.lesson(replay, after), self.reward_clip)))
        return measured.means()

    def renew(self, replay: Replay, step: int) -> Metrics:
        """Fit the model, and let it imagine what the policy will learn from."""
        self.ready.fill_(True)
        if self.real == self.batch:  # nothing would be learned from it
            return {}
        result = self.model.fit(replay)
        metrics, self.earned = result.metrics, max(1, result.trusted_horizon or 1)
        states = self.model.start_states(replay, self.starts)
        if not self.on_policy:
            steps = self.imagine(states, step)
            self.imagined_rows().add(steps)
            if not len(self.imagined_rows().indices):
                raise ValueError(f"algo.max_uncertainty is {self.max_uncertainty}; the elites disagree more everywhere")
            metrics |= {"model/rollout/reward": steps.reward[1:].mean(), "model/rollout/continue": rows_alive(steps)}
        states = tree_map_only(Tensor, lambda x: x[:SURVEYED], states)
        if self.model.measures_disagreement:
            actions = self.policy.act(self.model.features(states), True)
            disagreement = self.model.disagreement(states, actions)
            assert disagreement is not None, type(self.model)
            metrics["model/rollout/disagreement"] = disagreement.mean()
        return metrics | {"model/rollout/length": float(self.length(step))}

    def lesson(self, replay: Replay, step: int) -> Step:
        """Rows for one update of the policy: windows real and imagined, or rollouts."""
        if self.on_policy:
            return self.imagine(self.model.start_states(replay, self.batch), step)
        if self.real == self.batch:
            return self.sample_real(replay, self.batch)
        imagined = self.imagined_rows().sample(self.batch - self.real, window_of(self.policy), self.policy.n_step)
        return mix(self.sample_real(replay, self.real), imagined) if self.real else imagined

    def sample_real(self, replay: Replay, batch: int) -> Step:
        """[window, batch] real windows as the policy sees them."""
        return self.model.sample_features(replay, batch, window_of(self.policy), self.policy.n_step)

    def imagine(self, states: Tree, step: int) -> Step:
        """[length + 1, N] rows from states [N, ...]. FloatingPointError if the model gives what is no number."""
        steps = rollout(self.model, self.policy, states, self.length(step), self.max_uncertainty, self.explore_bonus)
        if not (steps.obs.isfinite().all() and steps.reward.isfinite().all()):
            raise FloatingPointError(f"the model imagined what is not finite at step {step}; see dynamics.lr and .clip")
        return steps

    def length(self, step: int) -> int:
        """How far rollouts go after so many environment steps."""
        low, high, first, last = self.lengths
        share = ((step - self.warmup) // self.epoch - first) / (last - first)
        length = int(low + (high - low) * min(max(share, 0.0), 1.0))
        return min(length, self.earned) if self.earn else length

    def allocate(self) -> None:
        self.model.check_memory()
        if not self.on_policy:
            keep = max(1, self.keep * self.epoch // self.every)
            self.imagined = Imagined(self.model.feature_spec, keep, self.starts, self.lengths[1], self.ready.device)

    def imagined_rows(self) -> Imagined:
        assert self.imagined is not None, "nothing was allocated"
        return self.imagined

    def get_extra_state(self) -> dict[str, Any]:
        imagined = {} if self.imagined is None else self.imagined.get_extra_state()
        return {"earned": self.earned, "trainer": self.model.trainer_state()} | imagined

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.earned = state.get("earned", 1)
        self.model.load_trainer_state(state.get("trainer", {}))
        if "rows" in state:
            self.imagined_rows().set_extra_state(state)


def share(real_ratio: float | None, on_policy: bool, batch: int) -> int:
    """How many rows of a batch are real. ValueError where a policy could not learn from them."""
    if on_policy and real_ratio:
        raise ValueError(f"algo.real_ratio is {real_ratio}; with a policy that learns from its own acts it must be 0")
    ratio = REAL_RATIO if real_ratio is None else real_ratio
    return 0 if on_policy else int(batch * ratio)
