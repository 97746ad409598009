"""Learning rates that fall with the count of updates."""

from __future__ import annotations

import torch
from torch import Tensor

FINAL = 0.01
"""The factor at the end."""


def annealing_factor(updates: Tensor | int, over: int) -> float:
    """1 for the first half of `over` updates, then linearly down to a hundredth at its end; `over` 0: always 1."""
    return min(max(2 - 2 * int(updates) / over, FINAL), 1.0) if over else 1.0


def anneal(opt: torch.optim.Optimizer, lr: float, updates: Tensor | int, over: int) -> None:
    """Set an optimizer's learning rate to `lr` times the factor after so many updates []."""
    if over:
        for group in opt.param_groups:
            group["lr"] = lr * annealing_factor(updates, over)
