"""Dreamer: a policy that learns from dreams begun in states that a world model inferred (Hafner et al. 2020, 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.algo.latents import Latents
from mbrl_lab.dynamics.rssm import RSSM
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.ops import clipped, crossed
from mbrl_lab.policy.actor_critic import ActorCritic
from mbrl_lab.protocols import Algo
from mbrl_lab.replay import Replay, free_memory
from mbrl_lab.replay import memory as bytes_of
from mbrl_lab.types import EnvSpec, Metrics, Step, Tree

Part = TypeVar("Part")


class Dreamer(Algo):
    """Random actions for `warmup` steps, then `pretrain` updates of the model; from then on the policy acts, and every
    `every` steps model and policy learn `updates` times in turn.

    The model learns from `batch` windows of as many rows as it wants, in `accumulate` parts. The share `ends` of them
    lead to an end, as far as one was seen: where ends are rare and the model misses them, dreams go on beyond.
    The policy learns from dreams of `horizon` steps, begun in `starts` of the states the model was in, none an end;
    with `hybrid` above 0 its critic learns from the real rows too, at every so many updates.
    `latents`: a window of a model with a memory begins with none (`recomputed`), or with that of its first row, kept
    beside it and renewed whenever the model sees it (`stored`).
    """

    ready: Tensor

    def __init__(
        self,
        spec: EnvSpec,
        dynamics: Callable[[EnvSpec], SequenceModel],
        policy: Callable[[EnvSpec], ActorCritic],
        warmup: int,
        pretrain: int,
        batch: int,
        ends: float,
        accumulate: int,
        every: int,
        updates: int,
        starts: int,
        horizon: int,
        hybrid: int,
        latents: str,
        reward_clip: float,
    ) -> None:
        super().__init__()
        self.spec, self.model = spec, able(dynamics(spec), "dim", "dynamics=latent or rssm_xs, rssm_s, rssm_m")
        self.policy = able(
            policy(spec.of_features(self.model.dim)), "learn_in", "policy=actor_critic or actor_critic_xs"
        )
        self.warmup, self.pretrain, self.batch, self.accumulate = warmup, pretrain, batch, accumulate
        self.every, self.updates, self.starts, self.horizon = every, updates, starts, horizon
        self.ends = ends
        self.hybrid, self.stored, self.reward_clip = hybrid, latents == "stored", reward_clip
        if self.stored and not isinstance(self.model, RSSM):
            name = type(self.model).__name__
            raise ValueError(
                f"algo.latents is {latents!r}; it must be recomputed with {name}, which has no memory, or the model "
                f"one of dynamics=rssm_xs, rssm_s, rssm_m"
            )
        self.latents: Latents | None = None
        self.kept: dict[str, Any] = {}
        self.seen: Tree = None
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def act(self, step: Step, carry: Tree | None, explore: bool) -> tuple[Tensor, Tree]:
        state = self.model.observe(carry, step)
        self.seen = state if explore else self.seen
        if explore and not self.ready:
            return self.spec.random(len(step.first), step.first.device), state
        return self.policy.act(self.model.features(state), explore), state

    def learn(self, replay: Replay, before: int, after: int) -> Metrics:
        metrics: Metrics = {}
        if self.stored:
            self._latents(replay).put(replay.added - 2, self.seen)
        if after >= self.warmup > before:
            self.ready.fill_(True)
            for _ in range(self.pretrain):
                metrics |= self._update_model(replay)[2]
        for _ in range(self.updates * crossed(max(before, self.warmup), max(after, self.warmup), self.every)):
            metrics |= self._update(replay)
        return metrics

    def _update(self, replay: Replay) -> Metrics:
        """One gradient step of the model, and one of the policy."""
        steps, states, metrics = self._update_model(replay)
        metrics |= self.policy.learn_in(self.model, self._begin(states, steps), self.horizon)
        if self.hybrid and int(self.policy.updates) % self.hybrid == 0:
            features = self.model.features(states).unflatten(0, steps.first.shape)
            metrics |= self.policy.update_critic(steps._replace(obs=features))
        return metrics

    def _update_model(self, replay: Replay) -> tuple[Step, Tree, Metrics]:
        """One gradient step of the model; the windows [L, B] that it saw, and its states [L * B] there."""
        indices = self._indices(replay)
        steps = clipped(replay.read(indices, self.model.length), self.reward_clip)
        if not self.stored:
            return steps, *self.model.update(steps, parts=self.accumulate)
        latents = self._latents(replay)
        states, metrics = self.model.update(steps, latents.read(indices), self.accumulate)
        latents.renew(indices, states)
        return steps, states, metrics

    def _indices(self, replay: Replay) -> Tensor:
        """[batch] indices where windows begin, the first ones those that lead to an end."""
        indices = replay.windows(self.batch, self.model.length)
        endings = replay.endings(self.model.length) if self.ends else indices[:0]
        count = int(self.batch * self.ends) if len(endings) else 0
        drawn = torch.randint(max(len(endings), 1), (count,), device=endings.device)
        return torch.cat([endings[drawn], indices[count:]])

    def _latents(self, replay: Replay) -> Latents:
        """The states kept beside this replay, with what a checkpoint remembered of them."""
        if self.latents is None:
            assert isinstance(self.model, RSSM), type(self.model)
            self.latents = Latents(self.model, replay)
            if self.kept:
                self.latents.load(self.kept)
        return self.latents

    def _begin(self, states: Tree, steps: Step) -> Tree:
        """[starts] of the states [L * B] in which an episode goes on, drawn with replacement."""
        alive = (~steps.terminal).flatten().float()
        index = torch.multinomial(alive, self.starts, replacement=True)
        return tree_map_only(Tensor, lambda x: x[index], states)

    def allocate(self) -> None:
        need, free = bytes_of(self.spec, self.batch * self.model.length), free_memory(self.ready.device)
        if need > free:
            asked = f"algo.batch={self.batch} windows of dynamics.length={self.model.length} rows"
            raise ValueError(f"{asked} need {need / 1e9:.1f} GB, where {free / 1e9:.1f} GB are free: make one smaller")

    def get_extra_state(self) -> dict[str, Any]:
        return {} if self.latents is None else self.latents.state()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.kept = state


def able(part: Part, verb: str, choices: str) -> Part:
    """The part, if it has what Dreamer asks of it."""
    if not hasattr(part, verb):
        raise ValueError(f"algo=dreamer cannot learn with {type(part).__name__}; it must be {choices}")
    return part
