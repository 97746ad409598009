"""Imagined rollouts: a policy acts in a world model, and `Imagined`, a second replay, holds the newest of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.replay import Replay, shortage
from mbrl_lab.types import EnvSpec, Step, Tree


@torch.no_grad()
def rollout(
    model: WorldModel,
    policy: Policy,
    state: Tree,
    horizon: int,
    max_disagreement: float = 0.0,
    bonus: float = 0.0,
) -> Step:
    """[horizon + 1, B] steps of the policy from states [B], which the first step holds.

    An episode continues with the model's probability. Steps after a termination are marked `first`, so no transition
    leads there. Rollouts stop before a step on which the model's disagreement exceeds `max_disagreement` (0: never).
    The reward of a step includes `bonus` for each unit of disagreement.
    """
    obs = model.features(state)
    stopped = torch.zeros(len(obs), dtype=torch.bool, device=obs.device)
    none = torch.zeros(len(obs), device=obs.device)  # as the reward of a first step, and as disagreement
    steps = [Step(model.spec.zero_action(len(obs), obs.device), obs, none, terminal=stopped, first=~stopped)]
    for _ in range(horizon):
        action = policy.act(obs, True)
        uncertainty = model.disagreement(state, action) if max_disagreement or bonus else None
        uncertainty = none if uncertainty is None else uncertainty
        if max_disagreement:
            stopped = stopped | (uncertainty > max_disagreement)

        # All B rollouts are imagined to the horizon, also those that have stopped: shapes stay the same.
        state, outcome = model.imagine(state, action)
        obs = model.features(state)
        terminated = torch.rand_like(outcome.cont) >= outcome.cont
        steps.append(Step(action, obs, outcome.reward + bonus * uncertainty, terminated & ~stopped, stopped))
        stopped = stopped | terminated
    return Step(*(torch.stack(field) for field in zip(*steps, strict=True)))


class Imagined:
    """The newest `keep` batches of rollouts, each from `starts` states and of up to `longest` steps, on `device`.

    As in the real replay, a step stores only the newest frame of its stack. A rollout begins with a whole stack, so
    steps with its older frames are stored before it, at which no transition begins. With stacks of 3 and 2 steps:

        kept step           0     1     2     3     4
        its newest frame    a     b     c     d     e
        first               yes   no    no    no    no     so that stacks are never filled from another rollout
        stack read here                abc   bcd   cde
        transition from                 2     3

    ValueError names the settings to reduce if memory does not suffice.
    """

    def __init__(self, spec: EnvSpec, keep: int, starts: int, longest: int, device: torch.device | str) -> None:
        capacity, device = keep * (longest + spec.stack) * starts, torch.device(device)
        if problem := shortage(spec, capacity, device):
            settings = f"algo.rollouts.starts={starts} for {keep} times up to {longest} imagined steps"
            raise ValueError(
                f"{settings} {problem}: make algo.rollouts.starts, algo.rollouts.keep or algo.rollouts.length smaller"
            )
        self.keep = keep
        self.replay = Replay(spec, capacity, starts, 0, device)
        self.lengths: list[int] = []  # vector steps of each batch, the newest last
        self.indices = torch.zeros(0, dtype=torch.int64, device=device)  # at which a transition begins

    def add(self, steps: Step) -> None:
        """Add rollouts [T, starts]; only the newest `keep` batches can be sampled."""
        stored = [*self._before(steps.at(0)), *(steps.at(t) for t in range(len(steps.first)))]

        # The oldest frame of the stack is marked `first`, not the start itself, which would cut its stack.
        if self.replay.older_frames:
            stored[self.replay.older_frames] = steps.at(0)._replace(first=torch.zeros_like(steps.first[0]))

        for step in stored:
            self.replay.add(step)
        self.lengths = [*self.lengths, len(stored)][-self.keep :]
        self._index()

    def _before(self, start: Step) -> list[Step]:
        """Steps whose newest frames are the older frames of the start's stack; the oldest is marked `first`."""
        older = self.replay.older_frames
        stacks = [start.obs[:, t : t + 1].expand_as(start.obs) for t in range(older)]
        return [start._replace(obs=x, first=torch.full_like(start.first, t == 0)) for t, x in enumerate(stacks)]

    def sample(self, batch: int, length: int, n_step: int | None = None) -> Step:
        """[length, batch] windows, uniform over imagined transitions; see `Replay.read`."""
        index = torch.randint(len(self.indices), (batch,), device=self.indices.device)
        return self.replay.read(self.indices[index], length, n_step)

    def _index(self) -> None:
        """Find the indices of transitions in the kept batches, without the steps that only hold older frames."""
        oldest, device = self.replay.added - sum(self.lengths), self.indices.device
        starts_transition = torch.cat(
            [torch.arange(n, device=device) >= self.replay.older_frames for n in self.lengths]
        )

        # The ring can hold steps of batches that are no longer kept, as batches differ in length.
        indices = self.replay.transitions()
        number = indices // self.replay.num_envs - oldest
        indices, number = indices[number >= 0], number[number >= 0]
        self.indices = indices[starts_transition[number]]

    def get_extra_state(self) -> dict[str, Any]:
        """The kept rollouts, on the CPU, and their counters."""
        kept = self.replay.steps(self.replay.added - sum(self.lengths), self.replay.added)
        return {"added": self.replay.added, "lengths": list(self.lengths), "rows": tuple(kept)}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `get_extra_state`."""
        self.replay.added, self.lengths = state["added"], list(state["lengths"])
        if not self.lengths:  # saved before the first fit
            return
        self.replay.restore(self.replay.added - sum(self.lengths), Step(*state["rows"]))
        self._index()


def mix(real: Step, imagined: Step) -> Step:
    """Steps [L, A] and [L, B] -> [L, A + B]."""
    return Step(*(torch.cat([a, b], 1) for a, b in zip(real, imagined, strict=True)))


def mean_length(steps: Step) -> Tensor:
    """[]: the mean number of imagined steps in rollouts [T + 1, B]."""
    return (~steps.first[1:]).float().sum(0).mean()
