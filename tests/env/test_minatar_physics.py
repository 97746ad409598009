"""MinAtar's Breakout as functions of observations, beside the game."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mbrl_lab.env import MinAtar
from mbrl_lab.env.minatar import unpack
from mbrl_lab.env.minatar_games import LEFT, RIGHT, SIDE, Breakout
from mbrl_lab.env.minatar_physics import breakout_next_obs, breakout_reward, breakout_termination


def played(episodes: int) -> list[tuple[Tensor, int, Tensor, float, bool]]:
    """Every step of some games; the paddle goes anywhere at first, then where the ball will be."""
    env, random = MinAtar("breakout", sticky=0.0, minimal_actions=False, max_steps=1_000), np.random.default_rng(0)
    game, rows = env.session.game, []
    assert isinstance(game, Breakout)
    for episode in range(episodes):
        obs, over = env.reset(seed=episode)[0], False
        while not over:
            action = towards(game) if game.y > 2 and random.random() < 0.98 else int(random.integers(6))
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((torch.as_tensor(obs), action, torch.as_tensor(after), reward, terminated))
            obs, over = after, terminated or truncated
    return rows


def towards(game: Breakout) -> int:
    """To the column in which the ball will come down, walls not regarded till it meets them."""
    lands = np.clip(game.x + game.dx * max(SIDE - 2 - game.y, 0) * (game.dy > 0), 0, SIDE - 1)
    return LEFT if lands < game.paddle else RIGHT if lands > game.paddle else 0


def test_it_foresees_what_the_game_does() -> None:
    rows = played(60)
    obs, after = (torch.stack([row[k] for row in rows]) for k in (0, 2))  # type: ignore[misc]
    action = torch.tensor([row[1] for row in rows])
    reward, over = torch.tensor([row[3] for row in rows]), torch.tensor([row[4] for row in rows])
    predicted = breakout_next_obs(obs, action)
    right = (predicted == after).flatten(1).all(1)
    assert len(rows) > 3_000 and reward.sum() > 300 and over.any() and after[:, 3].sum((1, 2)).min() < 20
    assert right.float().mean() > 0.99, right.float().mean()
    assert predicted.dtype == torch.uint8
    assert torch.equal(breakout_reward(obs, action, predicted)[right], reward[right].float())
    assert torch.equal(breakout_termination(obs, action, predicted)[right], over[right])


def test_what_it_gets_wrong_is_what_an_observation_does_not_say() -> None:
    rows = played(60)
    for obs, action, after, *_ in rows:
        if not torch.equal(breakout_next_obs(obs[None], torch.tensor([action]))[0], after):
            ball, trail = obs[1].nonzero()[0], obs[2].nonzero()[0]
            assert ball[0] == trail[0] and ball[0] <= 3, (obs, after)


def test_new_bricks_come_when_the_ball_is_about_to_reach_the_last_row() -> None:
    env = MinAtar("breakout", sticky=0.0, minimal_actions=False, max_steps=100)
    env.reset(seed=0)
    game = env.session.game
    assert isinstance(game, Breakout)
    game.x, game.y, game.dx, game.dy, game.paddle, game.bricks = 5, 8, 1, 1, 6, 0
    game.trail = 1 << SIDE * 7 + 4
    obs = torch.as_tensor(unpack([env.session.packed()], env.session.shape)[0])
    after, reward, over, *_ = env.step(0)
    predicted = breakout_next_obs(obs[None], torch.tensor([0]))
    assert after[3].sum() == 30 and torch.equal(predicted[0], torch.as_tensor(after))
    assert breakout_reward(obs[None], torch.tensor([0]), predicted).item() == reward == 0
    assert not breakout_termination(obs[None], torch.tensor([0]), predicted) and not over
