"""What MinAtar games with random arrivals share: things that cross a row, and the difficulty that increases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mbrl_lab.env.minatar_games import ACTIONS, SIDE, cell

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

    @property
    def stride(self) -> int:
        """The change of its column when it moves."""
        return 1 if self.right else -1

    def advance(self) -> None:
        self.column += self.stride

    def behind(self) -> int:
        """The board of the cell that it comes from; empty beyond the edge."""
        column = self.column - self.stride
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


def moved_vertically(row: int, action: int, top: int, bottom: int) -> int:
    """The player's row after an action: a step up or down, between the two rows."""
    if action == UP:
        return max(row - 1, top)
    return min(row + 1, bottom) if action == DOWN else row


def first_at(movers: list[Mover], at: tuple[int, int]) -> Mover | None:
    return next((mover for mover in movers if mover.at == at), None)


def drop(movers: list[Mover], gone: Mover) -> None:
    """Remove it, and not another one that is equal."""
    movers[:] = [mover for mover in movers if mover is not gone]


@dataclass
class Difficulty:
    """Steps between arrivals and between moves. Each level shortens the first, every second level the other too."""

    spawn_every: int
    move_every: int
    least_move: int
    level: int = 0

    def increase(self) -> None:
        if self.level % 2:
            self.move_every = max(self.move_every - 1, self.least_move)
        self.spawn_every = max(self.spawn_every - 1, 1)
        self.level += 1
