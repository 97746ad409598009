"""Atari: observations, lives, the two protocols, episodes as functions of their seeds, and what cannot be played."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from mbrl_lab.env import AtariVector, Envs, make_atari
from mbrl_lab.env.atari import FIRE, GAMES_PER_SEED
from mbrl_lab.replay import Replay, nbytes
from mbrl_lab.types import Step

BREAKOUT: dict[str, Any] = {
    "game": "breakout",
    "protocol": "100k",
    "frame_stack": 4,
    "frame_skip": 4,
    "serve": True,
    "actions": 4,
}
INVADERS = BREAKOUT | {"game": "space_invaders", "serve": False, "actions": 6}


def envs_of(num: int, seed: int = 0, **changed: Any) -> Envs:
    game = BREAKOUT | changed
    return Envs(partial(make_atari, **game), num, seed, make_vector=partial(AtariVector, **game))


def play(envs: Envs, steps: int, seed: int = 0) -> list[Step]:
    """The first row and one for each random step."""
    torch.manual_seed(seed)
    return [envs.reset(), *(envs.step(envs.spec.sample(envs.num)) for _ in range(steps))]


@pytest.fixture(scope="module")
def played() -> tuple[Envs, list[Step]]:
    envs = envs_of(2)
    return envs, play(envs, 400)


def test_observations_are_stacks_of_bytes(played: tuple[Envs, list[Step]]) -> None:
    envs, rows = played
    spec = envs.spec
    assert (spec.obs_shape, spec.obs_dtype, spec.action_dim, spec.stack) == ((4, 84, 84), torch.uint8, 4, 4)
    assert rows[0].obs.shape == (2, 4, 84, 84) and rows[0].obs[:, -1].any() and not rows[0].obs[:, :-1].any()
    assert torch.equal(rows[2].obs[:, 1:3], rows[1].obs[:, 2:]), "a frame moves on by one at each step"


def test_a_lost_life_is_terminal_and_the_episode_continues(played: tuple[Envs, list[Step]]) -> None:
    """Breakout has five lives: five terminal rows an episode, and only the last is followed by a `first`."""
    _, rows = played
    terminal = torch.stack([row.terminal for row in rows])
    first = torch.stack([row.first for row in rows])
    starts = first[:, 0].nonzero().squeeze(-1).tolist()
    assert len(starts) > 2
    for begin, end in itertools.pairwise(starts):
        assert terminal[begin:end, 0].sum() == 5
        assert terminal[end - 1, 0], "the game ends with the last life"


def test_fire_is_pressed_after_a_lost_life_and_recorded(played: tuple[Envs, list[Step]]) -> None:
    _, rows = played
    pairs = itertools.pairwise(rows)
    after = [int(b.action[i]) for a, b in pairs for i in range(2) if a.terminal[i] and not b.first[i]]
    assert len(after) >= 8 and set(after) == {FIRE}


def test_where_a_game_does_not_wait_nobody_presses_fire() -> None:
    games = AtariVector(1, **INVADERS)
    games.reset(seed=[1])
    lost = 0
    for _ in range(500):
        *_, info = games.step(np.zeros(1, np.int64))
        lost += int(info["life_lost"][0])
        assert info["action"][0] == 0
    games.close()
    assert lost >= 1


def test_scores_are_raw() -> None:
    """Space Invaders pays 5 to 30 an invader."""
    rewards = torch.stack([row.reward for row in play(envs_of(2, **INVADERS), 300)])
    assert set(rewards.unique().tolist()) >= {0.0, 5.0, 10.0}


def test_an_episode_is_a_function_of_its_seed_and_actions(played: tuple[Envs, list[Step]]) -> None:
    """Whatever came before it: the first of a console, and those that followed."""
    finished = played[0].finished()
    assert {e.index for e in finished} >= {0, 1}
    for one in finished:
        env = make_atari(**BREAKOUT)
        env.reset(seed=one.seed)
        results = [env.step(action) for action in one.actions]
        env.close()
        assert sum(float(r[1]) for r in results) == one.ret
        assert [bool(r[2]) for r in results] == [False] * (one.length - 1) + [True]


@pytest.mark.parametrize("game", ["breakout", "space_invaders", "ms_pacman"])
def test_a_game_that_follows_another_is_the_one_of_its_seed(game: str) -> None:
    """Frame by frame, after a game played at random and after none."""
    settings = BREAKOUT | {"game": game, "actions": None}
    going, fresh = AtariVector(2, **settings), AtariVector(1, **settings)
    going.reset(seed=[5 * GAMES_PER_SEED, 7])
    random = np.random.default_rng(0)
    actions = going.single_action_space.n  # type: ignore[attr-defined]
    while not going.done[0]:
        going.step(random.integers(actions, size=2))
    going.step(np.zeros(2, np.int64))
    shown, _ = going.reset(seed=[5 * GAMES_PER_SEED + 1, None], options={"reset_mask": np.array([True, False])})
    other, _ = fresh.reset(seed=[5 * GAMES_PER_SEED + 1])
    assert np.array_equal(shown[0], other[0])
    for _ in range(100):
        action = random.integers(actions, size=2)
        a, b = going.step(action), fresh.step(action[:1])
        assert all(np.array_equal(x[:1], y) for x, y in zip(a[:4], b[:4], strict=True))
        if going.done[0]:
            break
    going.close(), fresh.close()


def test_games_begin_in_different_ways() -> None:
    games = AtariVector(1, **BREAKOUT)
    seeds = [*range(GAMES_PER_SEED, GAMES_PER_SEED + 4), *range(7 * GAMES_PER_SEED, 7 * GAMES_PER_SEED + 4)]
    frames = []
    for seed in seeds:
        games.reset(seed=[seed])
        frames.append(np.stack([games.step(np.array([3]))[0] for _ in range(4)]).tobytes())
    assert len(set(frames)) > 4


def test_it_resumes_where_it_was() -> None:
    whole, other = envs_of(2, seed=3), envs_of(2, seed=3)
    play(whole, 400)
    assert min(whole._index) >= 1
    other.load_state_dict(whole.state_dict())
    torch.manual_seed(1)
    for _ in range(60):
        action = whole.spec.sample(2)
        a, b = whole.step(action), other.step(action)
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_machado_has_sticky_actions_and_ignores_lives() -> None:
    rows = play(envs_of(2, protocol="machado"), 500)
    terminal, first = (torch.stack([getattr(row, name) for row in rows]) for name in ("terminal", "first"))
    assert envs_of(1, protocol="machado").spec.action_dim == 18
    assert torch.equal(terminal[:-1], first[1:] & terminal[:-1]), "only a whole game ends"
    sticky = [AtariVector(1, **BREAKOUT | {"protocol": p}) for p in ("machado", "machado")]
    for seed, games in enumerate(sticky):
        games.reset(seed=[seed])
    ends = [np.stack([games.step(np.array([3 + t % 2]))[0] for t in range(30)]) for games in sticky]
    assert (ends[0] != ends[1]).any(), "the same actions, other repeats"


def test_replay_stacks_frames_as_the_game_does() -> None:
    envs = envs_of(3)
    rows = play(envs, 300)
    replay = Replay(envs.spec, 3 * 150, 3, seed=0)
    for row in rows:
        replay.add(row)
    assert torch.equal(replay.latest(150).obs, torch.stack([row.obs for row in rows[-150:]]))


def test_a_million_frames_cost_at_most_7_2_gigabytes() -> None:
    spec = envs_of(1).spec
    assert nbytes(spec, 1_000_000) <= 7.2e9


def test_a_video_shows_the_game_in_its_own_colours_and_size() -> None:
    env = make_atari("rgb_array", **BREAKOUT)
    env.reset(seed=4)
    frames = [np.asarray(env.render())]
    for action in (1, 2, 2, 3, 0, 2) * 5:
        env.step(action)
        frames.append(np.asarray(env.render()))
    env.close()
    assert env.metadata["render_fps"] == 15 and frames[0].shape == (210, 160, 3) and frames[0].dtype == np.uint8
    assert len({frame.tobytes() for frame in frames}) > 10 and len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"game": "brekout"}, r"env.game is 'brekout'.*did you mean breakout\?$"),
        ({"game": "MsPacman"}, r"did you mean ms_pacman\?$"),
        ({"game": "qqqq"}, r"it has adventure,.*zaxxon"),
        ({"protocol": "200k"}, "env.protocol is '200k'; it must be 100k or machado"),
        ({"actions": 6}, "env.actions is 6, but the game has 4: NOOP, FIRE, RIGHT, LEFT"),
    ],
)
def test_what_cannot_be_played(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AtariVector(1, **BREAKOUT | changed)


def test_other_observations_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    from mbrl_lab.env import atari

    class Smaller(atari.AtariVectorEnv):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, img_height=42)

    monkeypatch.setattr(atari, "AtariVectorEnv", Smaller)
    with pytest.raises(ValueError, match=r"observations are \(4, 42, 84\) uint8; they must be \(4, 84, 84\) uint8"):
        AtariVector(1, **BREAKOUT)


def test_a_missing_rom_is_an_error_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ale_py.roms.get_rom_path", lambda name: None)
    with pytest.raises(
        ValueError, match=r"env.game=breakout: its ROM is missing; pip install --force-reinstall ale-py"
    ):
        AtariVector(1, **BREAKOUT)


def test_any_game_can_be_played() -> None:
    games = AtariVector(1, **BREAKOUT | {"game": "pong", "actions": None})
    assert isinstance(games.single_action_space, gymnasium.spaces.Discrete) and games.single_action_space.n == 6
    games.close()
