"""What a model says would happen beside what did, and how far apart they are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import Step, Tree

COPIES = 20
"""How often each start is imagined, in blocks of rows, so that every member of an ensemble of as many has a say."""

TINY = 1e-6


class Forecast(NamedTuple):
    """H imagined steps from N starts, C times each, with the actions truly taken. The last value is the reward."""

    start: Tensor  # [N, D] features where it began
    predicted: Tensor  # [H, C, N, D + 1]
    true: Tensor  # [H, N, D + 1]
    end: Tensor  # [H, C, N] predicted probability that the episode ends with this step
    valid: Tensor  # [H, N] bool: the true episode has got this far


def forecast(model: WorldModel, rows: Step, states: Tree, starts: Tensor, horizon: int) -> Forecast:
    """Open-loop predictions from `starts` [N, 2], pairs of (row, environment) in rows [T + 1, B] and their states."""
    t, b = starts.unbind(1)
    last, valid = len(rows.first) - 1, torch.ones_like(t, dtype=torch.bool)
    wide = tree_map_only(Tensor, lambda x: copied(x[t, b]), states)
    seen: list[tuple[Tensor, ...]] = []
    for h in range(1, horizon + 1):
        at = (t + h).clamp(max=last)
        valid = valid & (t + h <= last) & ~rows.first[at, b]
        wide, outcome = model.imagine(wide, copied(rows.action[at, b]))
        predicted = torch.cat([model.features(wide), outcome.reward[:, None]], -1).unflatten(0, (COPIES, -1))
        true = torch.cat([_features(model, states, at, b), rows.reward[at, b, None]], -1)
        seen.append((predicted, true, 1 - outcome.cont.view(COPIES, -1), valid))
    return Forecast(_features(model, states, t, b).float().cpu(), *(_stack(x) for x in zip(*seen, strict=True)))


def copied(x: Tensor) -> Tensor:
    """[N, ...] -> [COPIES * N, ...], one whole copy after the other."""
    return x.repeat(COPIES, *[1] * (x.dim() - 1))


def every_start(rows: Step) -> Tensor:
    """[N, 2] (row, environment) of every transition."""
    return rows.transitions().valid.nonzero()


def spread_out(starts: Tensor, most: int) -> Tensor:
    """At most `most` of the starts, evenly from all of them."""
    return starts[:: -(-len(starts) // most)]


def scale_of(one: Forecast) -> Tensor:
    """[D + 1]: standard deviation of the true one-step change and of the reward; 1 for what does not vary."""
    std = torch.cat([one.true[0, :, :-1] - one.start, one.true[0, :, -1:]], -1).std(0, correction=0)
    return std.where(std > TINY, 1.0)


def state_error(seen: Forecast, scale: Tensor) -> Tensor:
    """[H, N]: root mean square over members and dimensions in units of `scale` [D + 1]; NaN where not valid."""
    error = (seen.predicted - seen.true[:, None])[..., :-1] / scale[:-1]
    return error.square().mean((1, 3)).sqrt().where(seen.valid, torch.nan)


def state_spread(seen: Forecast, scale: Tensor) -> Tensor:
    """[H, N]: standard deviation over copies, root mean square over dimensions, in the same units."""
    spread = (seen.predicted[..., :-1] / scale[:-1]).var(1, correction=0)
    return spread.mean(2).sqrt().where(seen.valid, torch.nan)


def still_error(seen: Forecast, scale: Tensor) -> Tensor:
    """[H, N]: the error of who says that nothing changes."""
    error = (seen.true[..., :-1] - seen.start) / scale[:-1]
    return error.square().mean(2).sqrt().where(seen.valid, torch.nan)


def typical(seen: Forecast, scale: Tensor) -> tuple[int, int]:
    """(start, steps): of the starts whose episodes go furthest, the one of median error at the last step."""
    reach = seen.valid.sum(0)
    steps = int(reach.max())
    furthest = (reach == steps).nonzero()[:, 0]
    error = state_error(seen, scale)[steps - 1, furthest]
    return int(furthest[error.argsort()[len(error) // 2]]), steps


def until_end(rows: Step) -> Tensor:
    """[T + 1, B]: steps from each row to the true end of its episode; inf where none was seen."""
    left = torch.where(rows.terminal, 0.0, torch.inf)
    for t in reversed(range(len(left) - 1)):
        ahead = (left[t + 1] + 1).where(~rows.first[t + 1], torch.inf)
        left[t] = torch.minimum(left[t], ahead)
    return left


def _features(model: WorldModel, states: Tree, t: Tensor, b: Tensor) -> Tensor:
    return model.features(tree_map_only(Tensor, lambda x: x[t, b], states))


def _stack(x: tuple[Tensor, ...]) -> Tensor:
    stacked = torch.stack(x).cpu()
    return stacked.float() if stacked.is_floating_point() else stacked
