"""When resets happen, what they keep, and the annealing of n and gamma, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mbrl_lab.policy.resets import Resets, reset_optimizer, shrink_and_perturb


def resets(**changed: Any) -> Resets:
    off = {"every": 0, "until": 0, "shrink": 0.5, "anneal_updates": 0, "n_step_start": 3, "gamma_start": 0.9}
    return Resets(**off | changed)


def test_resets_are_periodic_until_the_last() -> None:
    def due(r: Resets) -> list[int]:
        return [n for n in range(1, 30) if r.due(n)]

    assert due(resets()) == []
    assert due(resets(every=7)) == [7, 14, 21, 28]
    assert due(resets(every=7, until=14)) == [7, 14]
    assert due(resets(every=7, until=20)) == [7, 14]


def test_n_and_one_minus_gamma_are_annealed_geometrically_after_each_reset() -> None:
    """BBF's ends: n from 10 to 3, gamma from 0.97 to 0.997; half-way lie their geometric means."""
    r = resets(n_step_start=10, gamma_start=0.97, anneal_updates=100, every=300, until=700)
    half = (round(math.sqrt(30)), 1 - math.sqrt(0.03 * 0.003))
    wanted = {0: (10, 0.97), 50: half, 100: (3, 0.997), 299: (3, 0.997)}
    for begin in (0, 300, 600):
        for since, (n, gamma) in wanted.items():
            got = r.anneal(begin + since, 3, 0.997)
            assert [float(x) for x in got] == pytest.approx([n, gamma], abs=1e-6), (begin, since)
    assert float(r.anneal(950, 3, 0.997)[0]) == 3, "the reset at 900 does not come"
    assert r.longest(3) == 10
    steps = [float(r.anneal(k, 3, 0.997)[0]) for k in range(101)]
    assert steps == sorted(steps, reverse=True) and set(steps) == set(range(3, 11))


def test_without_annealing_the_final_n_and_gamma_hold() -> None:
    r = resets(n_step_start=10, gamma_start=0.5)
    assert r.anneal(0, 3, 0.9) == (3, 0.9) and r.longest(3) == 3


def test_gamma_may_be_annealed_to_one() -> None:
    r = resets(gamma_start=0.5, anneal_updates=10)
    assert [float(r.anneal(k, 3, 1.0)[1]) for k in (0, 1, 10)] == [0.5, 1.0, 1.0]


class Net(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(2, 2), nn.Linear(2, 1)
        for p in self.parameters():
            nn.init.constant_(p, value)


@pytest.mark.parametrize(("shrink", "encoder"), [(0.0, 1.0), (0.25, 2.0), (1.0, 5.0)])
def test_shrink_and_perturb_keeps_part_of_the_encoder_only(shrink: float, encoder: float) -> None:
    net = Net(1.0)
    shrink_and_perturb(net, Net(5.0), shrink)
    assert all((p == encoder).all() for p in net.encoder.parameters())
    assert all((p == 5.0).all() for p in net.head.parameters())


def test_a_reset_optimizer_steps_like_a_new_one() -> None:
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
    reset_optimizer(opt)
    other, slopes = adam(new), (-1.0, -2.0)
    assert all(torch.equal(step(old, opt, s), step(new, other, s)) for s in slopes)
    assert not torch.equal(step(plain, kept, -1.0), step(Net(1.0), adam(Net(1.0)), -1.0))
