"""Dreamer: an actor and a critic learn from what a world model imagines (Hafner et al. 2020; 2023: "DreamerV3").

    s_t ~ q(s_t | s_{t-1}, a_{t-1}, x_t)                           the belief, filtered along the episode  (V3, eq. 1)
    a_t ~ pi(a_t | s_t)
    `update.number` times every `update.every` steps:
        windows of replay:  minimise the model's loss; posteriors s at their steps         model.fit      (V3, eq. 2-3)
        `update.batch` of the posteriors, no terminal ones:  roll pi out in the model for `horizon` steps
        critic: -log p(lambda-returns);  actor: returns and entropy                        policy.learn_in (V3, eq. 5-7)
        every `hybrid` updates:  the critic learns from the real windows, too

Any model of vectors may stand in for the recurrent one; one without windows of its own lends transitions of replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.algo.learner import ModelBased, Updates
from mbrl_lab.ops import Means
from mbrl_lab.policy.actor_critic import ActorCritic
from mbrl_lab.protocols import WorldModel, option_of
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree, Windows


class Dreamer(ModelBased):
    """See the top of this file. ValueError for a policy that does not learn in imagination."""

    policy: ActorCritic

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], WorldModel],
        policy: Callable[[EnvSpec], ActorCritic],
        warmup: int,
        pretrain: int,
        update: Updates,
        horizon: int,
        hybrid: int,
    ) -> None:
        """
        Args:
            spec: of the environment.
            dynamics: makes the model.
            policy: makes the actor-critic, for the model's features.
            warmup: random steps before the first update.
            pretrain: updates of the model alone, then.
            update: of model and policy: imagined rollouts in one, how many and how often.
            horizon: imagined steps of a rollout.
            hybrid: updates between those in which the critic learns from real windows, too; 0: never.
        """
        super().__init__(spec, dynamics, warmup)
        self.policy = policy(self.model.feature_spec)
        if not self.policy.learns_in_imagination:
            allowed = "it must be policy=actor_critic or actor_critic_xs"
            raise ValueError(f"algo=dreamer cannot learn with {option_of(type(self.policy))}; {allowed}")
        self.pretrain = pretrain
        self.update = update
        self.horizon = horizon
        self.hybrid = hybrid

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        measured = Means()
        self.model.store(replay, self.belief)

        # The model learns alone at first: a policy would learn from rollouts of an untrained model.
        if self.warmup_ends(before, after):
            self.ready.fill_(True)
            for _ in range(self.pretrain):
                measured.add(self.model.fit(replay, updates=1).metrics)
        for _ in range(self.update.due(before, after, self.warmup)):
            measured.add(self._learn_once(replay))
        return measured.means()

    def _learn_once(self, replay: Replay) -> Metrics:
        """One gradient step of the model, and one of the policy."""
        metrics, _, windows = self.model.fit(replay, updates=1)
        windows = windows or self._transitions(replay)

        metrics = metrics | self.policy.learn_in(self.model, self._start_states(windows), self.horizon)

        # Rewards that the model predicts badly reach the critic too (DreamerV3 does so at each update).
        if self.hybrid and self.policy.updates % self.hybrid == 0:
            features = self.model.features(windows.states).unflatten(0, windows.steps.first.shape)
            metrics |= self.policy.update_critic(windows.steps._replace(obs=features))
        return metrics

    def _transitions(self, replay: Replay) -> Windows:
        """Transitions and their states, for a model without memory that did not draw any to learn from."""
        steps = replay.sample(self.update.batch, 2)
        flat = Step(*(x.flatten(0, 1) for x in steps))
        return Windows(steps, self.model.observe(None, flat))

    def _start_states(self, windows: Windows) -> Tree:
        """[update.batch] of the states [L * B] that are not terminal, drawn with replacement."""
        # From a terminal state nothing follows that a policy could learn from.
        alive = (~windows.steps.terminal).flatten().float()
        index = torch.multinomial(alive, self.update.batch, replacement=True)
        return tree_map_only(Tensor, lambda x: x[index], windows.states)

    def get_extra_state(self) -> dict[str, Any]:
        return self.model.trainer_state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.model.load_trainer_state(state)
