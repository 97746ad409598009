"""Episodes that are functions of a counted seed: rows, boundaries, resuming in their middle, and what is rejected."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from counting import Counting, expected, identity, is_terminal, length_of, play, seen

from mbrl_lab.env import Envs, episode_seed, make_gym
from mbrl_lab.env.envs import spec_of
from mbrl_lab.types import Step

CARTPOLE = partial(make_gym, "CartPole-v1")
PENDULUM = partial(make_gym, "Pendulum-v1", max_episode_steps=11)


def equal(a: Step, b: Step) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def recorded(envs: Envs) -> list[tuple[int | float | list[float], ...]]:
    """What finished, all of it."""
    return [(e.env, e.index, e.seed, e.ret, e.length, e.actions.tolist()) for e in envs.finished()]


@pytest.mark.parametrize("num", [1, 2, 5])
def test_every_step_is_the_one_expected(num: int) -> None:
    envs = Envs(Counting, num, seed=3, stream=1)
    steps, actions = play(envs, 60)
    assert seen(steps) == expected(3, 1, num, actions)
    assert envs.steps == 60 * num


def test_steps_have_the_types_of_the_contract() -> None:
    envs = Envs(Counting, 2, seed=0)
    for step in (envs.reset(), envs.step(torch.tensor([1, 2]))):
        assert [x.dtype for x in step] == [torch.int64, torch.float32, torch.float32, torch.bool, torch.bool]
        assert [x.shape for x in step] == [(2,), (2, 3), (2,), (2,), (2,)]
    assert Envs(PENDULUM, 2, seed=0).reset().action.shape == (2, 1)


def test_steps_stay_as_they_were_when_the_next_one_comes() -> None:
    envs = Envs(CARTPOLE, 2, seed=0)
    row = envs.reset()
    before = [x.clone() for x in row]
    envs.step(torch.tensor([0, 1]))
    assert equal(row, Step(*before))


def test_finished_episodes_hold_what_happened() -> None:
    envs = Envs(Counting, 3, seed=5)
    _, actions = play(envs, 50)
    finished = envs.finished()
    assert envs.finished() == []
    assert {e.env for e in finished} == {0, 1, 2} and len(finished) > 20
    for env in range(3):
        clock = 0
        for index, episode in enumerate(e for e in finished if e.env == env):
            seed = episode_seed(5, 0, env, index)
            assert (episode.index, episode.seed, episode.length) == (index, seed, length_of(seed))
            taken = [int(a[env]) for a in actions[clock : clock + episode.length]]
            assert episode.actions.tolist() == taken
            assert episode.ret == sum(10 * (t + 1) + a for t, a in enumerate(taken))
            clock += episode.length + 1  # the step that resets takes an action that counts for nothing


def test_termination_and_truncation_occur_and_a_time_limit_is_not_terminal() -> None:
    envs = Envs(Counting, 4, seed=1)
    steps, _ = play(envs, 40)
    last = [(s.at(i), t.at(i)) for s, t in pairwise(steps) for i in range(4) if t.first[i]]
    ends = {bool(row.terminal) for row, _ in last}
    assert ends == {True, False}
    assert all(bool(row.terminal) == is_terminal(e.seed) for (row, _), e in zip(last, envs.finished(), strict=False))
    pendulum = Envs(PENDULUM, 1, seed=0)
    rows, _ = play(pendulum, 12)
    assert rows[12].first.all() and not rows[11].terminal.any()


def test_a_step_that_resets_zeroes_the_action() -> None:
    for make in (CARTPOLE, PENDULUM):
        steps, actions = play(Envs(make, 2, seed=0), 60)
        begun = [(s, a) for s, a in zip(steps[1:], actions, strict=True) if s.first.any()]
        assert begun and any(a[s.first].any() for s, a in begun)
        assert not any(s.action[s.first].any() or s.reward[s.first].any() for s, _ in begun)


def episodes(num: int, seed: int, count: int) -> dict[tuple[int, int], list[float]]:
    """First observations by (environment, episode)."""
    envs = Envs(CARTPOLE, num, seed)
    found: dict[tuple[int, int], list[float]] = {}
    steps, _ = play(envs, count)
    for env in range(num):
        firsts = [s.obs[env].tolist() for s in steps if s.first[env]]
        found |= {(env, index): obs for index, obs in enumerate(firsts)}
    return found


def test_an_episode_depends_on_its_number_alone() -> None:
    few, many = episodes(2, 7, 60), episodes(5, 7, 90)
    assert len(few) > 4 and all(many[key] == obs for key, obs in few.items())
    assert len({tuple(obs) for obs in many.values()}) == len(many)


def test_seeds_differ_by_run_stream_environment_and_episode() -> None:
    seeds = {episode_seed(r, s, e, k) for r in range(5) for s in range(3) for e in range(5) for k in range(20)}
    assert len(seeds) == 5 * 3 * 5 * 20
    assert episode_seed(0, 0, 0, 0) == np.random.SeedSequence([0, 0, 0, 0]).generate_state(1)[0]


@pytest.mark.parametrize("make", [Counting, CARTPOLE, PENDULUM], ids=["counting", "cartpole", "pendulum"])
def test_processes_of_their_own_change_nothing(make: Callable[[], gymnasium.Env]) -> None:
    here, there = Envs(make, 2, seed=2), Envs(make, 2, seed=2, asynchronous=True)
    try:
        rows, actions = play(here, 30)
        assert equal(rows[0], there.reset())
        assert all(equal(row, there.step(a)) for row, a in zip(rows[1:], actions, strict=True))
        assert recorded(here) == recorded(there)
    finally:
        there.close()


def go_on(make: Callable[[], gymnasium.Env], stop: int, asynchronous: bool = False) -> None:
    """Stop after `stop` steps of 3 environments, go on elsewhere, and compare 40 more."""
    envs, other = Envs(make, 3, 4, 0, asynchronous), Envs(make, 3, 4, 0, asynchronous)
    try:
        play(envs, stop)
        envs.finished()
        other.load_state_dict(envs.state_dict())
        assert other.steps == envs.steps
        for _ in range(40):
            action = envs.spec.sample(3)
            assert equal(envs.step(action), other.step(action))
        assert recorded(envs) == recorded(other)
    finally:
        envs.close()
        other.close()


@pytest.mark.parametrize("make", [Counting, CARTPOLE, PENDULUM], ids=["counting", "cartpole", "pendulum"])
def test_going_on_from_any_step_is_exact(make: Callable[[], gymnasium.Env]) -> None:
    for stop in range(30):
        go_on(make, stop)


def test_going_on_is_exact_with_processes() -> None:
    for stop in (0, 12):
        go_on(PENDULUM, stop, asynchronous=True)


def test_resume_right_after_an_episode_finished_and_right_after_one_began() -> None:
    for stop in (11, 12, 13):  # all three end at the 11th step and begin at the 12th
        envs = Envs(PENDULUM, 3, seed=4)
        rows, _ = play(envs, stop)
        assert rows[-1].first.all() == (stop == 12)
        assert [len(a) for a in envs.state_dict()["actions"]] == [{11: 11, 12: 0, 13: 1}[stop]] * 3
        go_on(PENDULUM, stop)


def test_going_on_keeps_no_simulator_state() -> None:
    envs = Envs(CARTPOLE, 2, seed=0)
    play(envs, 7)
    state = envs.state_dict()
    assert set(state) == {"steps", "index", "actions"}
    assert all(a.dtype == torch.int64 for a in state["actions"])


def test_used_environments_may_be_sent_anywhere() -> None:
    envs, other = Envs(CARTPOLE, 2, seed=0), Envs(CARTPOLE, 2, seed=0)
    play(envs, 25)
    play(other, 50)
    other.load_state_dict(envs.state_dict())
    action = torch.tensor([0, 1])
    assert equal(envs.step(action), other.step(action))


def test_an_episode_has_whether_it_was_truncated() -> None:
    envs = Envs(Counting, 3, seed=0)
    play(envs, 80)
    episodes = envs.finished()
    assert {e.truncated for e in episodes} == {True, False}
    assert all(e.truncated is not is_terminal(e.seed) for e in episodes)


@pytest.mark.parametrize("what", ["obs", "reward"])
def test_what_is_not_finite_is_named_by_step_environment_and_episode(what: str) -> None:
    made = iter([Counting(), Counting((17, what)), Counting()])
    envs = Envs(lambda: next(made), 3, seed=0)
    broken, step = 1, 0
    envs.reset()
    with pytest.raises(FloatingPointError) as caught:
        while step < 100:
            step += 1
            assert envs.step(envs.spec.sample(3)).obs.isfinite().all()
    index = int(envs._index[broken])
    seed = episode_seed(0, 0, broken, index)
    assert f"step {3 * step}, environment {broken}, episode {index} (seed {seed})" in str(caught.value)


def test_frames_are_whole_numbers_and_stay_bytes() -> None:
    box = gymnasium.spaces.Box(0, 255, (4, 4), np.uint8)
    spec = spec_of(box, gymnasium.spaces.Discrete(3))
    assert (spec.obs_shape, spec.obs_dtype, spec.action_dim, spec.discrete) == ((4, 4), torch.uint8, 3, True)


@pytest.mark.parametrize(
    ("observation", "action", "said"),
    [
        (gymnasium.spaces.Discrete(16), gymnasium.spaces.Discrete(4), "observations must be arrays"),
        (gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(4, start=1), "actions must be Discrete from 0"),
        (gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.MultiDiscrete([2, 2]), "actions must be"),
        (gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Box(-1, 1, (2, 2)), "a flat Box"),
    ],
)
def test_spaces_that_no_part_can_use(observation: gymnasium.Space, action: gymnasium.Space, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spec_of(observation, action)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: None, r"^env\.make made None; it must make a gymnasium\.Env$"),
        (lambda: ("an environment", {}), r"^env\.make made a tuple of 2; it must"),
        (gymnasium.Env(), r"^env\.make is <gymnasium.*env\.make\._partial_ must be true$"),
    ],
)
def test_what_makes_no_environment_is_rejected(make: Callable[[], gymnasium.Env], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Envs(make, 2, 0)


def test_what_makes_no_vector_environment_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^env\.make_vector made 3; it must make a gymnasium\.vector\.VectorEnv$"):
        Envs(Counting, 3, 0, make_vector=lambda num: num)


def test_continuous_actions_are_rescaled() -> None:
    env = make_gym("Pendulum-v1")
    assert env.action_space == gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    env.reset(seed=0)
    pushed = env.step(np.ones(1, np.float32))[0]
    raw = gymnasium.make("Pendulum-v1")
    raw.reset(seed=0)
    np.testing.assert_allclose(pushed, raw.step(np.array([2.0]))[0], rtol=1e-6)


def test_identities_distinguish_episodes() -> None:
    """The contract of the counting environment, on which the other tests rely."""
    seeds = [episode_seed(0, 0, e, k) for e in range(5) for k in range(20)]
    assert len({identity(s) for s in seeds}) == len(seeds)
