"""Open-loop predictions of a model, and their errors against the true episodes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import Step, Tree

COPIES = 20
"""Rollouts from each start, in blocks of the batch, so that each member of an ensemble of up to 20 predicts it."""

TINY = 1e-6


class OpenLoop(NamedTuple):
    """H imagined steps from N starts, C times each, with the true actions. The last dimension is the reward."""

    start: Tensor  # [N, D] features of the starts
    predicted: Tensor  # [H, C, N, D + 1]
    true: Tensor  # [H, N, D + 1]
    termination: Tensor  # [H, C, N] predicted probability that the episode terminates with this step
    valid: Tensor  # [H, N] bool: the true episode is this long


def predict_open_loop(model: WorldModel, steps: Step, states: Tree, starts: Tensor, horizon: int) -> OpenLoop:
    """Predict `horizon` steps from some of the steps of played episodes.

    Args:
        model: the model.
        steps: [T + 1, B] played steps.
        states: [T + 1, B, ...] the model's states at these steps.
        starts: [N, 2] pairs of (time, environment).
        horizon: number of predicted steps.
    """
    t, b = starts.unbind(1)
    last, valid = len(steps.first) - 1, torch.ones_like(t, dtype=torch.bool)
    state = tree_map_only(Tensor, lambda x: copied(x[t, b]), states)

    rows: list[tuple[Tensor, ...]] = []
    for h in range(1, horizon + 1):
        # Starts near the end of the play read its last step again, and are not valid there.
        at = (t + h).clamp(max=last)
        # Valid until the episode is over; steps of the next one are never valid again.
        valid = valid & (t + h <= last) & ~steps.first[at, b]
        state, outcome = model.imagine(state, copied(steps.action[at, b]))
        predicted = torch.cat([model.features(state), outcome.reward[:, None]], -1).unflatten(0, (COPIES, -1))
        true = torch.cat([_features(model, states, at, b), steps.reward[at, b, None]], -1)
        rows.append((predicted, true, 1 - outcome.cont.view(COPIES, -1), valid))
    return OpenLoop(_features(model, states, t, b).float().cpu(), *(_stack(x) for x in zip(*rows, strict=True)))


def copied(x: Tensor) -> Tensor:
    """[N, ...] -> [COPIES * N, ...], one whole copy after the other."""
    return x.repeat(COPIES, *[1] * (x.dim() - 1))


def every_start(steps: Step) -> Tensor:
    """[N, 2] (time, environment) of every transition."""
    return steps.transitions().valid.nonzero()


def spread_out(starts: Tensor, most: int) -> Tensor:
    """At most `most` of the starts, evenly spaced."""
    return starts[:: -(-len(starts) // most)]


def change_std(one_step: OpenLoop) -> Tensor:
    """[D + 1]: standard deviation of the true one-step change and of the reward; 1 for those that do not vary."""
    true = one_step.true[0]
    std = torch.cat([true[:, :-1] - one_step.start, true[:, -1:]], -1).std(0, correction=0)
    # A constant dimension has no scale, so its error is reported in its own units.
    return std.where(std > TINY, 1.0)


def state_error(loop: OpenLoop, scale: Tensor) -> Tensor:
    """[H, N]: root mean square over members and dimensions in units of `scale` [D + 1]; NaN if not valid."""
    error = (loop.predicted - loop.true[:, None])[..., :-1] / scale[:-1]
    return error.square().mean((1, 3)).sqrt().where(loop.valid, torch.nan)


def state_spread(loop: OpenLoop, scale: Tensor) -> Tensor:
    """[H, N]: standard deviation over copies, root mean square over dimensions, in the same units."""
    variance = (loop.predicted[..., :-1] / scale[:-1]).var(1, correction=0)
    return variance.mean(2).sqrt().where(loop.valid, torch.nan)


def no_change_error(loop: OpenLoop, scale: Tensor) -> Tensor:
    """[H, N]: the error of predicting that nothing changes."""
    error = (loop.true[..., :-1] - loop.start) / scale[:-1]
    return error.square().mean(2).sqrt().where(loop.valid, torch.nan)


def typical(loop: OpenLoop, scale: Tensor) -> tuple[int, int]:
    """(start, steps): of the starts with the longest valid rollouts, the one with the median error at the last step."""
    lengths = loop.valid.sum(0)
    steps = int(lengths.max())
    furthest = (lengths == steps).nonzero()[:, 0]
    error = state_error(loop, scale)[steps - 1, furthest]
    return int(furthest[error.argsort()[len(error) // 2]]), steps


def steps_to_termination(steps: Step) -> Tensor:
    """[T + 1, B]: steps from each to the termination of its episode; inf if none was observed."""
    # Backwards in time; an episode boundary (`first`) resets the count.
    left = torch.where(steps.terminal, 0.0, torch.inf)
    for t in reversed(range(len(left) - 1)):
        ahead = (left[t + 1] + 1).where(~steps.first[t + 1], torch.inf)
        left[t] = torch.minimum(left[t], ahead)
    return left


def _features(model: WorldModel, states: Tree, t: Tensor, b: Tensor) -> Tensor:
    return model.features(tree_map_only(Tensor, lambda x: x[t, b], states))


def _stack(x: tuple[Tensor, ...]) -> Tensor:
    stacked = torch.stack(x).cpu()
    return stacked.float() if stacked.is_floating_point() else stacked
