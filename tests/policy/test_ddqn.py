"""TD targets by hand, epsilon, the target network, and chains whose Q-values are known."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from mbrl_lab import make_run
from mbrl_lab.env import Envs
from mbrl_lab.nets.encoder import Der, Vector
from mbrl_lab.ops import bootstrap_windows
from mbrl_lab.policy import DDQN
from mbrl_lab.policy.ddqn import C51Head, DDQNOptim, Exploration, HeadOptions, QHead, TDTarget
from mbrl_lab.policy.resets import Resets
from mbrl_lab.replay import Replay
from mbrl_lab.types import EnvSpec, Step

SPEC = EnvSpec((1,), torch.float32, 3, True)
SETTINGS: dict[str, Any] = {
    "encoder": Vector,
    "width": 32,
    "depth": 2,
    "gamma": 0.5,
}
GROUPS: dict[str, tuple[type, dict[str, Any]]] = {
    "head": (HeadOptions, {"dueling": False, "atoms": 1, "v_min": 0.0, "v_max": 4.0, "loss": "huber", "norm": False}),
    "target": (TDTarget, {"n_step": 1, "double": True, "tau": 0.05, "every": 1, "acts": False}),
    "exploration": (
        Exploration,
        {"epsilon_start": 1.0, "epsilon_end": 0.1, "epsilon_updates": 10, "epsilon_eval": 0.0},
    ),
    "optim": (
        DDQNOptim,
        {
            "lr": 3e-3,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "clip": 10.0,
            "random_shift": 0,
            "random_intensity": 0.0,
        },
    ),
}
RESETS = {"every": 0, "until": 0, "shrink": 0.5, "anneal_updates": 0, "n_step_start": 1, "gamma_start": 0.5}
T, F = True, False


def ddqn(spec: EnvSpec = SPEC, resets: dict[str, Any] | None = None, **changed: Any) -> DDQN:
    """Small; `changed`: settings of DDQN or of one of its groups but resets, which have names in common with others."""
    groups = {
        name: kind(**{key: changed.pop(key, value) for key, value in default.items()})
        for name, (kind, default) in GROUPS.items()
    }
    return DDQN(spec, **SETTINGS | groups | {"resets": Resets(**RESETS | (resets or {}))} | changed)


class Table(nn.Module):
    """What it says of the observation 0, 1, 2, ...: [N, A, K]."""

    def __init__(self, rows: Any) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, obs: Tensor) -> Tensor:
        return self.rows[obs[:, 0].long()]


def window(rewards: list[float], terminal: list[bool], first: list[bool], action: int = 0) -> Step:
    """Rows [L, 1] whose observations are 0, 1, 2, ..."""
    obs = torch.arange(float(len(rewards))).view(-1, 1, 1)
    columns = (torch.tensor(x).unsqueeze(-1) for x in (rewards, terminal, first))
    return Step(torch.full((len(rewards), 1), action), obs, *columns)


def batched(*windows: Step) -> Step:
    return Step(*(torch.cat(x, 1) for x in zip(*windows, strict=True)))


ONLINE = [[[1.0], [2.0], [3.0]], [[4.0], [7.0], [5.0]], [[9.0], [1.0], [1.0]], [[0.0], [1.0], [2.0]]]
TARGET = [[[5.0], [5.0], [5.0]], [[30.0], [20.0], [10.0]], [[16.0], [17.0], [18.0]], [[8.0], [40.0], [80.0]]]


@pytest.mark.parametrize(("double", "expected"), [(True, 3 + 0.5 * 20), (False, 3 + 0.5 * 30)])
def test_double_q_learning_takes_the_online_action_and_the_target_value(double: bool, expected: float) -> None:
    policy = ddqn(double=double)
    policy.online, policy.target_network = Table(ONLINE), Table(TARGET)
    assert policy.td_target(window([0.0, 3.0], [F, F], [F, F])).tolist() == [expected]


def test_n_step_targets_bootstrap_from_the_right_observation() -> None:
    policy = ddqn(n_step=3)
    policy.online, policy.target_network = Table(ONLINE), Table(TARGET)
    rewards = [100.0, 1.0, 2.0, 4.0]
    batch = batched(
        window(rewards, [F, F, F, F], [T, F, F, F]),  # 1 + 1 + 1, then what row 3 says: 80
        window(rewards, [F, F, T, F], [F, F, F, T]),  # 1 + 1 and no more
        window(rewards, [F, F, F, F], [F, F, F, T]),  # 1 + 1, then row 2: 16
        window(rewards, [F, F, F, T], [F, F, T, F]),  # 1, then row 1: 20
    )
    assert policy.window == 4
    assert policy.td_target(bootstrap_windows(batch, 3)).tolist() == [3 + 80 / 8, 2, 2 + 16 / 4, 1 + 20 / 2]


def test_c51_target_is_shifted_shrunk_and_projected() -> None:
    """Atoms 0, 1, 2, 3, 4. Action 1 has its mean at 4 in the network, action 0 in the target."""
    policy = ddqn(atoms=5)
    certain = 50 * torch.eye(5)
    policy.online = Table(torch.stack([certain[:3], certain[[0, 4, 1]]]).tolist())
    policy.target_network = Table(
        torch.stack([certain[:3], torch.stack([certain[4], (certain[1] + certain[3]), certain[0]])]).tolist()
    )
    target = policy.td_target(batched(window([0.0, 0.5], [F, F], [F, F]), window([0.0, 1.75], [F, T], [F, F])))
    # the return 1 or 3 becomes 0.5 + 0.5 or 0.5 + 1.5; the end leaves the reward alone, between two atoms
    expected = torch.tensor([[0, 0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0, 0]])
    torch.testing.assert_close(target, expected)


def test_losses_by_hand() -> None:
    out, target = torch.tensor([[3.0], [0.5]]), torch.tensor([0.0, 1.0])
    assert QHead("huber").loss(out, target).tolist() == [2.5, 0.125]
    assert QHead("squared").loss(out, target).tolist() == [9.0, 0.25]
    logits, target = torch.tensor([[0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0]]), torch.tensor([[0.5, 0.5], [1, 0]])
    expected = torch.tensor([2.0, 4 / 3]).log()
    torch.testing.assert_close(C51Head(2, 0.0, 1.0).loss(logits, target), expected)
    torch.testing.assert_close(C51Head(2, -8.0, 8.0).q_values(logits), torch.tensor([0.0, -4.0]))


@pytest.mark.parametrize("atoms", [1, 7])
def test_dueling_is_value_plus_advantage_minus_its_mean(atoms: int) -> None:
    net, obs = ddqn(dueling=True, atoms=atoms).online, torch.randn(6, 1)
    out = net(obs)
    assert out.shape == (6, 3, atoms)
    assert net.base is not None
    torch.testing.assert_close(out.mean(1), net.base(obs))
    advantage = net.advantage(obs).view(6, 3, atoms)
    torch.testing.assert_close(out[:, 0] - out[:, 2], advantage[:, 0] - advantage[:, 2])


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


@pytest.mark.parametrize("atoms", [1, 5])
def test_invalid_windows_are_masked(atoms: int) -> None:
    good = window([0.0, 3.0], [F, F], [F, F], action=2)
    junk = window([0.0, 1e6], [F, T], [F, T], action=1)
    alone, beside, nothing = (ddqn(atoms=atoms) for _ in range(3))
    for other in (beside, nothing):
        other.load_state_dict(alone.state_dict())
    before = weights(alone.online)
    metrics = [p.update(x) for p, x in ((alone, good), (beside, batched(good, junk)), (nothing, junk))]
    torch.testing.assert_close(weights(alone.online), weights(beside.online))
    assert not torch.equal(weights(alone.online), before) and torch.equal(weights(nothing.online), before)
    torch.testing.assert_close(metrics[0], metrics[1])
    assert metrics[2]["policy/loss"] == 0


def test_only_the_taken_action_gets_a_gradient() -> None:
    policy = ddqn(lr=1e-6, depth=0)
    policy.update(window([0.0, 3.0], [F, T], [F, F], action=1))
    weight = policy.online.advantage[-1]
    assert isinstance(weight, nn.Linear) and weight.bias.grad is not None
    assert weight.bias.grad.nonzero().tolist() == [[1]]


def test_soft_target_network_moves_by_tau_at_every_update() -> None:
    policy = ddqn(tau=0.25)
    before = weights(policy.target_network)
    for _ in range(2):
        policy.update(window([0.0, 3.0], [F, F], [F, F]))
        expected = before + 0.25 * (weights(policy.online) - before)
        torch.testing.assert_close(weights(policy.target_network), expected)
        before = weights(policy.target_network)


def test_hard_target_network_is_copied_periodically() -> None:
    policy = ddqn(tau=1.0, every=3)
    kept = weights(policy.target_network)
    for update in range(1, 8):
        policy.update(window([0.0, 3.0], [F, F], [F, F]))
        kept = weights(policy.online) if update in (3, 6) else kept
        assert torch.equal(weights(policy.target_network), kept)
    assert not torch.equal(weights(policy.online), kept)


def test_the_gradient_is_clipped() -> None:
    for clip, expected in ((0.01, 0.01), (0.0, None)):
        policy = ddqn(clip=clip, loss="squared")
        norm = policy.update(window([0.0, 1e3], [F, T], [F, F]))["policy/gradient_norm"]
        left = torch.cat([p.grad.flatten() for p in policy.online.parameters() if p.grad is not None]).norm()
        assert norm > 100
        torch.testing.assert_close(left, norm if expected is None else torch.tensor(expected), rtol=1e-3, atol=0)


def test_epsilon_falls_linearly_with_updates_and_is_saved() -> None:
    policy, step, seen = ddqn(), window([0.0, 0.0], [F, F], [F, F]), []
    for _ in range(15):
        seen.append(policy.epsilon())
        policy.act(torch.zeros(3, 1), explore=True)
        policy.update(step)
    assert seen == pytest.approx([1 - 0.09 * min(k, 10) for k in range(15)])
    half = ddqn()
    half.updates = 5
    other = ddqn()
    other.load_state_dict(half.state_dict())
    assert other.epsilon() == pytest.approx(0.55)


@pytest.mark.parametrize("updates", [0, 5, 10])
def test_epsilon_is_the_probability_of_a_random_action(updates: int) -> None:
    policy, obs = ddqn(), torch.zeros(20_000, 1)
    policy.updates = updates
    best = policy.act(obs[:1], explore=False)
    assert (policy.act(obs, explore=False) == best).all()
    other = (policy.act(obs, explore=True) != best).float().mean()
    assert other.item() == pytest.approx(policy.epsilon() * 2 / 3, abs=0.015)


def test_evaluations_have_their_own_epsilon() -> None:
    policy, obs = ddqn(epsilon_eval=0.3, epsilon_start=0.0, epsilon_end=0.0), torch.zeros(20_000, 1)
    best = policy.act(obs[:1], explore=True)
    other = (policy.act(obs, explore=False) != best).float().mean()
    assert other.item() == pytest.approx(0.2, abs=0.015)


def test_a_low_epsilon_start_lets_copied_weights_act_at_once() -> None:
    """After init_from the count of updates is 0 again, as in a new run."""
    policy, obs = ddqn(epsilon_start=0.03, epsilon_end=0.03), torch.zeros(20_000, 1)
    best = policy.act(obs[:1], explore=False)
    other = (policy.act(obs, explore=True) != best).float().mean()
    assert other.item() == pytest.approx(0.02, abs=0.005)


def test_importance_weighs_the_loss_and_priorities_are_td_errors() -> None:
    """Errors 10, 0.5 and none at a boundary; Huber losses 9.5 and 0.125, weights 0.5 and 1."""
    policy = ddqn(gamma=0.0)
    policy.online.load_state_dict({k: torch.zeros_like(x) for k, x in policy.online.state_dict().items()})
    batch = batched(*(window([0.0, r], [F, F], [F, f]) for r, f in ((-10.0, F), (0.5, F), (7.0, T))))
    metrics, error = policy.update_weighted(batch, torch.tensor([0.5, 1.0, 1.0]))
    assert error.tolist() == [10.0, 0.5, 0.0]
    assert metrics["policy/loss"] == pytest.approx((0.5 * 9.5 + 0.125) / 2)


def test_c51_priority_is_the_kl_divergence() -> None:
    logits, head = torch.randn(4, 5), C51Head(5, 0.0, 1.0)
    torch.testing.assert_close(head.priority(logits, logits.softmax(-1)), torch.zeros(4))
    certain = torch.eye(5)[:1]
    torch.testing.assert_close(head.priority(torch.zeros(1, 5), certain), torch.tensor([5.0]).log())


def test_n_and_gamma_of_the_target_are_annealed() -> None:
    """Within 4 updates from 3 steps at 0.5 to 1 step at 0.875: after 2 of them 2 steps (from 1.73) at 0.75."""
    policy = ddqn(n_step=1, gamma=0.875, resets={"n_step_start": 3, "gamma_start": 0.5, "anneal_updates": 4})
    policy.online, policy.target_network = Table(ONLINE), Table(TARGET)
    steps = window([100.0, 1.0, 2.0, 4.0], [F, F, F, F], [T, F, F, F])
    assert policy.window == 4
    for updates, wanted in ((0, 1 + 1 + 1 + 80 / 8), (2, 1 + 1.5 + 16 * 0.5625), (4, 1 + 0.875 * 20), (9, 18.5)):
        policy.updates = updates
        windows = bootstrap_windows(steps, policy.n_step)
        assert policy.td_target(windows).tolist() == pytest.approx([wanted], rel=1e-6)


def test_reset_replaces_heads_target_network_and_optimizer_state() -> None:
    policy, step = ddqn(resets={"every": 3, "until": 5}), window([0.0, 3.0], [F, F], [F, F])
    sizes = []
    for _ in range(7):
        before = weights(policy.online)
        policy.update(step)
        moved = (weights(policy.online) - before).abs().max().item()
        sizes.append(moved > 0.02)
        assert torch.equal(weights(policy.target_network), weights(policy.online)) == (moved > 0.02)
        assert all((x == 0).all() for s in policy.opt.state.values() for x in s.values()) == (moved > 0.02)
    assert sizes == [F, F, T, F, F, F, F]
    assert policy.updates == 7


@pytest.mark.parametrize(("name", "value"), [("random_shift", 4), ("random_intensity", 0.05)])
def test_augmentation_needs_images(name: str, value: float) -> None:
    with pytest.raises(
        ValueError, match=rf"policy\.optim\.{name} is {value}; it must be 0 where observations are no images"
    ):
        ddqn(**{name: value})


def test_random_intensity_is_of_scaled_images() -> None:
    policy = ddqn(EnvSpec((1, 25, 25), torch.uint8, 2, True), encoder=partial(Der, hidden=0), random_intensity=0.05)
    obs = policy.augment(torch.full((50, 1, 25, 25), 255, dtype=torch.uint8))
    assert obs.dtype == torch.float32 and 0.89 < obs.min() < 0.96 and 1.04 < obs.max() < 1.11
    assert torch.equal(obs, obs[..., :1, :1].expand_as(obs)), "one number for an image"


@pytest.mark.parametrize("acts", [False, True])
def test_the_target_network_acts_if_it_is_set_to(acts: bool) -> None:
    """In observation 1 the online network prefers action 1, the target network action 0."""
    policy = ddqn(acts=acts, epsilon_start=0.0, epsilon_end=0.0)
    policy.online, policy.target_network = Table(ONLINE), Table(TARGET)
    obs = torch.ones(5, 1)
    expected = 0 if acts else 1
    for explore in (False, True):
        assert policy.act(obs, explore).tolist() == [expected] * 5
    assert policy.scores(obs)[0].tolist() == ([30, 20, 10] if acts else [4, 7, 5])
    assert policy.value(obs)[0] == (30 if acts else 7)
    target = policy.td_target(window([0.0, 3.0], [F, F], [F, F]))
    assert target.tolist() == [3 + 0.5 * 20], "selection for the target stays with the online network"


def test_layer_norm_is_in_both_streams() -> None:
    policy = ddqn(dueling=True, norm=True)
    for stream in (policy.online.advantage, policy.online.base):
        assert isinstance(stream, nn.Sequential)
        kinds = [type(layer).__name__ for layer in stream]
        assert kinds == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Fp32Linear"]


def test_optimiser_has_eps_and_decoupled_weight_decay() -> None:
    """One update from equal weights: as torch's AdamW from the same gradient."""
    plain = ddqn(lr=0.01, eps=0.1, clip=0.0)
    decayed = ddqn(lr=0.01, eps=0.1, clip=0.0, weight_decay=3.0)
    decayed.load_state_dict(plain.state_dict())
    before, steps = weights(plain.online), window([0.0, 3.0], [F, T], [F, F])
    plain.update(steps)
    decayed.update(steps)
    gradient = torch.cat([p.grad.flatten() for p in plain.online.parameters() if p.grad is not None])
    torch.testing.assert_close(weights(plain.online), before - 0.01 * gradient / (gradient.abs() + 0.1))
    torch.testing.assert_close(weights(decayed.online), weights(plain.online) - 0.03 * before)


def test_continuous_actions_and_an_empty_support_are_rejected() -> None:
    with pytest.raises(ValueError, match="ddqn needs discrete actions"):
        ddqn(EnvSpec((3,), torch.float32, 2, False))
    with pytest.raises(ValueError, match=r"policy\.head\.v_min is 4\.0; it must be below policy\.head\.v_max, 4\.0"):
        ddqn(atoms=51, v_min=4.0)


@pytest.mark.parametrize("settings", [{}, {"atoms": 51, "dueling": True}])
def test_bf16_losses_are_float32(settings: dict[str, Any]) -> None:
    policy = ddqn(**settings)
    with torch.autocast("cpu", torch.bfloat16):
        metrics = policy.update(window([0.0, 3.0], [F, F], [F, F]))
        assert policy.td_target(window([0.0, 3.0], [F, F], [F, F])).dtype == torch.float32
    assert metrics["policy/loss"].dtype == torch.float32  # type: ignore[union-attr]


class Chain(gymnasium.Env):
    """Places 0, 1, 2 as one-hot: action 1 goes on, and beyond the last pays 1 and ends; action 0 stays.

    After `limit` steps time is up, which the observation does not show.
    """

    observation_space = Box(0, 1, (3,), np.float32)
    action_space = Discrete(2)

    def __init__(self, limit: int) -> None:
        self.limit, self.place, self.time = limit, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.time = int(self.np_random.integers(3)), 0
        return np.eye(3, dtype=np.float32)[self.place], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        self.place += int(action)
        over = self.place == 3
        return np.eye(3, dtype=np.float32)[min(self.place, 2)], float(over), over, self.time >= self.limit, {}


def seen(make: Any, steps: int) -> tuple[Replay, EnvSpec]:
    """Replay of random actions in four environments."""
    envs = Envs(make, 4, seed=0)
    replay = Replay(envs.spec, 10_000, 4, seed=0)
    replay.add(envs.reset())
    for _ in range(steps):
        replay.add(envs.step(envs.spec.sample(4)))
    return replay, envs.spec


VARIANTS: list[dict[str, Any]] = [
    {},
    {"double": False, "loss": "squared"},
    {"dueling": True},
    {"atoms": 41, "v_max": 1.0},
    {"tau": 1.0, "every": 10},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=["default", "plain", "dueling", "c51", "hard"])
def test_learns_q_values_of_a_chain_with_a_time_limit(settings: dict[str, Any]) -> None:
    """At gamma 0.8 going on is worth 0.64, 0.8 and 1, staying 0.8 of the better one; a limit of 2 changes nothing."""
    replay, spec = seen(lambda: Chain(limit=2), 200)
    policy = ddqn(spec, **({"gamma": 0.8, "depth": 1, "lr": 1e-2, "tau": 0.1} | settings))
    for _ in range(400 if "every" in settings else 200):  # ten seeds: at most 0.018 and 0.008 away
        policy.update(replay.sample(64, policy.window, policy.n_step))
    with torch.no_grad():
        q = policy.q_values(torch.eye(3))
    torch.testing.assert_close(q, torch.tensor([[0.512, 0.64], [0.64, 0.8], [0.8, 1.0]]), atol=0.04, rtol=0)


class Forever(gymnasium.Env):
    """Pays 1 at each of 4 steps and says nothing; then comes a terminal state, or time is up."""

    observation_space = Box(0, 1, (1,), np.float32)
    action_space = Discrete(2)

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.time = terminal, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self.time = 0
        return np.ones(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.time += 1
        over = self.time == 4
        return np.ones(1, np.float32), 1.0, over and self.terminal, over and not self.terminal, {}


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("settings", [{"loss": "squared"}, {"atoms": 51, "v_max": 4.0}], ids=["scalar", "c51"])
def test_a_time_limit_bootstraps_and_termination_does_not(n_step: int, settings: dict[str, Any]) -> None:
    """Without an end the value at gamma 0.5 is 2. An end at every fourth step, from a state that looks the same,
    leaves the mean over the four of what n steps bring: v = mean of the sums + v * mean of the discounts."""
    sums, discounts = [], []
    for left in (4, 3, 2, 1):
        sums.append(sum(0.5**k for k in range(min(left, n_step))))
        discounts.append(0.5**n_step if left > n_step else 0.0)
    with_end = sum(sums) / 4 / (1 - sum(discounts) / 4)
    assert with_end < 1.75
    for terminal, expected in ((False, 2.0), (True, with_end)):
        replay, spec = seen(lambda terminal=terminal: Forever(terminal), 101)
        policy = ddqn(spec, n_step=n_step, depth=0, lr=2e-2, tau=0.1, **settings)
        for _ in range(200):
            policy.update(replay.sample(128, policy.window, policy.n_step))
        with torch.no_grad():
            value = policy.q_values(torch.ones(1, 1))
        torch.testing.assert_close(value, torch.full((1, 2), expected), atol=0.1, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_learns_cartpole(seed: int, tmp_path: Path) -> None:
    """Random actions keep the pole up for about 22 steps."""
    runner = make_run("ddqn", "cartpole", "video.final=0", "eval.every=0", folder=tmp_path, seed=seed)
    final = runner.run()
    runner.envs.close()
    assert runner.steps <= 50_000 and final["final/return"] >= 475
