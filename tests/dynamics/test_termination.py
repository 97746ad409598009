"""Where episodes end: bounds from single ends, honest probabilities for the rest, a hazard beyond what was seen."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from mbrl_lab.dynamics import TerminationModel
from mbrl_lab.types import Transition

MEMBERS = 3
ALL = torch.arange(MEMBERS)


def ends(dim: int = 2, bounds: bool = True, hazard: float = 0.0) -> TerminationModel:
    torch.manual_seed(0)
    return TerminationModel(MEMBERS, dim, bounds=bounds, hazard=hazard)


def going_on(model: TerminationModel, *points: list[float], start: tuple[float, float] = (0.0, 0.0)) -> list[float]:
    """The chance that an episode goes on when a step leads from `start` to each point, the first classifier's too."""
    x = torch.tensor(points)
    chance = model.within_bounds(torch.tensor([start[: x.shape[1]]]).expand_as(x), x)
    if (net := model.freeze(ALL)).layers:
        chance = chance * model.classify(net, x.expand(MEMBERS, -1, -1))[0]
    return chance.tolist()


def rows(*points: tuple[list[float], bool]) -> tuple[Tensor, Tensor]:
    return torch.tensor([p for p, _ in points]), torch.tensor([end for _, end in points])


SQUARE = [([-1.0, -1.0], False), ([1.0, 1.0], False), ([0.5, -0.5], False)]


def test_one_termination_beyond_one_coordinate_bounds_it_whatever_the_others() -> None:
    model = ends()
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True)))
    assert going_on(model, [1.1, 0.3], [1.1, -0.9], [0.9, 0.3], [-1.1, 0.3], [0.3, 1.1]) == [0, 0, 1, 1, 1]
    assert model.freeze(ALL).layers == [], "bounds explain every end: nothing is left for a network"


def test_a_termination_beyond_two_coordinates_bounds_neither() -> None:
    model = ends()
    model.observe(*rows(*SQUARE, ([1.2, 1.3], True)))
    assert not model.bound.isfinite().any() and model.unexplained
    model.observe(*rows(*SQUARE, ([1.2, 1.3], True), ([1.3, 0.0], True)))
    assert going_on(model, [1.1, 0.0], [0.0, 1.1]) == [0, 1], "another end settles it"
    assert not model.unexplained


def test_a_bound_yields_where_an_episode_goes_on_beyond_it() -> None:
    model = ends()
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True)))
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True), ([1.5, 0.0], False)))
    assert not model.bound.isfinite().any() and model.unexplained


def test_without_bounds_terminations_are_left_to_the_classifiers() -> None:
    model = ends(bounds=False)
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True)))
    assert not model.bound.isfinite().any() and model.unexplained and len(model.freeze(ALL).layers) == 3


def test_the_hazard_grows_with_the_way_out_of_what_was_seen() -> None:
    model = ends(hazard=0.5)
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True)))
    across, up = model.inputs.scale.tolist()
    here, left, corner = going_on(model, [0.0, 0.0], [-1.5, 0.0], [-1.5, -2.0])
    assert here == 1
    assert left == pytest.approx(math.exp(-0.5 * 0.5 / across))
    assert corner == pytest.approx(math.exp(-0.5 * (0.5 / across + 1.0 / up)))
    assert going_on(model, [1.1, 0.0]) == [0], "a known bound is no hazard, it is the end"


def test_out_there_staying_and_turning_back_are_free() -> None:
    model = ends(hazard=0.5)
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True)))
    further, same, back = going_on(model, [-4.0, 0.0], [-3.0, 0.0], [-2.5, 0.0], start=(-3.0, 0.0))
    assert further == pytest.approx(math.exp(-0.5 * 1.0 / model.inputs.scale[0].item()))
    assert same == back == 1


def test_before_anything_was_seen_episodes_go_on() -> None:
    model = ends(hazard=0.25)
    assert going_on(model, [100.0, -100.0]) == [1]
    model.observe(*rows(*SQUARE))
    assert not model.observed and going_on(model, [0.0, 0.0]) == [1]


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_odds_are_those_of_the_data_not_of_the_balanced_batches(share: float) -> None:
    """Ends are drawn by chance for x > 0 and never elsewhere; half of every batch are ends."""
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1))
    terminal = (x[:, 0] > 0) & (torch.rand(len(x), generator=torch.Generator().manual_seed(2)) < share)
    model = ends(dim=1, bounds=False)
    model.observe(x, terminal)
    over = terminal.nonzero().flatten()
    for _ in range(300):
        pick = torch.randint(len(x), (MEMBERS, 256))
        pick[:, :128] = over[torch.randint(len(over), (MEMBERS, 128))]
        model.update(batch(x[pick], terminal[pick]))
    likely, never = going_on(model, [1.0], [-1.0])
    assert 1 - likely == pytest.approx(share, rel=0.3)
    assert never > 0.995


def test_the_network_is_not_taught_what_a_bound_explains() -> None:
    model = ends()
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True), ([0.0, 0.0], True)))
    inside = torch.zeros(MEMBERS, 1, 2)
    beyond = torch.tensor([1.3, 0.1]).expand(MEMBERS, 1, 2)
    alone = model.loss(batch(inside, torch.ones(MEMBERS, 1, dtype=torch.bool)))
    both = model.loss(batch(torch.cat([inside, beyond], 1), torch.ones(MEMBERS, 2, dtype=torch.bool)))
    torch.testing.assert_close(alone, both)
    assert (alone > 0).all()


def test_it_is_restored_with_its_bounds() -> None:
    model = ends(hazard=0.25)
    model.observe(*rows(*SQUARE, ([1.2, 0.3], True)))
    other = ends(hazard=0.25)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    points = ([1.1, 0.0], [-1.1, 0.0], [0.0, 0.0])
    assert going_on(other, *points) == going_on(model, *points)
    assert math.isclose(other.prior.item(), math.log(1 + 4 / 1), rel_tol=1e-6)


def batch(x: Tensor, terminal: Tensor) -> Transition:
    """Transitions of which only where they lead and whether they end counts."""
    nothing = torch.zeros(x.shape[:2])
    return Transition(x, nothing, nothing, x, terminal, torch.ones_like(terminal))
