"""MinAtar by its rules: games played by hand, sticky actions, and many games as one environment."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from counting import play
from gymnasium.utils.env_checker import check_env

from mbrl_lab.env import Envs, MinAtar, MinAtarVector
from mbrl_lab.env.minatar import COLOURS
from mbrl_lab.env.minatar_games import ACTIONS, Breakout, SpaceInvaders, cell
from mbrl_lab.types import Step

NOOP, LEFT, UP, RIGHT, DOWN, FIRE = range(6)
PLAIN: dict[str, Any] = {"sticky": 0.0, "minimal_actions": False, "max_steps": 0}
GAMES = ("asterix", "breakout", "freeway", "seaquest", "spaceinvaders")


class Side:
    """A generator that starts the ball on the given side."""

    def __init__(self, right: int) -> None:
        self.right = right

    def integers(self, high: int) -> int:
        assert high == 2
        return self.right


def breakout(right: int = 0) -> Breakout:
    game = Breakout()
    game.reset(Side(right))  # type: ignore[arg-type]
    return game


def invaders() -> SpaceInvaders:
    game = SpaceInvaders()
    game.reset(np.random.default_rng(0))
    return game


def where(board: int) -> list[tuple[int, int]]:
    """(row, column) of a board's cells."""
    return [(bit // 10, bit % 10) for bit in range(100) if board >> bit & 1]


def drop(board: int, row: int, column: int) -> int:
    return board & ~cell(row, column)


def test_a_ball_is_returned_breaks_a_brick_and_turns_at_it() -> None:
    game, path = breakout(), []
    for action in [RIGHT] + [NOOP] * 4:
        assert game.step(action) == (0, False)
        path.append((game.y, game.x))
    assert path == [(4, 1), (5, 2), (6, 3), (7, 4), (8, 5)] and game.paddle == 5
    assert game.step(NOOP) == (0, False)
    assert (game.y, game.x, game.dx, game.dy) == (8, 6, 1, -1), "met from above: only up and down are swapped"
    assert where(game.trail) == [(8, 5)]
    for row, column in [(7, 7), (6, 8), (5, 9)]:
        assert game.step(NOOP) == (0, False) and (game.y, game.x) == (row, column)
    assert game.step(NOOP) == (0, False) and (game.y, game.x, game.dx) == (4, 9, -1), "along the wall for a step"
    assert game.step(NOOP) == (1, False)
    assert (game.y, game.x, game.dy) == (4, 8, 1) and (3, 8) not in where(game.bricks)
    assert len(where(game.bricks)) == 29


def test_a_paddle_hit_from_the_side_sends_the_ball_back_whence_it_came() -> None:
    game = breakout(right=1)
    for action in [NOOP] * 4 + [LEFT]:
        game.step(action)
    assert (game.y, game.x, game.dx, game.paddle) == (8, 4, -1, 3)
    assert game.step(NOOP) == (0, False)
    assert (game.y, game.x, game.dx, game.dy) == (8, 3, 1, -1)


def test_a_ball_that_reaches_the_last_row_terminates_the_game() -> None:
    game = breakout()
    assert [game.step(LEFT) for _ in range(6)] == [(0, False)] * 5 + [(0, True)]
    assert game.paddle == 0 and (game.y, game.x) == (9, 6)


def test_a_ball_goes_through_the_brick_after_the_one_it_broke() -> None:
    game = breakout()
    game.y, game.x, game.dx, game.dy = 2, 5, 1, 1
    game.bricks = cell(3, 6) | cell(1, 7)
    assert game.step(NOOP) == (1, False) and (game.y, game.x, game.dy) == (2, 6, -1)
    assert game.step(NOOP) == (0, False) and (game.y, game.x, game.dy) == (1, 7, -1)
    assert where(game.bricks) == [(1, 7)]
    assert game.step(NOOP) == (0, False) and (game.y, game.x, game.dy) == (0, 8, -1)
    assert game.step(NOOP) == (0, False) and (game.y, game.x, game.dy) == (0, 9, 1), "turned at the top"


def test_new_bricks_come_when_all_are_gone_and_the_ball_comes_down() -> None:
    game = breakout()
    game.bricks = 0
    for _ in range(5):
        game.step(RIGHT)
        assert game.bricks == 0
    game.paddle = 5
    assert game.step(NOOP) == (0, False) and game.bricks == Breakout.WALL


def test_a_shot_takes_six_steps_and_the_cannon_reloads_for_five() -> None:
    game = invaders()
    assert len(where(game.aliens)) == 24 and where(game.aliens)[0] == (0, 2) and where(game.aliens)[-1] == (3, 7)
    assert game.step(FIRE) == (0, False) and where(game.bullets) == [(8, 5)]
    for row in (7, 6, 5, 4):
        assert game.step(FIRE) == (0, False) and where(game.bullets) == [(row, 5)]
    assert game.step(FIRE) == (1, False), "hit at (3, 5), and the next one is fired in this step"
    assert where(game.bullets) == [(8, 5)] and (3, 5) not in where(game.aliens)


def test_aliens_shoot_from_the_nearest_column_and_a_bomb_terminates_the_game() -> None:
    game = invaders()
    for _ in range(10):
        assert game.step(NOOP) == (0, False) and game.bombs == 0
    game.step(NOOP)
    assert where(game.bombs) == [(3, 5)], "the 11th step"
    for row in range(4, 9):
        assert game.step(NOOP) == (0, False) and where(game.bombs) == [(row, 5)]
    assert game.step(NOOP) == (0, True)


def test_of_two_columns_equally_near_the_left_one_shoots() -> None:
    game = invaders()
    game.aliens, game.volley = cell(2, 4) | cell(0, 6) | cell(1, 4), 0
    game.step(NOOP)
    assert where(game.bombs) == [(2, 4)]


def test_aliens_march_to_the_wall_and_come_down() -> None:
    game, moves = invaders(), []
    game.volley = 10**6
    for step in range(1, 53):
        before = game.aliens
        game.step(NOOP)
        if game.aliens != before:
            moves.append((step, where(game.aliens)[0], game.heading))
    assert moves == [(13, (0, 1), -1), (25, (0, 0), -1), (37, (1, 0), 1), (49, (1, 1), 1)]


def test_few_aliens_are_fast_and_each_wave_is_faster() -> None:
    game = invaders()
    game.aliens, game.pause, game.volley = cell(0, 5), 0, 10**6
    game.step(NOOP)
    assert where(game.aliens) == [(0, 4)]
    game.step(NOOP)
    assert where(game.aliens) == [(0, 3)], "one alone moves with every step"
    for wave, march in enumerate([11, 10, 9, 8, 7, 6, 6, 6]):
        game.aliens, game.bullets, game.pause = cell(2, 9), cell(3, 9), 5
        assert game.step(NOOP) == (1, False)
        assert (game.march, game.aliens) == (march, SpaceInvaders.WAVE), wave


def test_aliens_that_land_or_touch_the_cannon_terminate_the_game() -> None:
    game = invaders()
    game.aliens, game.heading, game.pause, game.volley = cell(9, 0), -1, 0, 10**6
    assert game.step(NOOP) == (0, True), "it would have to leave the last row"
    game = invaders()
    game.aliens, game.heading, game.pause, game.volley = cell(9, 4), 1, 0, 10**6
    assert game.step(NOOP) == (0, True), "it walked into the cannon"
    game = invaders()
    game.aliens, game.pause, game.volley = cell(9, 4), 5, 10**6
    assert game.step(LEFT) == (0, True), "the cannon walked into it"


@pytest.mark.parametrize("game", GAMES)
def test_observations_show_the_boards(game: str) -> None:
    env = MinAtar(game, **PLAIN)
    env.reset(seed=3)
    for _ in range(5):
        obs = env.step(env.action_space.sample())[0]
        boards = env.session.game.boards()
        assert obs.dtype == np.uint8 and obs.shape == (len(boards), 10, 10)
        assert [[tuple(x) for x in np.argwhere(plane)] for plane in obs] == [where(b) for b in boards]


def test_the_aliens_channels_say_where_they_go() -> None:
    game = invaders()
    assert game.boards()[1:4] == (game.aliens, game.aliens, 0)
    game.heading = 1
    assert game.boards()[1:4] == (game.aliens, 0, game.aliens)


def test_a_start_is_on_either_side() -> None:
    env = MinAtar("breakout", **PLAIN)
    starts = {tuple(np.argwhere(env.reset(seed=seed)[0][1])[0]) for seed in range(20)}
    assert starts == {(3, 0), (3, 9)}


def test_sticky_actions_repeat_the_one_before_and_a_reset_forgets_it() -> None:
    def stuck(sticky: float) -> list[int]:
        env = MinAtar("breakout", **PLAIN | {"sticky": sticky})
        taken = []
        for seed in range(300):
            env.reset(seed=seed)
            for action in (RIGHT, LEFT, FIRE):
                env.step(action)
                taken.append(env.session.last)
        return taken

    assert stuck(0.0) == [RIGHT, LEFT, FIRE] * 300
    assert stuck(1.0) == [NOOP] * 900
    kept = sum(a != b for a, b in zip(stuck(0.1), [RIGHT, LEFT, FIRE] * 300, strict=True))
    assert 60 < kept < 120, "a tenth of 900; 90 and 9 about it"


@pytest.mark.parametrize(
    ("game", "meanings"),
    [
        ("asterix", "noop left up right down"),
        ("breakout", "noop left right"),
        ("freeway", "noop up down"),
        ("seaquest", "noop left up right down fire"),
        ("spaceinvaders", "noop left right fire"),
    ],
)
def test_only_actions_that_do_something(game: str, meanings: str) -> None:
    env = MinAtar(game, **PLAIN | {"minimal_actions": True})
    assert env.action_meanings == meanings.split() and env.action_space.n == len(env.action_meanings)
    env.reset(seed=0)
    env.step(2)
    assert ACTIONS[env.session.last] == env.action_meanings[2]


def test_a_time_limit_is_not_terminal_and_bootstraps() -> None:
    env = MinAtar("spaceinvaders", **PLAIN | {"max_steps": 3})
    env.reset(seed=0)
    assert [env.step(NOOP)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    env = MinAtar("breakout", **PLAIN | {"max_steps": 6})
    env.reset(seed=0)
    assert [env.step(LEFT)[2:4] for _ in range(6)][-1] == (True, False), "lost at the last step that it had"


def test_an_episode_is_a_function_of_its_seed_and_actions() -> None:
    actions = np.random.default_rng(0).integers(6, size=60)

    def played(before: int) -> list[Any]:
        env = MinAtar("spaceinvaders", sticky=0.3, minimal_actions=False, max_steps=0)
        for seed in range(before):
            env.reset(seed=seed)
            env.step(FIRE)
        out: list[Any] = [env.reset(seed=9)[0].tolist()]
        return out + [(o.tolist(), *rest) for o, *rest in map(env.step, actions[:30])]

    assert played(0) == played(3)


@pytest.mark.parametrize("game", GAMES)
def test_gymnasium_finds_no_fault(game: str) -> None:
    check_env(MinAtar(game, 0.1, False, 100, render_mode="rgb_array"), skip_render_check=True)


def test_a_picture_has_a_colour_for_each_thing() -> None:
    env = MinAtar("breakout", **PLAIN, render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    ball = int(np.argwhere(obs[1])[0][1])
    picture = env.render()
    assert picture.shape == (320, 320, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4, "nothing, paddle, ball over trail over bricks, bricks"
    assert (picture[3 * 32, ball * 32] == COLOURS[1]).all() and (picture[3 * 32, 5 * 32] == COLOURS[3]).all()
    assert env.metadata["render_fps"] == 15


def both(game: str, num: int, **settings: Any) -> tuple[Envs, Envs]:
    """Games apart and together."""
    known = {"game": game, "sticky": 0.25, "minimal_actions": False, "max_steps": 40} | settings
    make = partial(MinAtar, **known)
    return Envs(make, num, seed=5), Envs(make, num, seed=5, make_vector=partial(MinAtarVector, **known))


def equal(a: Step, b: Step) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("game", GAMES)
def test_many_in_one_play_as_each_alone(game: str) -> None:
    apart, together = both(game, 3)
    rows, actions = play(apart, 200)
    kept = [together.reset(), *(together.step(a) for a in actions)]
    assert all(equal(a, b) for a, b in zip(rows, kept, strict=True)), "and no row was written over"
    separate, same = ([(e.env, e.index, e.seed, e.ret, e.length) for e in x.finished()] for x in (apart, together))
    assert separate == same and len(separate) > 10
    assert apart.spec == together.spec


@pytest.mark.parametrize("game", GAMES)
def test_many_in_one_resume_exactly(game: str) -> None:
    for stop in (0, 7, 40, 41, 42, 90):
        one, other = both(game, 3)[1], both(game, 3)[1]
        play(one, stop)
        other.load_state_dict(one.state_dict())
        for _ in range(60):
            action = one.spec.sample(3)
            assert equal(one.step(action), other.step(action))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"game": "pong"},
            "env.make.game is 'pong'; it must be asterix | breakout | freeway | seaquest | spaceinvaders",
        ),
        ({"sticky": 1.5}, "env.make.sticky is 1.5; it must be from 0 to 1"),
        ({"minimal_actions": "no"}, "env.make.minimal_actions is 'no'; it must be true | false"),
        ({"max_steps": -1}, "env.make.max_steps is -1; it must be a whole number from 0"),
    ],
)
def test_what_cannot_be(wrong: dict[str, Any], said: str) -> None:
    known = {"game": "breakout", "sticky": 0.1, "minimal_actions": False, "max_steps": 0} | wrong
    for make in (MinAtar, partial(MinAtarVector, 2)):
        with pytest.raises(ValueError, match=said.replace("|", r"\|")):
            make(**known)
