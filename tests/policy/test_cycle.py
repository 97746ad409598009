"""When resets come and what they leave, and how far ahead is looked since then, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mbrl_lab.policy.cycle import Cycle, forget, shrink_and_perturb


def cycle(**settings: Any) -> Cycle:
    off = {"n_step_start": 3, "n_step": 3, "gamma_start": 0.9, "gamma": 0.9, "anneal_updates": 0}
    return Cycle(**({"reset_every": 0, "reset_until": 0} | off | settings))


def count(updates: int) -> Tensor:
    return torch.tensor(updates)


def test_resets_come_every_so_many_updates_until_they_do_not() -> None:
    def due(c: Cycle) -> list[int]:
        return [n for n in range(1, 30) if c.due(count(n))]

    assert due(cycle()) == []
    assert due(cycle(reset_every=7)) == [7, 14, 21, 28]
    assert due(cycle(reset_every=7, reset_until=14)) == [7, 14]
    assert due(cycle(reset_every=7, reset_until=20)) == [7, 14]


def test_n_and_one_less_gamma_go_by_the_same_factor_from_each_reset_on() -> None:
    """BBF's ends: n from 10 to 3, gamma from 0.97 to 0.997; half-way lie their geometric means."""
    c = cycle(n_step_start=10, gamma_start=0.97, gamma=0.997, anneal_updates=100, reset_every=300, reset_until=700)
    half = (round(math.sqrt(30)), 1 - math.sqrt(0.03 * 0.003))
    wanted = {0: (10, 0.97), 50: half, 100: (3, 0.997), 299: (3, 0.997)}
    for begin in (0, 300, 600):
        for since, (n, gamma) in wanted.items():
            got = c.horizon(count(begin + since))
            assert [float(x) for x in got] == pytest.approx([n, gamma], abs=1e-6), (begin, since)
    assert float(c.horizon(count(950))[0]) == 3, "the reset at 900 does not come"
    assert c.longest == 10
    steps = [float(c.horizon(count(k))[0]) for k in range(101)]
    assert steps == sorted(steps, reverse=True) and set(steps) == set(range(3, 11))


def test_without_annealing_the_end_holds_at_once() -> None:
    c = cycle(n_step_start=10, gamma_start=0.5)
    assert c.horizon(count(0)) == (3, 0.9) and c.longest == 3


def test_gamma_may_end_at_one() -> None:
    c = cycle(gamma_start=0.5, gamma=1.0, anneal_updates=10)
    assert [float(c.horizon(count(k))[1]) for k in (0, 1, 10)] == [0.5, 1.0, 1.0]


class Net(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
        for p in self.parameters():
            nn.init.constant_(p, value)


@pytest.mark.parametrize(("share", "encoder"), [(0.0, 1.0), (0.25, 2.0), (1.0, 5.0)])
def test_the_encoder_goes_a_share_of_the_way_and_the_head_all_of_it(share: float, encoder: float) -> None:
    net = Net(1.0)
    shrink_and_perturb(net, Net(5.0), share)
    assert all((p == encoder).all() for p in net.encoder.parameters())
    assert all((p == 5.0).all() for p in net.head.parameters())


def test_an_optimizer_that_forgot_goes_on_as_a_new_one() -> None:
    def step(net: nn.Module, opt: torch.optim.Optimizer, slope: float) -> Tensor:
        opt.zero_grad()
        sum((slope * p).sum() for p in net.parameters()).backward()  # type: ignore[union-attr]
        opt.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    def adam(net: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(net.parameters(), 0.1, fused=True)

    old, new, plain = Net(1.0), Net(1.0), Net(1.0)
    opt, kept = adam(old), adam(plain)
    for slope in (5.0, 3.0):
        step(old, opt, slope)
        step(plain, kept, slope)
    for net in (old, plain):
        net.load_state_dict(new.state_dict())
    forget(opt)
    other, slopes = adam(new), (-1.0, -2.0)
    assert all(torch.equal(step(old, opt, s), step(new, other, s)) for s in slopes)
    assert not torch.equal(step(plain, kept, -1.0), step(Net(1.0), adam(Net(1.0)), -1.0))
