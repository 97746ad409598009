"""The rules of MinAtar's Seaquest (Young & Tian 2019).

See `minatar_games` for the boards. Every random number is drawn from the generator that `reset` gets, in the order in
which the authors' program draws it, so that both can be compared step by step.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mbrl_lab.env.minatar_games import ACTIONS, FIRE, LEFT, RIGHT, cell, moved
from mbrl_lab.env.minatar_movers import (
    LAST,
    Difficulty,
    Mover,
    board_of,
    drop,
    entering,
    first_at,
    moved_vertically,
    trail_of,
)


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
        # It begins at the surface, which must not count as surfacing without divers.
        self.oxygen, self.saved, self.surfaced = self.OXYGEN, 0, True
        self.bullets: list[Mover] = []
        self.bombs: list[Mover] = []
        self.fish: list[Mover] = []
        self.subs: list[Mover] = []
        self.divers: list[Mover] = []
        self.difficulty = Difficulty(self.SPAWN, self.MOVE, self.FASTEST)
        self.spawn, self.diver_spawn, self.reload = self.SPAWN, self.DIVER_SPAWN, 0

    def step(self, action: int) -> tuple[int, bool]:
        if not self.spawn:
            self._spawn_enemy()
            self.spawn = self.difficulty.spawn_every
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
        # A shot takes the whole step, also while the gun reloads.
        if action == FIRE:
            if not self.reload:
                self.bullets.append(Mover(self.column, self.row, self.right))
                self.reload = self.RELOAD
            return
        self.column = moved(self.column, action)
        # The lowest row shows the gauges.
        self.row = moved_vertically(self.row, action, 0, LAST - 1)
        if action in (LEFT, RIGHT):
            self.right = action == RIGHT

    def _entrance(self) -> tuple[bool, int]:
        """A direction and a row, drawn at random."""
        return self.random.random() < 1 / 2, int(self.random.integers(1, LAST))

    def _spawn_enemy(self) -> None:
        """A fish, or with probability 1/3 a submarine, unless something comes towards it in its row."""
        right, is_sub = self.random.random() < 1 / 2, self.random.random() < 1 / 3
        # Drawn before the check, as in the authors' program: a refused enemy uses up random numbers too.
        row = int(self.random.integers(1, LAST))
        if any(enemy.row == row and enemy.right != right for enemy in (*self.subs, *self.fish)):
            return
        kind = self.subs if is_sub else self.fish
        kind.append(entering(row, right, self.difficulty.move_every, self.ENEMY_RELOAD))

    def _move_bullets(self) -> int:
        """The submarine's bullets; the number of enemies that they met."""
        hits = 0
        for bullet in reversed(self.bullets.copy()):
            bullet.advance()
            if bullet.outside:
                drop(self.bullets, bullet)
                continue
            # A bullet is gone with its first hit, a fish before a submarine in the same cell.
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
            # Checked before and after the move: an enemy and the submarine may swap cells.
            self._meet(enemy)
            if enemy.pause:
                enemy.pause -= 1
            else:
                enemy.pause = self.difficulty.move_every
                enemy.advance()
                self._meet(enemy)
                bullet = None if enemy.at == (self.row, self.column) else first_at(self.bullets, enemy.at)
                if enemy.outside or bullet is not None:
                    drop(enemies, enemy)
                if bullet is not None:
                    drop(self.bullets, bullet)
                    hits += 1
            # After its removal from the list: see the docstring.
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
        # Checked before it falls, so the last breath lasts a step longer.
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
        self.difficulty.increase()
        return reward

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
