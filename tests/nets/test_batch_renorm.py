"""Batch renormalisation against torch's batch normalisation and against the paper's formula."""

from __future__ import annotations

import copy

import torch
from torch.nn import functional as F

from mbrl_lab.nets.batch_renorm import EPSILON, BatchRenorm, RenormMLP


def test_in_the_warmup_it_is_batch_normalisation() -> None:
    torch.manual_seed(0)
    norm, x = BatchRenorm(2, 3, momentum=0.9, warmup=10), 2 + 3 * torch.randn(2, 64, 3)
    mean, var = torch.zeros(6), torch.ones(6)
    flat = x.transpose(0, 1).flatten(1)
    expected = F.batch_norm(flat, mean, var, training=True, momentum=0.1, eps=EPSILON)
    torch.testing.assert_close(norm(x).transpose(0, 1).flatten(1), expected)
    torch.testing.assert_close(norm.mean.flatten(), mean)

    # torch's running variance is the unbiased one.
    torch.testing.assert_close(norm.var.flatten(), 0.9 + 0.1 * flat.var(0, correction=0))
    norm.eval()
    standardised = (x - norm.mean) / (norm.var + EPSILON).sqrt()
    torch.testing.assert_close(norm(x), standardised)


def test_after_the_warmup_the_running_moments_correct_it() -> None:
    torch.manual_seed(0)
    norm = BatchRenorm(1, 2, momentum=0.99, warmup=0)
    norm.mean.copy_(torch.tensor([[[0.5, 0.0]]]))
    norm.var.copy_(torch.tensor([[[1.0, 1e-4]]]))
    before = norm.mean.clone(), norm.var.clone()
    x = torch.randn(1, 32, 2)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
    running = (before[1] + EPSILON).sqrt()
    r = ((var + EPSILON).sqrt() / running).clamp(1 / 3, 3)
    d = ((mean - before[0]) / running).clamp(-5, 5)
    torch.testing.assert_close(norm(x), (x - mean) / (var + EPSILON).sqrt() * r + d)
    assert r[0, 0, 1] == 3, "clipped, as this batch varies far more than those before"


def test_members_have_separate_moments() -> None:
    torch.manual_seed(0)
    net = RenormMLP(2, 3, 1, width=8, depth=2, momentum=0.9, warmup=0)
    x = torch.randn(2, 16, 3)
    changed = x.clone()
    changed[1] += 5
    # A copy, as a call moves the running moments.
    torch.testing.assert_close(copy.deepcopy(net)(changed)[0], net(x)[0])
    net(x)[0].sum().backward()
    assert all(p.grad is not None and p.grad[1].abs().sum() == 0 for p in net.parameters())
