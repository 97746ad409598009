"""MinAtar's Asterix, Freeway and Seaquest: step by step beside the authors' program, and rules played by hand."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from mbrl_lab.env.minatar_games import Game, SpaceInvaders, cell
from mbrl_lab.env.minatar_movers import Mover
from mbrl_lab.env.minatar_seaquest import Seaquest
from mbrl_lab.env.minatar_traffic import Asterix, Freeway

NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
GAMES: dict[str, type[Game]] = {
    "asterix": Asterix,
    "freeway": Freeway,
    "seaquest": Seaquest,
    "space_invaders": SpaceInvaders,
}


class Draws:
    """The interface of NumPy's older generator, on the newer one that our games get."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)

    def rand(self, *size: int) -> Any:
        return self.generator.random(*size)

    def randint(self, low: int, high: int | None = None, size: int | None = None) -> Any:
        return self.generator.integers(low, high, size)


def beside(name: str, seed: int) -> tuple[Any, Game]:
    """A game of the authors' program and one of ours, with the same random numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "seaborn", None)  # only draws, and takes seconds to import
        theirs = import_module(f"minatar.environments.{name}").Env()
    theirs.random = Draws(seed)
    theirs.reset()
    ours = GAMES[name]()
    ours.reset(np.random.default_rng(seed))
    return theirs, ours


def planes(game: Game) -> Any:
    cells = [[board >> i & 1 for i in range(100)] for board in game.boards()]
    return np.array(cells, bool).reshape(-1, 10, 10).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("name", "games", "steps"), [("asterix", 6, 600), ("freeway", 1, 2_600), ("seaquest", 12, 300)]
)
def test_every_step_is_that_of_the_authors_program(name: str, games: int, steps: int) -> None:
    """In every other game nobody dies, so that it lasts until things are as quick as they get."""
    played = rewards = 0
    for seed in range(games):
        theirs, ours = beside(name, seed)
        # Policies that repeat themselves, and each prefers other actions, reach other places than a uniform one.
        choices = np.random.default_rng(seed)
        weights = (np.full(6, 0.1) + 0.4 * (np.arange(6) == UP)) if name == "freeway" else choices.dirichlet(np.ones(6))
        for action in choices.choice(6, p=weights, size=steps // 2).repeat(2).tolist():
            assert np.array_equal(planes(ours), theirs.state())
            reward, terminated = theirs.act(action)
            assert ours.step(action) == (reward, terminated)
            played, rewards = played + 1, rewards + reward
            if terminated and (name == "freeway" or seed % 2 == 0):
                break
            theirs.terminal = False
    assert played > 1_000 and rewards > 0


@pytest.mark.parametrize("divers", [0, 1, 3, 6])
def test_surfacing_is_that_of_the_authors_program(divers: int) -> None:
    theirs, ours = beside("seaquest", 3)
    assert isinstance(ours, Seaquest)
    for step in range(60):
        # Down, some time there, up; twice, so that the submarine surfaces again with what the first time left.
        action = DOWN if step % 30 < 5 else UP if step % 30 > 20 else NOOP
        if step == 15:
            theirs.diver_count = ours.saved = divers
        reward, terminated = theirs.act(action)
        assert ours.step(action) == (reward, terminated)
        assert np.array_equal(planes(ours), theirs.state())
        if terminated:
            break
    assert (ours.saved, ours.oxygen) == (theirs.diver_count, theirs.oxygen)


def game_of(kind: type[Any]) -> Any:
    game = kind()
    game.reset(np.random.default_rng(0))
    return game


def test_asterix_touches_gold_and_dies_of_an_enemy() -> None:
    game = game_of(Asterix)
    game.things[4] = Mover(4, 5, False), True
    assert game.step(LEFT) == (1, False) and game.things[4] is None
    game.things[4] = Mover(5, 5, False), False
    game.pause = 0
    assert game.step(NOOP) == (0, True), "it comes to the player"


def test_freeway_rewards_an_arrival_and_a_car_sends_back() -> None:
    game = game_of(Freeway)
    game.cars = []
    game.slowness = []
    game.row, game.rest = 1, 0
    game._draw_speeds = lambda: None
    assert game.step(UP) == (1, False) and game.row == 9
    game.row, game.rest, game.cars, game.slowness = 5, 0, [Mover(3, 4, True)], [2]
    assert game.step(UP) == (0, False) and game.row == 9, "it meets the car that comes from the left"


def test_seaquest_shoots_a_fish_and_shows_its_gauges() -> None:
    game = game_of(Seaquest)
    game.row, game.saved, game.oxygen = 4, 2, 100
    game.fish = [Mover(3, 4, True, pause=5)]
    assert game.step(FIRE) == (0, False), "the bullet is at 4, the fish at 3"
    assert game.step(NOOP) == (1, False) and not game.fish and not game.bullets
    oxygen, divers = game.boards()[7:9]
    assert oxygen == sum(cell(9, i) for i in range(4)), "98 of 200"
    assert divers == cell(9, 8) | cell(9, 7)
