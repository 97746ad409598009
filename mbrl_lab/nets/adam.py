"""Adam with little around its arithmetic, and learning rates that fall with the count of updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mbrl_lab.nets.precision import differentiate
from mbrl_lab.ops import clip_norm

ARGUMENTS: tuple[str, ...] = ("self", "grads", "exp_avgs", "exp_avg_sqs", "max_exp_avg_sqs", "state_steps")
ARGUMENTS += ("lr", "beta1", "beta2", "weight_decay", "eps", "amsgrad", "maximize")
"""Of torch's private kernel, as `Adam.step` gives them."""


def fused_kernel(library: Any = torch) -> Callable[..., None] | None:
    """torch's private fused Adam kernel; None if this torch has none, or one that takes other arguments."""
    kernel = getattr(library, "_fused_adam_", None)
    operator = getattr(library.ops.aten, "_fused_adam_", None)
    if kernel is None or operator is None or not hasattr(library, "_foreach_add_"):
        return None
    arguments = operator.default._schema.arguments
    known, further = arguments[: len(ARGUMENTS)], arguments[len(ARGUMENTS) :]
    same = tuple(a.name for a in known) == ARGUMENTS and all(a.has_default_value() for a in further)
    return kernel if same else None


KERNEL = fused_kernel()
"""What a step calls; None: torch.optim.Adam's own step, which takes longer and computes the same."""

FINAL_FACTOR = 0.01
"""Of the learning rate, at the end of annealing."""


class Adam(torch.optim.Adam):
    """torch's fused Adam, its settings and its state; a step does its bookkeeping once, not for each parameter.

    What torch.optim does around the arithmetic takes longer than the arithmetic of a small network.
    """

    def __init__(
        self, params: Any, lr: float, eps: float = 1e-8, beta1: float = 0.9, decoupled_decay: float = 0.0
    ) -> None:
        """
        Args:
            params: parameters, or groups of them, as torch's.
            lr: learning rate.
            eps: added to the root of the second moment.
            beta1: decay of the first moment.
            decoupled_decay: AdamW's (Loshchilov and Hutter 2019): a step first multiplies weights by 1 - lr
                times this. torch's own `weight_decay`, which is added to the gradient, stays a setting of groups.
        """
        super().__init__(params, lr, (beta1, 0.999), eps, fused=True)
        self.decoupled_decay = decoupled_decay

    def __getstate__(self) -> dict[str, Any]:
        # torch's own has its settings and state only, so that a copy would lack this.
        return super().__getstate__() | {"decoupled_decay": self.decoupled_decay}

    def minimise(self, loss: Tensor) -> None:
        """A step along the gradient of a loss in this optimiser's parameters; no other parameter gets a gradient."""
        differentiate(loss, self.parameters())
        self.step()

    def minimise_clipped(self, loss: Tensor, max_norm: float, clipped: Iterable[Tensor] | None = None) -> Tensor:
        """`minimise` with gradients scaled to a norm of at most `max_norm` (0: not); returns the norm before that.

        `clipped`: the parameters that this is about; None: all.
        """
        params = self.parameters()
        differentiate(loss, params)
        norm = clip_norm(params if clipped is None else clipped, max_norm or math.inf)
        self.step()
        return norm

    def parameters(self) -> list[Tensor]:
        """Its parameters, their gradients cleared.

        Losses are differentiated with respect to these alone: a critic's depends on the actor too, and an actor's on
        the critics, where it must not leave gradients.
        """
        self.zero_grad()
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none: bool = True) -> None:
        assert set_to_none
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        if self.decoupled_decay:
            for group in self.param_groups:
                learned = [p for p in group["params"] if p.grad is not None]
                torch._foreach_mul_(learned, 1 - group["lr"] * self.decoupled_decay)
        if KERNEL is None:
            super().step()
            return
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] or self._initial_state(p) for p in params]
            means, squares, steps = ([s[name] for s in states] for name in ("exp_avg", "exp_avg_sq", "step"))
            beta1, beta2 = group["betas"]
            # One call each for all parameters of a group: calls, not arithmetic, are what a step costs.
            torch._foreach_add_(steps, 1)
            KERNEL(
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

    # torch wraps a step that is not marked so in a profiler's hook, which costs a fifth of the step's time.
    step.hooked = True  # type: ignore[attr-defined]

    def _initial_state(self, p: Tensor) -> dict[str, Tensor]:
        # The same tensors, under the same names, as torch.optim.Adam's, whose state_dict then works for both.
        zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        self.state[p] = {"step": torch.zeros((), device=p.device), **zeros}
        return self.state[p]


def annealing_factor(updates: Tensor | int, over: int) -> float:
    """1 for the first half of `over` updates, then linearly down to a hundredth at its end; `over` 0: always 1."""
    return min(max(2 - 2 * int(updates) / over, FINAL_FACTOR), 1.0) if over else 1.0


def anneal(opt: torch.optim.Optimizer, lr: float, updates: Tensor | int, over: int) -> None:
    """Set an optimizer's learning rate to `lr` times the factor after so many updates []."""
    if over:
        for group in opt.param_groups:
            group["lr"] = lr * annealing_factor(updates, over)
