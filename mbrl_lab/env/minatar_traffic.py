"""The rules of MinAtar's Asterix and Freeway, a player in traffic (Young & Tian 2019).

See `minatar_games` for the boards. Every random number is drawn from the generator that `reset` gets, in the order in
which the authors' program draws it, so that both can be compared step by step.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mbrl_lab.env.minatar_games import LEFT, RIGHT, SIDE, cell, moved
from mbrl_lab.env.minatar_movers import (
    DOWN,
    LAST,
    UP,
    Difficulty,
    Mover,
    board_of,
    entering,
    moved_vertically,
    trail_of,
)


class Asterix:
    """Enemies and gold cross eight rows; gold is worth 1 when touched, an enemy terminates the game.

    Something appears every 10 steps in a row without anything, gold with probability 1/3, and all things move every
    5 steps. Every 102 steps both become more frequent, the moves every other time only.
    """

    channels: ClassVar[tuple[str, ...]] = ("player", "enemy", "trail", "gold")
    layers: ClassVar[tuple[int, ...]] = (2, 3, 1, 0)
    minimal: ClassVar[tuple[int, ...]] = (0, LEFT, UP, RIGHT, DOWN)
    RAMP: ClassVar[int] = 100
    SPAWN: ClassVar[int] = 10
    MOVE: ClassVar[int] = 5

    def reset(self, random: np.random.Generator) -> None:
        self.random = random
        self.row = self.column = 5
        # A thing for each of the rows 1 to 8, and whether it is gold.
        self.things: list[tuple[Mover, bool] | None] = [None] * (SIDE - 2)
        self.difficulty = Difficulty(self.SPAWN, self.MOVE, least_move=1)
        self.spawn, self.pause, self.ramp = self.SPAWN, self.MOVE, self.RAMP

    def step(self, action: int) -> tuple[int, bool]:
        if not self.spawn:
            self._spawn()
            self.spawn = self.difficulty.spawn_every
        self.column = moved(self.column, action)
        self.row = moved_vertically(self.row, action, 1, LAST - 1)

        # The player's move, then that of the things: each may bring them together.
        reward, terminated = self._touch()
        if not self.pause:
            self.pause = self.difficulty.move_every
            self._advance()
            more, terminated_now = self._touch()
            reward, terminated = reward + more, terminated or terminated_now

        self.spawn -= 1
        self.pause -= 1
        if self.ramp >= 0:
            self.ramp -= 1
        else:
            self.difficulty.increase()
            self.ramp = self.RAMP
        return reward, terminated

    def _spawn(self) -> None:
        """An enemy or gold in a free row, if there is one."""
        right, gold = self.random.random() < 1 / 2, self.random.random() < 1 / 3
        free = [i for i, thing in enumerate(self.things) if thing is None]
        if free:
            i = free[int(self.random.integers(len(free)))]
            self.things[i] = entering(i + 1, right), gold

    def _advance(self) -> None:
        for i, thing in enumerate(self.things):
            if thing is not None:
                thing[0].advance()
                if thing[0].outside:
                    self.things[i] = None

    def _touch(self) -> tuple[int, bool]:
        """The reward for gold in the player's cell, and whether an enemy is there."""
        thing = self.things[self.row - 1]
        if thing is None or thing[0].column != self.column:
            return 0, False
        if not thing[1]:
            return 0, True
        self.things[self.row - 1] = None
        return 1, False

    def boards(self) -> tuple[int, ...]:
        there = [thing for thing in self.things if thing is not None]
        enemies, gold = ([mover for mover, is_gold in there if is_gold == which] for which in (False, True))
        player = cell(self.row, self.column)
        return player, board_of(enemies), trail_of(mover for mover, _ in there), board_of(gold)


class Freeway:
    """A chicken goes up through eight lanes of cars; each arrival at the top is worth 1.

    It moves at most every third step, and a car that hits it sends it back to the last row. A car moves every 2 to 6
    steps, and reappears at the other edge. Speeds and directions are drawn at the start and after each arrival. The
    game terminates after 2,501 steps.
    """

    channels: ClassVar[tuple[str, ...]] = ("chicken", "car", "speed 1", "speed 2", "speed 3", "speed 4", "speed 5")
    layers: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 1, 0)
    minimal: ClassVar[tuple[int, ...]] = (0, UP, DOWN)
    COLUMN: ClassVar[int] = 4
    REST: ClassVar[int] = 3
    LIMIT: ClassVar[int] = 2_500
    SLOWEST: ClassVar[int] = 5

    def reset(self, random: np.random.Generator) -> None:
        self.random = random
        self.cars = [Mover(0, row, False) for row in range(1, LAST)]
        self.slowness = [0] * len(self.cars)
        self._draw_speeds()
        self.row, self.rest, self.left = LAST, self.REST, self.LIMIT

    def step(self, action: int) -> tuple[int, bool]:
        if action in (UP, DOWN) and not self.rest:
            self.rest = self.REST
            self.row = moved_vertically(self.row, action, 0, LAST)
        reward = int(self.row == 0)
        if reward:
            self._draw_speeds()
            self.row = LAST

        # A car hits the chicken before or after its own move.
        for car, slowness in zip(self.cars, self.slowness, strict=True):
            self._hit(car)
            if car.pause:
                car.pause -= 1
                continue
            car.pause = slowness
            car.advance()
            car.column %= SIDE
            self._hit(car)

        self.rest -= self.rest > 0
        self.left -= 1
        return reward, self.left < 0

    def _draw_speeds(self) -> None:
        slowness = self.random.integers(1, self.SLOWEST + 1, len(self.cars)).tolist()
        right = (self.random.random(len(self.cars)) > 0.5).tolist()
        self.slowness = slowness
        for i, car in enumerate(self.cars):
            car.right, car.pause = right[i], slowness[i]

    def _hit(self, car: Mover) -> None:
        if car.at == (self.row, self.COLUMN):
            self.row = LAST

    def boards(self) -> tuple[int, ...]:
        trails = [0] * self.SLOWEST
        for car, slowness in zip(self.cars, self.slowness, strict=True):
            trails[slowness - 1] |= cell(car.row, (car.column - car.stride) % SIDE)
        return cell(self.row, self.COLUMN), board_of(self.cars), *trails
