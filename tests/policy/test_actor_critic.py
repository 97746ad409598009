"""What an actor and a critic learn from rollouts, and that the imagined world stays as it is."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from mbrl_lab.config import CONF, build
from mbrl_lab.dynamics.sequence import SequenceModel
from mbrl_lab.ops import unimix
from mbrl_lab.policy import actor_critic as module
from mbrl_lab.policy.actor_critic import ActorCritic
from mbrl_lab.protocols import WorldModel
from mbrl_lab.types import EnvSpec, Outcome, Step, Trajectory, Tree

DISCRETE = EnvSpec((2,), torch.float32, 3, discrete=True)
CONTINUOUS = EnvSpec((2,), torch.float32, 1, discrete=False)


GROUPS = {"optim": ("actor_lr", "critic_lr", "clip", "anneal_updates")}


def actor_critic(spec: EnvSpec = DISCRETE, **changed: Any) -> ActorCritic:
    """conf/policy/actor_critic.yaml with other values of its settings or of those in its groups."""
    settings: dict[str, Any] = {
        group: {name: changed.pop(name) for name in names if name in changed} for group, names in GROUPS.items()
    }
    cfg = OmegaConf.merge(OmegaConf.load(CONF / "policy" / "actor_critic.yaml"), settings | changed)
    made = build(cfg)(spec)  # type: ignore[arg-type]
    assert isinstance(made, ActorCritic)
    return made


class Target(SequenceModel):
    """Pays minus the squared distance between the action and a weight of its own; its state is a count, and the pay."""

    def __init__(self, spec: EnvSpec, goes_on: float = 1.0) -> None:
        WorldModel.__init__(self, spec)
        self.goal, self.goes_on = nn.Parameter(torch.tensor([0.6])), goes_on

    def features(self, state: Tree) -> Tensor:
        return state

    def advance(self, state: Tree, action: Tensor) -> Tree:
        sent = action.float() - 1 if self.spec.discrete else action[:, 0]
        return torch.stack([state[:, 0] + 1, -(sent - self.goal).square()], -1)

    def outcome(self, features: Tensor) -> Outcome:
        return Outcome(features[..., 1], torch.full_like(features[..., 1], self.goes_on))


def flat(*shape: int) -> Tensor:
    return torch.ones(shape)


def test_unimix_mixes_in_a_uniform_distribution() -> None:
    logits = torch.tensor([[0.0, 40.0, -40.0]])
    torch.testing.assert_close(unimix(logits, 0.3).exp(), torch.tensor([[0.1, 0.8, 0.1]]))
    torch.testing.assert_close(unimix(logits, 0.0), logits.log_softmax(-1))
    probability = actor_critic().actor(torch.randn(5, 2)).logp.exp()
    torch.testing.assert_close(probability, torch.full((5, 3), 1 / 3), msg="it begins without a preference")


def test_std_lies_between_its_bounds() -> None:
    policy = actor_critic(CONTINUOUS)
    for out, std in ((-50.0, 0.1), (50.0, 1.0)):
        policy.actor.net[-1].bias.data.fill_(out)
        chosen = policy.actor(torch.randn(4, 2))
        torch.testing.assert_close(chosen.log_std.exp(), torch.full((4, 1), std))
        assert chosen.mean.abs().max() <= 1


def test_lambda_returns_are_discounted_by_continue_and_cut_at_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAMBDA", 1.0)
    policy = actor_critic(gamma=0.5)
    policy.target_critic = nn.Linear(2, 1)
    nn.init.constant_(policy.target_critic.weight, 0.5)
    nn.init.constant_(policy.target_critic.bias, 0.0)
    features = torch.arange(5.0).view(5, 1, 1).expand(5, 1, 2)  # worth 2 t: the head's unit is 1 / (1 - gamma)
    reward, discount = torch.ones(4, 1), torch.tensor([[1.0], [0.5], [1.0], [1.0]])
    valid = torch.ones(4, 1, dtype=torch.bool)
    whole, value = policy.returns_and_values(Trajectory(features, torch.zeros(4, 1), reward, discount, valid))
    assert value.flatten().tolist() == [0, 2, 4, 6]
    # from the end: 1 + 8 / 2 = 5, 1 + 5 / 2 = 3.5, 1 + 3.5 / 4 = 1.875, 1 + 1.875 / 2
    torch.testing.assert_close(whole.flatten(), torch.tensor([1.9375, 1.875, 3.5, 5.0]))
    valid[2] = False
    cut, _ = policy.returns_and_values(Trajectory(features, torch.zeros(4, 1), reward, discount, valid))
    torch.testing.assert_close(cut[:2].flatten(), torch.tensor([2.0, 2.0]))  # 1 + 4 / 4, and 1 + 2 / 2


def test_an_imagined_trajectory_is_what_the_model_predicts() -> None:
    seen = Target(DISCRETE, 0.75).imagine_trajectory(lambda f: torch.full((len(f),), 2), torch.zeros(5, 2), 3)
    assert seen.features[:, 0, 0].tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(seen.reward, torch.full((3, 5), -0.16))
    assert seen.cont.unique().tolist() == [0.75] and seen.valid.all()


def test_an_imagined_trajectory_has_the_dtype_of_the_networks() -> None:
    for enabled, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled):
            seen = Target(DISCRETE).imagine_trajectory(lambda f: torch.ones(len(f)), torch.zeros(5, 2), 3)
            assert seen.features.dtype == dtype


def test_steps_of_replay_as_a_trajectory() -> None:
    no = torch.zeros(3, 1, dtype=torch.bool)
    first, terminal = no.clone(), no.clone()
    first[2] = terminal[1] = True
    obs = torch.arange(6.0).view(3, 1, 2)
    reward = torch.tensor([[0.0], [2.0], [0.0]])
    seen = Step(torch.tensor([[0], [1], [0]]), obs, reward, terminal, first).trajectory()
    assert seen.cont.flatten().tolist() == [0, 1] and seen.valid.flatten().tolist() == [True, False]
    assert seen.action.flatten().tolist() == [1, 0] and seen.reward.flatten().tolist() == [2, 0]


@pytest.mark.parametrize(
    ("spec", "gradient"), [(DISCRETE, "reinforce"), (CONTINUOUS, "reinforce"), (CONTINUOUS, "dynamics")]
)
def test_the_world_model_gets_no_gradients(spec: EnvSpec, gradient: str) -> None:
    world, policy = Target(spec), actor_critic(spec, gradient=gradient)
    before = {name: x.clone() for name, x in policy.named_parameters()}
    start = torch.zeros(8, 2, requires_grad=True)
    for _ in range(3):
        policy.learn_in(world, start, 4)
    assert world.goal.grad is None and start.grad is None and world.goal.item() == pytest.approx(0.6)
    assert all(p.grad is None for p in policy.target_critic.parameters())
    changed = {name.split(".")[0] for name, x in policy.named_parameters() if not torch.equal(x, before[name])}
    assert changed == {"actor", "averaged_actor", "critic", "target_critic"}


@pytest.mark.parametrize("bins", [0, 255])
@pytest.mark.parametrize(
    ("spec", "gradient", "best"),
    [(DISCRETE, "reinforce", 2.0), (CONTINUOUS, "reinforce", 0.6), (CONTINUOUS, "dynamics", 0.6)],
)
def test_finds_the_best_action_and_its_value(
    spec: EnvSpec, gradient: str, best: float, bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(module, "STD", (0.1, 0.2))
    rates = {"actor_lr": 1e-2, "critic_lr": 1e-2, "tau": 0.2, "gamma": 0.5}
    policy = actor_critic(spec, gradient=gradient, bins=bins, **rates)
    world = Target(spec)
    for _ in range(150):
        policy.learn_in(world, torch.zeros(64, 2), 4)
    chosen = policy.act(torch.zeros(3, 2), explore=False).float().flatten()
    assert (chosen - best).abs().max() < 0.15
    noise = 0.16 if spec.discrete else policy.actor(torch.zeros(1, 2)).log_std.exp().square().item()
    worth = policy.head.mean(policy.critic(torch.zeros(1, 2))).item()
    assert worth == pytest.approx(-2 * noise, abs=0.05)


def test_steps_after_a_likely_termination_have_little_weight() -> None:
    """Three steps of which each goes on with 0.1: the actor's loss is the mean of 1, 0.1 and 0.01 times the entropy."""
    policy = actor_critic(entropy_coef=1.0)
    nothing, action = 0 * flat(3, 5), torch.zeros(3, 5, dtype=torch.int64)
    seen = Trajectory(flat(4, 5, 2), action, nothing, 0.1 * flat(3, 5), flat(3, 5) > 0)
    loss = policy._learn(seen, "reinforce")["policy/actor_loss"]
    assert float(loss) == pytest.approx(-math.log(3) * 1.11 / 3, rel=1e-4)


def test_return_range_is_a_moving_average_of_percentiles() -> None:
    policy = actor_critic()
    policy._update_return_range(torch.linspace(0, 1000, 101))
    assert policy.return_range.item() == pytest.approx(0.01 * 900)
    for _ in range(1000):
        policy._update_return_range(torch.linspace(0, 1000, 101))
    assert policy.return_range.item() == pytest.approx(900, rel=1e-3)


def test_update_critic_leaves_the_actor_alone() -> None:
    policy = actor_critic(gamma=0.5, critic_lr=1e-2, tau=0.1)
    before = copy.deepcopy(policy.actor.state_dict())
    no = torch.zeros(5, 16, dtype=torch.bool)
    rows = Step(torch.zeros(5, 16, dtype=torch.int64), flat(5, 16, 2), flat(5, 16), no, no)
    for _ in range(200):
        policy.update_critic(rows)
    assert policy.head.mean(policy.critic(flat(1, 2))).item() == pytest.approx(2.0, abs=0.1)
    assert all(torch.equal(x, before[name]) for name, x in policy.actor.state_dict().items())


def test_learning_rates_are_annealed_to_a_hundredth() -> None:
    policy = actor_critic(anneal_updates=4, actor_lr=1.0, critic_lr=2.0)
    rates = []
    for _ in range(6):
        policy.learn_in(Target(DISCRETE), torch.zeros(2, 2), 2)
        rates.append((policy.actor_opt.param_groups[0]["lr"], policy.critic_opt.param_groups[0]["lr"]))
    assert rates == [(1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (0.5, 1.0), (0.01, 0.02), (0.01, 0.02)]


def test_invalid_settings_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"policy=actor_critic reads vectors, .* not images of \(4, 10, 10\): try"):
        actor_critic(EnvSpec((4, 10, 10), torch.uint8, 6, discrete=True))
    with pytest.raises(ValueError, match=r"^policy.gradient is 'dynamics'; it must be reinforce where actions"):
        actor_critic(gradient="dynamics")
