"""Adam with little around its arithmetic."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mbrl_lab.nets.precision import differentiate
from mbrl_lab.ops import clip_norm


class Adam(torch.optim.Adam):
    """torch's fused Adam, its settings and its state; a step keeps its books once, not a parameter at a time.

    What torch.optim does around the arithmetic takes longer than the arithmetic of a small network.
    """

    def __init__(self, params: Any, lr: float, eps: float = 1e-8) -> None:
        super().__init__(params, lr, eps=eps, fused=True)

    def minimise(self, loss: Tensor) -> None:
        """A step along the gradient of a loss in this optimiser's parameters; no other parameter gets a gradient."""
        self.differentiate(loss)
        self.step()

    def minimise_clipped(self, loss: Tensor, max_norm: float) -> Tensor:
        """`minimise` with gradients scaled to a norm of at most `max_norm` (0: not); returns the norm before that."""
        norm = clip_norm(self.differentiate(loss), max_norm or math.inf)
        self.step()
        return norm

    def differentiate(self, loss: Tensor) -> list[Tensor]:
        """Its parameters, whose gradients are then those of a loss; nothing else that the loss depends on gets any."""
        params = [p for group in self.param_groups for p in group["params"]]
        self.zero_grad()
        differentiate(loss, params)
        return params

    def zero_grad(self, set_to_none: bool = True) -> None:
        assert set_to_none
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] or self._begin(p) for p in params]
            means, squares, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            beta1, beta2 = group["betas"]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                params,
                [p.grad for p in params],
                means,
                squares,
                [],
                steps,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    step.hooked = True  # type: ignore[attr-defined]  # else torch wraps it, in what takes a fifth of its time

    def _begin(self, p: Tensor) -> dict[str, Tensor]:
        zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        self.state[p] = {"step": torch.zeros((), device=p.device), **zeros}
        return self.state[p]
