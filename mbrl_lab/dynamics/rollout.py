"""Imagined episodes: a policy acts in a world model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mbrl_lab.types import EnvSpec, Policy, Step, Tree, WorldModel

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
        ends = torch.rand_like(outcome.discount) >= outcome.discount
        rows.append(Step(action, obs, outcome.reward + bonus * doubted, ends & ~over, over))
        over = over | ends
    return Step(*(torch.stack(field) for field in zip(*rows, strict=True)))


def begin(spec: EnvSpec, obs: Tensor) -> Step:
    """A row in which episodes begin, with observations [B, ...]."""
    batch, device = len(obs), obs.device
    no = torch.zeros(batch, dtype=torch.bool, device=device)
    return Step(spec.no_action(batch, device), obs, torch.zeros(batch, device=device), no, ~no)
