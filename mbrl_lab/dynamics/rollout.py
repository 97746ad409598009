"""Imagined rollouts: a policy acts in a world model, and the result looks like steps of replay."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl_lab.protocols import Policy, WorldModel
from mbrl_lab.types import EnvSpec, Step, Trajectory, Tree


@torch.no_grad()
def rollout(
    model: WorldModel,
    policy: Policy,
    state: Tree,
    horizon: int,
    bound: float = 0.0,
    bonus: float = 0.0,
) -> Step:
    """[horizon + 1, B] steps of the policy from states [B], which the first step holds.

    An episode continues with the model's probability. Steps after a termination are marked `first`, so no transition
    leads there. Rollouts stop before a step on which the model's disagreement is above `bound` (0: never). The reward
    of a step includes `bonus` for each unit of disagreement.
    """
    obs = model.features(state)
    rows = [first_step(model.spec, obs)]
    stopped = torch.zeros_like(rows[0].first)
    for _ in range(horizon):
        action = policy.act(obs, True)
        uncertainty = model.disagreement(state, action) if bound or bonus else None
        uncertainty = torch.zeros_like(rows[0].reward) if uncertainty is None else uncertainty
        if bound:
            stopped = stopped | (uncertainty > bound)

        # All B rollouts are imagined to the horizon, also those that have stopped: shapes stay the same.
        state, outcome = model.imagine(state, action)
        obs = model.features(state)
        terminated = torch.rand_like(outcome.cont) >= outcome.cont
        rows.append(Step(action, obs, outcome.reward + bonus * uncertainty, terminated & ~stopped, stopped))
        stopped = stopped | terminated
    return Step(*(torch.stack(field) for field in zip(*rows, strict=True)))


def first_step(spec: EnvSpec, obs: Tensor) -> Step:
    """The first step of B episodes, with observations [B, ...]."""
    batch, device = len(obs), obs.device
    no = torch.zeros(batch, dtype=torch.bool, device=device)
    return Step(spec.zero_action(batch, device), obs, torch.zeros(batch, device=device), no, ~no)


def real_trajectory(steps: Step) -> Trajectory:
    """Steps [H + 1, B] whose observations are features, real or from `rollout`, read as a trajectory."""
    t = steps.transitions()
    return Trajectory(steps.obs, t.action, t.reward, (~t.terminal).float(), t.valid)
