"""The rules of MinAtar's Breakout and Space Invaders (Young & Tian 2019), on boards that are integers.

Bit 10 * row + column of an integer is the cell in that row from the top and that column from the left, so a shift by 10
moves a whole board by a row. Only the start of these games is random; it is drawn from the generator that `reset` gets.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

SIDE = 10
ACTIONS = ("noop", "left", "up", "right", "down", "fire")
_, LEFT, _, RIGHT, _, FIRE = range(len(ACTIONS))
FULL = (1 << SIDE * SIDE) - 1
COLUMN = [sum(1 << SIDE * row + column for row in range(SIDE)) for column in range(SIDE)]
BOTTOM = FULL ^ FULL >> SIDE


class Game(Protocol):
    """The rules of a game: `reset`, then `step` until it terminates."""

    channels: ClassVar[tuple[str, ...]]
    layers: ClassVar[tuple[int, ...]]  # channels in the order in which they are painted, the last one on top
    minimal: ClassVar[tuple[int, ...]]  # those of ACTIONS that have an effect

    def reset(self, random: np.random.Generator) -> None: ...

    def step(self, action: int) -> tuple[int, bool]:
        """One of ACTIONS -> (reward, terminated)."""

    def boards(self) -> tuple[int, ...]:
        """The observation: one board for each channel."""


def cell(row: int, column: int) -> int:
    return 1 << SIDE * row + column


def moved(column: int, action: int) -> int:
    """The player's column after an action: a step aside, within the board."""
    if action == LEFT:
        return max(column - 1, 0)
    return min(column + 1, SIDE - 1) if action == RIGHT else column


class Breakout:
    """A ball that goes diagonally, a paddle of one cell in the last row, and three rows of bricks, each worth 1.

    The ball comes from the left or the right wall in row 3. It turns at walls, at bricks and at the paddle; a paddle
    that is hit from the side returns it in the direction it came from. A ball that meets a brick right after breaking
    one passes through without breaking it. New bricks appear when all are gone and the ball is about to reach the last
    row; the game terminates when the ball reaches it.
    """

    channels: ClassVar[tuple[str, ...]] = ("paddle", "ball", "trail", "brick")
    layers: ClassVar[tuple[int, ...]] = (3, 2, 1, 0)
    minimal: ClassVar[tuple[int, ...]] = (0, LEFT, RIGHT)
    WALL: ClassVar[int] = sum(cell(row, column) for row in (1, 2, 3) for column in range(SIDE))

    def reset(self, random: np.random.Generator) -> None:
        right = int(random.integers(2))
        self.x, self.y, self.dx, self.dy = (SIDE - 1) * right, 3, 1 - 2 * right, 1
        self.trail = cell(self.y, self.x)
        self.paddle, self.bricks, self.struck = 4, self.WALL, False

    def step(self, action: int) -> tuple[int, bool]:
        self.paddle = moved(self.paddle, action)
        self.trail = cell(self.y, self.x)

        # The walls turn the ball.
        if not 0 <= self.x + self.dx < SIDE:
            x, self.dx = self.x, -self.dx
        else:
            x = self.x + self.dx
        y = self.y + self.dy

        # Then the ceiling, a brick or the paddle.
        reward, terminated, struck = 0, False, False
        if y < 0:
            y, self.dy = 0, 1
        elif self.bricks & cell(y, x):
            struck = True
            if not self.struck:
                self.bricks ^= cell(y, x)
                reward, y, self.dy = 1, self.y, -self.dy
        elif y == SIDE - 1:
            y, terminated = self._arrive(x)

        self.x, self.y, self.struck = x, y, struck
        return reward, terminated

    def _arrive(self, x: int) -> tuple[int, bool]:
        """The ball's row, and whether it was lost, when it reaches the last row in column `x`."""
        self.bricks = self.bricks or self.WALL
        if self.paddle not in (self.x, x):
            return SIDE - 1, True
        if self.paddle != self.x:
            self.dx = -self.dx
        self.dy = -1
        return self.y, False

    def boards(self) -> tuple[int, ...]:
        return cell(SIDE - 1, self.paddle), cell(self.y, self.x), self.trail, self.bricks


class SpaceInvaders:
    """A cannon in the last row against 24 aliens, each worth 1, that march, come down at the walls, and shoot.

    The aliens move every 12 steps, or, with n < 12 aliens left, every n steps; after each wave the 12 is reduced by
    one, down to 6. Every 10 steps the alien nearest to the cannon's column shoots; the cannon can shoot every 5. The
    game terminates when an alien or its bullet meets the cannon, or an alien has to leave the last row.
    """

    channels: ClassVar[tuple[str, ...]] = ("cannon", "alien", "left", "right", "bullet", "alien bullet")
    layers: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 0)
    minimal: ClassVar[tuple[int, ...]] = (0, LEFT, RIGHT, FIRE)
    WAVE: ClassVar[int] = sum(cell(row, column) for row in range(4) for column in range(2, 8))
    RELOAD: ClassVar[int] = 5
    VOLLEY: ClassVar[int] = 10
    SLOWEST: ClassVar[int] = 12
    FASTEST: ClassVar[int] = 6
    NEAREST: ClassVar[list[list[int]]] = [sorted(range(SIDE), key=lambda x: abs(x - at)) for at in range(SIDE)]

    def reset(self, random: np.random.Generator) -> None:
        self.cannon, self.aliens, self.heading = 5, self.WAVE, -1
        self.bullets = self.bombs = 0
        self.reload, self.volley, self.pause, self.march = 0, self.VOLLEY, self.SLOWEST, self.SLOWEST

    def step(self, action: int) -> tuple[int, bool]:
        if action == FIRE and not self.reload:
            self.bullets |= cell(SIDE - 1, self.cannon)
            self.reload = self.RELOAD

        self.cannon = moved(self.cannon, action)
        here = cell(SIDE - 1, self.cannon)

        # Bullets go up and bombs down a row; the aliens move and shoot when it is time.
        self.bullets >>= SIDE
        self.bombs = self.bombs << SIDE & FULL
        terminated = bool((self.bombs | self.aliens) & here)
        if not self.pause:
            terminated |= self._advance() or bool(self.aliens & here)
        if not self.volley:
            self._shoot()

        # A bullet and an alien in one place destroy each other.
        hit = self.aliens & self.bullets
        self.aliens ^= hit
        self.bullets ^= hit

        # Counters of steps until the cannon, the aliens' move and their shot are due.
        self.reload -= self.reload > 0
        self.pause -= 1
        self.volley -= 1

        # The next wave is faster.
        if not self.aliens:
            self.march = max(self.march - 1, self.FASTEST)
            self.aliens = self.WAVE
        return hit.bit_count(), terminated

    def _advance(self) -> bool:
        """The aliens' next move; whether one of them had to go below the last row."""
        self.pause = min(self.march, self.aliens.bit_count())
        # At a wall they turn and come down a row; aliens that leave the last row reappear at the top.
        if self.aliens & COLUMN[0 if self.heading < 0 else SIDE - 1]:
            landed = bool(self.aliens & BOTTOM)
            self.heading = -self.heading
            self.aliens = self.aliens << SIDE & FULL | self.aliens >> SIDE * (SIDE - 1)
            return landed
        self.aliens = self.aliens << 1 if self.heading > 0 else self.aliens >> 1
        return False

    def _shoot(self) -> None:
        """The lowest alien of the column nearest to the cannon's shoots; of two columns, that of the left one."""
        self.volley = self.VOLLEY
        for column in self.NEAREST[self.cannon]:
            if above := self.aliens & COLUMN[column]:
                self.bombs |= 1 << above.bit_length() - 1
                return

    def boards(self) -> tuple[int, ...]:
        left, right = (self.aliens, 0) if self.heading < 0 else (0, self.aliens)
        return cell(SIDE - 1, self.cannon), self.aliens, left, right, self.bullets, self.bombs
