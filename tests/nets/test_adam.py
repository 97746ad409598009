"""The lean Adam against torch's own."""

import copy

import pytest
import torch
from torch import nn

from mbrl_lab.nets.adam import Adam


def train(net: nn.Module, opt: torch.optim.Optimizer, steps: int) -> None:
    for k in range(steps):
        opt.zero_grad()
        net(torch.full((5, 3), 0.1 * k)).square().sum().backward()
        opt.step()


def groups(net: nn.Sequential) -> list[dict[str, object]]:
    return [{"params": net[0].parameters(), "weight_decay": 0.1}, {"params": net[1].parameters(), "lr": 0.2}]


def test_it_moves_as_torchs_does_to_the_bit() -> None:
    ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    train(ours, Adam(groups(ours), 0.1, eps=1e-5), 7)
    train(theirs, torch.optim.Adam(groups(theirs), 0.1, eps=1e-5, fused=True), 7)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("kind", [Adam, torch.optim.Adam])
def test_its_state_is_torchs(kind: type[torch.optim.Adam]) -> None:
    net = nn.Linear(3, 2)
    opt = Adam(net.parameters(), 0.1)
    train(net, opt, 3)
    twin = copy.deepcopy(net)
    other = kind(twin.parameters(), 0.7)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(net, opt, 2)
    train(twin, other, 2)
    assert torch.equal(net.weight, twin.weight)


def test_a_parameter_without_a_gradient_stays() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = Adam([a, b], 0.1)
    a.sum().backward()
    opt.step()
    assert torch.allclose(a, torch.full((2,), 0.9))
    assert torch.equal(b, torch.ones(2))
    assert b not in opt.state
