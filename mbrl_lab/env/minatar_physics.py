"""The rules of MinAtar's Breakout as functions of batches of observations, for `dynamics=analytic`.

Observations [N, 4, 10, 10] of 0 and 1 (paddle, ball, trail, brick), actions [N] int64, all six of them. An observation
leaves only two things undetermined. A ball beside its trail in rows 1 to 3 broke a brick from below or from above:
below is assumed. And one beside its trail in row 0 met the ceiling or a brick: the ceiling is assumed. Actions are
never sticky here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl_lab.env.minatar_games import LEFT, RIGHT, SIDE

LAST = SIDE - 1
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
WALL = (ROWS >= 1) & (ROWS <= 3)


class Ball(NamedTuple):
    """Its position and direction, each [N]; `struck`: it met a brick in the previous step."""

    x: Tensor
    y: Tensor
    dx: Tensor
    dy: Tensor
    struck: Tensor


def breakout_next_obs(obs: Tensor, action: Tensor) -> Tensor:
    """The observation after an action, see `minatar_games.Breakout`; a ball that was lost stays in the last row."""
    ball, bricks = ball_of(obs), obs[:, 3].bool()
    paddle = (place(obs[:, 0])[1] + (action == RIGHT).long() - (action == LEFT).long()).clamp(0, LAST)

    # Walls turn the ball; then a brick, the ceiling or the paddle.
    dx = torch.where((ball.x + ball.dx < 0) | (ball.x + ball.dx > LAST), -ball.dx, ball.dx)
    x = torch.where(dx == ball.dx, ball.x + dx, ball.x)
    y = (ball.y + ball.dy).clamp(max=LAST)

    # A ball that met a brick in the previous step passes through this one without breaking it.
    inside = y.clamp(min=0)
    brick = (y >= 0) & bricks[torch.arange(len(obs), device=obs.device), inside, x]
    breaks = brick & ~ball.struck
    kept = (y == LAST) & ((paddle == ball.x) | (paddle == x))
    after = torch.where(breaks | kept, ball.y, inside)

    # Remove broken bricks; add a new wall when none is left and the ball reaches the last row.
    bricks = bricks & ~(spot(inside, x) & breaks[:, None, None])
    bare = (y == LAST) & ~bricks.flatten(1).any(1)
    bricks = bricks | (bare[:, None, None] & WALL.to(obs.device))

    boards = spot(torch.full_like(paddle, LAST), paddle), spot(after, x), spot(ball.y, ball.x), bricks
    return torch.stack(boards, 1).to(obs.dtype)


def breakout_reward(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """One for a brick that broke."""
    return (obs[:, 3].bool() & ~next_obs[:, 3].bool()).flatten(1).any(1).float()


def breakout_termination(obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
    """The ball is in the last row."""
    return next_obs[:, 1, LAST].any(1)


def ball_of(obs: Tensor) -> Ball:
    """The ball as far as an observation [N, 4, 10, 10] determines it, by its position and its trail."""
    (y, x), (y_before, x_before), paddle = place(obs[:, 1]), place(obs[:, 2]), place(obs[:, 0])[1]
    bricks = obs[:, 3].bool()

    # A ball that stayed in its row was turned by the paddle, a brick or the ceiling; one in its column by a wall.
    beside = y == y_before
    from_side = beside & (y == LAST - 1) & (paddle == x) & (x != x_before)  # the side of the paddle returns it
    inwards = torch.where(x == 0, 1, -1)
    dx = torch.where(x == x_before, inwards, torch.where(from_side, x_before - x, x - x_before))
    dy = torch.where(beside, torch.where(y == LAST - 1, -1, 1), y - y_before)
    begins = bricks.flatten(1).sum(1) == WALL.sum()
    inside = bricks[torch.arange(len(obs), device=obs.device), y, x]
    struck = ((beside & (y >= 1) & (y <= 4)) | inside) & ~begins
    return Ball(x, y, dx, dy, struck)


def place(board: Tensor) -> tuple[Tensor, Tensor]:
    """Boards [N, 10, 10] -> row and column [N] of their only cell."""
    at = board.flatten(1).to(torch.uint8).argmax(1)
    return at // SIDE, at % SIDE


def spot(y: Tensor, x: Tensor) -> Tensor:
    """Rows and columns [N] -> boards [N, 10, 10] with one cell each."""
    rows, columns = ROWS.to(y.device), COLUMNS.to(y.device)
    return (rows == y[:, None, None]) & (columns == x[:, None, None])
