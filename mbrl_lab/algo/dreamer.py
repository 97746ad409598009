"""Dreamer: a policy that learns from dreams begun in states that a world model inferred (Hafner et al. 2020, 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.algo.learner import Learner
from mbrl_lab.ops import Means
from mbrl_lab.policy.actor_critic import ActorCritic
from mbrl_lab.protocols import WorldModel
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree, Windows


class Dreamer(Learner):
    """Random actions for `warmup` steps, then `pretrain` updates of the model; from then on the policy acts, and every
    `every` steps model and policy learn `updates` times in turn.

    The policy learns from dreams of `horizon` steps, begun in `starts` of the states the model was in, none an end;
    with `hybrid` above 0 its critic learns from the real rows too, at every so many updates.
    """

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], WorldModel],
        policy: Callable[[EnvSpec], ActorCritic],
        warmup: int,
        pretrain: int,
        every: int,
        updates: int,
        starts: int,
        horizon: int,
        hybrid: int,
    ) -> None:
        super().__init__(spec, warmup)
        self.model = dynamics(spec)
        self.policy = policy(self.model.feature_spec)
        if not self.policy.learns_in_imagination:
            allowed = "it must be policy=actor_critic or actor_critic_xs"
            raise ValueError(f"algo=dreamer cannot learn with {type(self.policy).__name__}; {allowed}")
        self.pretrain = pretrain
        self.every, self.updates, self.starts, self.horizon = every, updates, starts, horizon
        self.hybrid = hybrid
        self.seen: Tree = None

    @property
    def world_model(self) -> WorldModel:
        return self.model

    @torch.no_grad()
    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        state = self.model.observe(carry, step)
        self.seen = state if explore else self.seen
        if explore and not self.ready:
            return self.random_action(step), state
        return self.policy.act(self.model.features(state), explore), state

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        measured = Means()
        self.model.store(replay, self.seen)
        if self.warmup_ends(before, after):
            self.ready.fill_(True)
            for _ in range(self.pretrain):
                measured.add(self.model.fit(replay, updates=1).metrics)
        for _ in range(self.updates * self.due(before, after, self.every)):
            measured.add(self._update(replay))
        return measured.means()

    def _update(self, replay: Replay) -> Metrics:
        """One gradient step of the model, and one of the policy."""
        metrics, _, windows = self.model.fit(replay, updates=1)
        windows = windows or self._windows(replay)
        metrics = metrics | self.policy.learn_in(self.model, self._begin(windows), self.horizon)
        if self.hybrid and int(self.policy.updates) % self.hybrid == 0:
            features = self.model.features(windows.states).unflatten(0, windows.steps.first.shape)
            metrics |= self.policy.update_critic(windows.steps._replace(obs=features))
        return metrics

    def _windows(self, replay: Replay) -> Windows:
        """Transitions and their states, for a model without memory that did not draw any to learn from."""
        steps = replay.sample(self.starts, 2)
        flat = Step(*(x.flatten(0, 1) for x in steps))
        return Windows(steps, self.model.observe(None, flat))

    def _begin(self, windows: Windows) -> Tree:
        """[starts] of the states [L * B] in which an episode goes on, drawn with replacement."""
        alive = (~windows.steps.terminal).flatten().float()
        index = torch.multinomial(alive, self.starts, replacement=True)
        return tree_map_only(Tensor, lambda x: x[index], windows.states)

    def allocate(self) -> None:
        self.model.check_memory()

    def get_extra_state(self) -> dict[str, Any]:
        return self.model.trainer_state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.model.load_trainer_state(state)
