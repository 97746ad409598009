"""The rules of MinAtar's Asterix, Freeway and Seaquest, in which things appear at random (Young & Tian 2019).

See `minatar_games` for the boards. Every random number is drawn from the generator that `reset` gets, in the order in
which the authors' program draws it, so that both can be compared step by step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mbrl_lab.env.minatar_games import ACTIONS, FIRE, LEFT, RIGHT, SIDE, cell, moved

LAST = SIDE - 1
UP, DOWN = ACTIONS.index("up"), ACTIONS.index("down")


@dataclass(slots=True)
class Mover:
    """Something that crosses a row, a cell at a time."""

    column: int
    row: int
    right: bool
    pause: int = 0
    """Steps until it moves."""
    reload: int = 0
    """Steps until it shoots."""

    @property
    def at(self) -> tuple[int, int]:
        return self.row, self.column

    @property
    def outside(self) -> bool:
        return not 0 <= self.column <= LAST

    def advance(self) -> None:
        self.column += 1 if self.right else -1

    def behind(self) -> int:
        """The board of the cell that it comes from; empty beyond the edge."""
        column = self.column - 1 if self.right else self.column + 1
        return cell(self.row, column) if 0 <= column <= LAST else 0


def entering(row: int, right: bool, pause: int = 0, reload: int = 0) -> Mover:
    """In its row, at the edge that it comes from."""
    return Mover(0 if right else LAST, row, right, pause, reload)


def board_of(movers: Iterable[Mover]) -> int:
    board = 0
    for mover in movers:
        board |= cell(mover.row, mover.column)
    return board


def trail_of(movers: Iterable[Mover]) -> int:
    board = 0
    for mover in movers:
        board |= mover.behind()
    return board


def climbed(row: int, action: int, top: int, bottom: int) -> int:
    """The player's row after an action: a step up or down, between the two rows."""
    if action == UP:
        return max(row - 1, top)
    return min(row + 1, bottom) if action == DOWN else row


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
        self.spawn_every, self.move_every = self.SPAWN, self.MOVE
        self.spawn, self.pause, self.ramp, self.level = self.SPAWN, self.MOVE, self.RAMP, 0

    def step(self, action: int) -> tuple[int, bool]:
        if not self.spawn:
            self._spawn()
            self.spawn = self.spawn_every
        self.column = moved(self.column, action)
        self.row = climbed(self.row, action, 1, LAST - 1)

        # The player's move, then that of the things: each may bring them together.
        reward, terminated = self._touch()
        if not self.pause:
            self.pause = self.move_every
            self._advance()
            more, terminated_now = self._touch()
            reward, terminated = reward + more, terminated or terminated_now

        self.spawn -= 1
        self.pause -= 1
        self._harder()
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

    def _harder(self) -> None:
        if self.spawn_every == self.move_every == 1:
            return
        if self.ramp >= 0:
            self.ramp -= 1
            return
        if self.level % 2:
            self.move_every = max(self.move_every - 1, 1)
        self.spawn_every = max(self.spawn_every - 1, 1)
        self.level += 1
        self.ramp = self.RAMP

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
            self.row = climbed(self.row, action, 0, LAST)
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
            trails[slowness - 1] |= cell(car.row, (car.column - 1 if car.right else car.column + 1) % SIDE)
        return cell(self.row, self.COLUMN), board_of(self.cars), *trails


class Seaquest:
    """A submarine shoots fish and enemy submarines, worth 1 each, picks up divers, and must surface for oxygen.

    Enemies appear every 20 steps at first, divers every 30. Each surfacing costs a diver and fills the oxygen; with six
    divers it takes all of them and is worth what is left of the oxygen, up to 10. After each, enemies become more
    frequent, and every other time quicker. The game terminates when an enemy or its bullet meets the submarine, when
    there is no oxygen, or when it surfaces without divers.

    Six divers leave minus one behind, as in the authors' program: the next diver then only makes it none.
    """

    channels: ClassVar[tuple[str, ...]] = (
        *("front", "back", "bullet", "trail", "enemy bullet", "fish", "enemy submarine"),
        *("oxygen gauge", "diver gauge", "diver"),
    )
    layers: ClassVar[tuple[int, ...]] = (3, 7, 8, 9, 5, 6, 2, 4, 1, 0)
    minimal: ClassVar[tuple[int, ...]] = tuple(range(len(ACTIONS)))
    OXYGEN: ClassVar[int] = 200
    DIVERS: ClassVar[int] = 6
    SPAWN: ClassVar[int] = 20
    DIVER_SPAWN: ClassVar[int] = 30
    MOVE: ClassVar[int] = 5
    FASTEST: ClassVar[int] = 2
    RELOAD: ClassVar[int] = 5
    ENEMY_RELOAD: ClassVar[int] = 10

    def reset(self, random: np.random.Generator) -> None:
        self.random = random
        self.row, self.column, self.right = 0, 5, False
        self.oxygen, self.saved, self.surfaced = self.OXYGEN, 0, True
        self.bullets: list[Mover] = []
        self.bombs: list[Mover] = []
        self.fish: list[Mover] = []
        self.subs: list[Mover] = []
        self.divers: list[Mover] = []
        self.spawn_every, self.move_every, self.level = self.SPAWN, self.MOVE, 0
        self.spawn, self.diver_spawn, self.reload = self.SPAWN, self.DIVER_SPAWN, 0

    def step(self, action: int) -> tuple[int, bool]:
        if not self.spawn:
            self._spawn_enemy()
            self.spawn = self.spawn_every
        if not self.diver_spawn:
            right, row = self._entrance()
            self.divers.append(entering(row, right, self.MOVE))
            self.diver_spawn = self.DIVER_SPAWN
        self._act(action)

        # The authors' order: the newest of each kind moves first.
        self.terminated = False
        reward = self._move_bullets()
        self._move_divers()
        reward += self._move_enemies(self.subs)
        self._move_bombs()
        reward += self._move_enemies(self.fish)

        self.spawn -= self.spawn > 0
        self.diver_spawn -= self.diver_spawn > 0
        self.reload -= self.reload > 0
        return reward + self._breathe(), self.terminated

    def _act(self, action: int) -> None:
        if action == FIRE:
            if not self.reload:
                self.bullets.append(Mover(self.column, self.row, self.right))
                self.reload = self.RELOAD
            return
        self.column = moved(self.column, action)
        self.row = climbed(self.row, action, 0, LAST - 1)
        if action in (LEFT, RIGHT):
            self.right = action == RIGHT

    def _entrance(self) -> tuple[bool, int]:
        """A direction and a row, drawn at random."""
        return self.random.random() < 1 / 2, int(self.random.integers(1, LAST))

    def _spawn_enemy(self) -> None:
        """A fish, or with probability 1/3 a submarine, unless something comes towards it in its row."""
        right, is_sub = self.random.random() < 1 / 2, self.random.random() < 1 / 3
        row = int(self.random.integers(1, LAST))
        if any(enemy.row == row and enemy.right != right for enemy in (*self.subs, *self.fish)):
            return
        kind = self.subs if is_sub else self.fish
        kind.append(entering(row, right, self.move_every, self.ENEMY_RELOAD))

    def _move_bullets(self) -> int:
        """The submarine's bullets; the number of enemies that they met."""
        hits = 0
        for bullet in reversed(self.bullets.copy()):
            bullet.advance()
            if bullet.outside:
                drop(self.bullets, bullet)
                continue
            for kind in (self.fish, self.subs):
                enemy = first_at(kind, bullet.at)
                if enemy is not None:
                    drop(kind, enemy)
                    drop(self.bullets, bullet)
                    hits += 1
                    break
        return hits

    def _move_divers(self) -> None:
        for diver in reversed(self.divers.copy()):
            if self._picked_up(diver):
                continue
            if diver.pause:
                diver.pause -= 1
                continue
            diver.pause = self.MOVE
            diver.advance()
            if diver.outside:
                drop(self.divers, diver)
            else:
                self._picked_up(diver)

    def _picked_up(self, diver: Mover) -> bool:
        if diver.at != (self.row, self.column) or self.saved >= self.DIVERS:
            return False
        drop(self.divers, diver)
        self.saved += 1
        return True

    def _move_enemies(self, enemies: list[Mover]) -> int:
        """Fish or submarines; the number of them that swam into a bullet. Submarines shoot, even those just hit."""
        hits = 0
        for enemy in reversed(enemies.copy()):
            self._meet(enemy)
            if enemy.pause:
                enemy.pause -= 1
            else:
                enemy.pause = self.move_every
                enemy.advance()
                self._meet(enemy)
                bullet = None if enemy.at == (self.row, self.column) else first_at(self.bullets, enemy.at)
                if enemy.outside or bullet is not None:
                    drop(enemies, enemy)
                if bullet is not None:
                    drop(self.bullets, bullet)
                    hits += 1
            if enemies is self.subs:
                self._shoot(enemy)
        return hits

    def _shoot(self, sub: Mover) -> None:
        if sub.reload:
            sub.reload -= 1
        else:
            sub.reload = self.ENEMY_RELOAD
            self.bombs.append(Mover(sub.column, sub.row, sub.right))

    def _move_bombs(self) -> None:
        for bomb in reversed(self.bombs.copy()):
            self._meet(bomb)
            bomb.advance()
            if bomb.outside:
                drop(self.bombs, bomb)
            self._meet(bomb)

    def _meet(self, mover: Mover) -> None:
        self.terminated |= mover.at == (self.row, self.column)

    def _breathe(self) -> int:
        """Oxygen falls below the surface; the reward of a step that reaches it."""
        self.terminated |= self.oxygen <= 0
        if self.row:
            self.oxygen -= 1
            self.surfaced = False
            return 0
        if self.surfaced:
            return 0
        if not self.saved:
            self.terminated = True
            return 0

        self.surfaced = True
        reward = 0
        if self.saved == self.DIVERS:
            self.saved = 0
            reward = self.oxygen * 10 // self.OXYGEN
        self.oxygen = self.OXYGEN
        self.saved -= 1
        self._harder()
        return reward

    def _harder(self) -> None:
        if self.spawn_every == 1 and self.move_every == self.FASTEST:
            return
        if self.level % 2:
            self.move_every = max(self.move_every - 1, self.FASTEST)
        self.spawn_every = max(self.spawn_every - 1, 1)
        self.level += 1

    def boards(self) -> tuple[int, ...]:
        back = self.column - 1 if self.right else self.column + 1
        gauge = max(self.oxygen, 0) * 10 // self.OXYGEN
        return (
            cell(self.row, self.column),
            cell(self.row, back),
            board_of(self.bullets),
            trail_of((*self.fish, *self.subs, *self.divers)),
            board_of(self.bombs),
            board_of(self.fish),
            board_of(self.subs),
            sum(cell(LAST, column) for column in range(gauge)),
            sum(cell(LAST, LAST - 1 - i) for i in range(self.saved)),
            board_of(self.divers),
        )


def first_at(movers: list[Mover], at: tuple[int, int]) -> Mover | None:
    return next((mover for mover in movers if mover.at == at), None)


def drop(movers: list[Mover], gone: Mover) -> None:
    """Remove it, and not another one that is equal."""
    movers[:] = [mover for mover in movers if mover is not gone]
