"""Last layers of critics, Q-networks and reward heads are float32 under autocast: values near 500 stay apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from mbrl_lab.config import CONF, build
from mbrl_lab.nets.encoder import Vector
from mbrl_lab.types import EnvSpec

LEVEL = 500.0
ROWS = 200
DISCRETE = EnvSpec((11,), torch.float32, 4, True)
CONTINUOUS = EnvSpec((11,), torch.float32, 3, False)
Net = tuple[Callable[[Tensor], Tensor], Tensor, Tensor]
"""A function of observations [N, 11], and weights and biases of its last layer."""


def made(part: str, spec: EnvSpec = DISCRETE, **settings: object) -> nn.Module:
    """A part by its config file, with layers of 64 units."""
    group = part.partition("/")[0]
    cfg = OmegaConf.merge({group: OmegaConf.load(CONF / f"{part}.yaml")}, {group: {"width": 64, **settings}})
    assert isinstance(cfg, DictConfig)
    cfg[group].pop("defaults", None)
    if "encoder" in cfg[group]:
        cfg[group].encoder = {"_target_": f"{Vector.__module__}.Vector", "_partial_": True}
    return build(cfg[group])(spec)


def q_network(**settings: object) -> Net:
    net = made("policy/ddqn", **settings).online
    last = net.advantage[-1]
    return net, last.weight, last.bias


def sac_critic() -> Net:
    policy = made("policy/sac", CONTINUOUS)
    action = torch.rand(ROWS, 3) * 2 - 1
    return lambda obs: policy.q_values(policy.critic, obs, action), policy.critic.weights[-1], policy.critic.biases[-1]


def ppo_critic() -> Net:
    policy = made("policy/ppo")
    return policy.v, policy.critic[-1].weight, policy.critic[-1].bias


def dreamer_critic(bins: int = 0) -> Net:
    policy = made("policy/actor_critic", bins=bins)
    return policy.critic, policy.critic[-1].weight, policy.critic[-1].bias


def reward_head(bins: int = 0) -> Net:
    model = made("dynamics/latent", state={"size": 11}, bins=bins)
    return model.reward, model.reward[-1].weight, model.reward[-1].bias


def rssm_reward_head() -> Net:
    model = made("dynamics/rssm", state={"units": 8, "blocks": 1, "groups": 1, "classes": 3}, bins=0)
    return model.reward, model.reward[-1].weight, model.reward[-1].bias


NUMBERS = [q_network, lambda: q_network(head={"dueling": True}), sac_critic, ppo_critic, dreamer_critic, reward_head]
NUMBERS += [rssm_reward_head]
LOGITS = [lambda: q_network(head={"atoms": 51}), lambda: dreamer_critic(255), lambda: reward_head(255)]
NAMES = ["ddqn", "dueling", "sac", "ppo", "dreamer", "latent reward", "rssm reward"]


def outputs(net: Net, bias: float) -> tuple[Tensor, Tensor]:
    """(in float32, under autocast), where the last layer is random about a bias."""
    function, weight, offset = net
    nn.init.normal_(weight, std=0.1)
    nn.init.constant_(offset, bias)
    obs = torch.randn(ROWS, 11)
    with torch.no_grad():
        exact = function(obs)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = function(obs)
    assert not torch.equal(exact, rounded), "nothing was computed in bfloat16"
    return exact, rounded


@pytest.mark.parametrize("make", NUMBERS, ids=NAMES)
def test_values_near_500_are_distinguished(make: Callable[[], Net]) -> None:
    """bfloat16 has every second number there only."""
    exact, rounded = outputs(make(), LEVEL)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.1
    assert len(rounded.flatten().unique()) > 0.9 * rounded.numel()


@pytest.mark.parametrize("make", LOGITS, ids=["c51", "dreamer", "latent reward"])
def test_logits_keep_their_precision(make: Callable[[], Net]) -> None:
    _, rounded = outputs(make(), 0.0)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, rounded.bfloat16().float())


@pytest.mark.parametrize("dueling", [False, True])
def test_the_greedy_action_does_not_depend_on_the_level_of_values(dueling: bool) -> None:
    net = q_network(head={"dueling": dueling})
    exact, rounded = (x.squeeze(-1).argmax(-1) for x in outputs(net, LEVEL))
    assert (exact != rounded).float().mean() < 0.05
