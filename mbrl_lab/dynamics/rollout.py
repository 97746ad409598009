"""Imagined episodes: a policy acts in a world model. As rows of replay (`rollout`) or with gradients (`dream`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mbrl_lab.nets.precision import autocast_dtype
from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.types import EnvSpec, Outcome, Step, Tree

Doubt = Callable[[Tree, Tensor], Tensor]
"""(state [B], action [B]) -> [B]: how little a model knows of what follows."""


@torch.no_grad()
def rollout(
    model: WorldModel,
    policy: Policy,
    state: Tree,
    horizon: int,
    doubt: Doubt | None = None,
    bound: float = 0.0,
    bonus: float = 0.0,
) -> Step:
    """[horizon + 1, B] rows, as if the policy had acted from states [B] on; the first row holds these.

    An episode goes on with the model's probability. What would come after its end is marked `first`, so no transition
    leads there. With a `doubt` rollouts stop before a step that is in more of it than `bound` (0: none does), and a
    step pays `bonus` for each unit.
    """
    obs = model.features(state)
    rows = [begin(model.spec, obs)]
    over = torch.zeros_like(rows[0].first)
    for _ in range(horizon):
        action = policy.act(obs, True)
        doubted = doubt(state, action) if doubt is not None else torch.zeros_like(rows[0].reward)
        if bound:
            over = over | (doubted > bound)
        state, outcome = model.imagine(state, action)
        obs = model.features(state)
        ends = torch.rand_like(outcome.cont) >= outcome.cont
        rows.append(Step(action, obs, outcome.reward + bonus * doubted, ends & ~over, over))
        over = over | ends
    return Step(*(torch.stack(field) for field in zip(*rows, strict=True)))


def begin(spec: EnvSpec, obs: Tensor) -> Step:
    """A row in which episodes begin, with observations [B, ...]."""
    batch, device = len(obs), obs.device
    no = torch.zeros(batch, dtype=torch.bool, device=device)
    return Step(spec.no_action(batch, device), obs, torch.zeros(batch, device=device), no, ~no)


class Dream(NamedTuple):
    """H steps of a policy from B states, as one that learns from them sees them."""

    features: Tensor  # [H + 1, B, F]
    action: Tensor  # [H, B] or [H, B, A]
    reward: Tensor  # [H, B]
    discount: Tensor  # [H, B]: the probability that the episode goes on after the step
    valid: Tensor  # [H, B] bool: false where no transition lies between two rows


class Dreamt(Protocol):
    """What dreams ask of a model: its step and what that meant, one after the other or all at once."""

    def features(self, state: Tree) -> Tensor: ...
    def advance(self, state: Tree, action: Tensor) -> Tree: ...
    def outcome(self, features: Tensor) -> Outcome: ...


def _cast(features: Tensor) -> Tensor:
    """In the digits that networks compute in, which each of those that read them would cast them to anew."""
    return features.to(autocast_dtype(features.device.type))


def dream(model: Dreamt, choose: Callable[[Tensor], Tensor], state: Tree, horizon: int) -> Dream:
    """What follows from states [B], with the gradients of all it consists of unless they are off.

    Nothing ends here: where `rollout` draws whether an episode goes on, a dream keeps the probability. What steps pay
    is asked for all of them at once, and for the first states too, as cutting them off would cost more.
    """
    features, actions = [_cast(model.features(state))], []
    for _ in range(horizon):
        actions.append(choose(features[-1]))
        state = model.advance(state, actions[-1])
        features.append(_cast(model.features(state)))
    seen = torch.stack(features)
    reward, discount = (x[1:] for x in model.outcome(seen))
    return Dream(seen, torch.stack(actions), reward, discount, torch.ones_like(reward, dtype=torch.bool))


def waking(steps: Step) -> Dream:
    """Rows [H + 1, B] whose observations are features, real or from `rollout`, read as a dream."""
    t = steps.transitions()
    return Dream(steps.obs, t.action, t.reward, (~t.terminal).float(), t.valid)
