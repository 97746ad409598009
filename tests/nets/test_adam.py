"""The lean Adam against torch's own."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mbrl_lab.nets import adam
from mbrl_lab.nets.adam import ARGUMENTS, Adam, fused_kernel


def train(net: nn.Module, opt: torch.optim.Optimizer, steps: int) -> None:
    for k in range(steps):
        opt.zero_grad()
        net(torch.full((5, 3), 0.1 * k)).square().sum().backward()
        opt.step()


def groups(net: nn.Sequential) -> list[dict[str, object]]:
    return [{"params": net[0].parameters(), "weight_decay": 0.1}, {"params": net[1].parameters(), "lr": 0.2}]


def test_step_equals_torch_adam_bit_for_bit() -> None:
    ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    train(ours, Adam(groups(ours), 0.1, eps=1e-5), 7)
    train(theirs, torch.optim.Adam(groups(theirs), 0.1, eps=1e-5, fused=True), 7)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize("kernel", [adam.KERNEL, None])
def test_decoupled_decay_equals_adamw(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adam, "KERNEL", kernel)
    ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    train(ours, Adam(ours.parameters(), 0.1, eps=1e-4, decoupled_decay=0.5), 7)
    train(theirs, torch.optim.AdamW(theirs.parameters(), 0.1, eps=1e-4, weight_decay=0.5), 7)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_decoupled_decay_by_hand() -> None:
    """A first step of Adam is as long as its learning rate; the decay takes 0.1 * 2 of what was there before."""
    a, b = nn.Parameter(torch.full((2,), 10.0)), nn.Parameter(torch.ones(2))
    opt = Adam([a, b], 0.1, decoupled_decay=2.0)
    (3 * a).sum().backward()
    opt.step()
    torch.testing.assert_close(a.detach(), torch.full((2,), 10 * 0.8 - 0.1))
    assert torch.equal(b, torch.ones(2)), "no gradient, no decay"


@pytest.mark.parametrize("kind", [Adam, torch.optim.Adam])
def test_state_dict_is_that_of_torch_adam(kind: type[torch.optim.Adam]) -> None:
    net = nn.Linear(3, 2)
    opt = Adam(net.parameters(), 0.1)
    train(net, opt, 3)
    twin = copy.deepcopy(net)
    other = kind(twin.parameters(), 0.7)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    train(net, opt, 2)
    train(twin, other, 2)
    assert torch.equal(net.weight, twin.weight)


def test_parameters_without_gradient_are_left_alone() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = Adam([a, b], 0.1)
    a.sum().backward()
    opt.step()
    assert torch.allclose(a, torch.full((2,), 0.9))
    assert torch.equal(b, torch.ones(2))
    assert b not in opt.state


def library(names: tuple[str, ...], **attributes: object) -> SimpleNamespace:
    """Stands for a torch whose kernel has arguments of these names, the last of them with a default value."""
    arguments = [SimpleNamespace(name=n, has_default_value=lambda n=n: n == names[-1]) for n in names]
    operator = SimpleNamespace(default=SimpleNamespace(_schema=SimpleNamespace(arguments=arguments)))
    ops = SimpleNamespace(aten=SimpleNamespace(_fused_adam_=operator))
    return SimpleNamespace(**{"_fused_adam_": len, "_foreach_add_": len, "ops": ops} | attributes)


def test_the_private_kernel_is_used_only_if_its_arguments_are_known() -> None:
    assert fused_kernel() is torch._fused_adam_
    assert fused_kernel(library((*ARGUMENTS, "grad_scale"))) is len
    assert fused_kernel(library((*ARGUMENTS, "another", "grad_scale"))) is None, "one more that must be given"
    assert fused_kernel(library(ARGUMENTS[:-1])) is None, "one less"
    assert fused_kernel(library((*ARGUMENTS[:6], "beta1", "lr", *ARGUMENTS[8:], "grad_scale"))) is None, "another order"
    assert fused_kernel(library(ARGUMENTS, _fused_adam_=None)) is None
    assert fused_kernel(library(ARGUMENTS, ops=SimpleNamespace(aten=SimpleNamespace()))) is None


def test_fallback_without_the_private_kernel_equals_torch_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after one state: the kernel may be lost between a checkpoint and its resume."""
    ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    theirs = copy.deepcopy(ours)
    opt = Adam(groups(ours), 0.1, eps=1e-5)
    train(ours, opt, 2)

    monkeypatch.setattr(adam, "KERNEL", None)
    monkeypatch.setattr(Adam, "_initial_state", None)
    train(ours, opt, 5)
    late = nn.Linear(2, 1)
    train_one = Adam(late.parameters(), 0.1)
    late(torch.ones(1, 2)).sum().backward()
    train_one.step()
    assert train_one.state[late.weight]["step"] == 1

    reference = torch.optim.Adam(groups(theirs), 0.1, eps=1e-5, fused=True)
    train(theirs, reference, 2)
    train(theirs, reference, 5)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_a_copy_keeps_the_decay() -> None:
    assert copy.deepcopy(Adam(nn.Linear(2, 1).parameters(), 0.1, decoupled_decay=0.2)).decoupled_decay == 0.2
