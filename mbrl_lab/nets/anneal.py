"""Learning rates that fall with the count of updates."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 0.01
"""The share that stays."""


def left(updates: Tensor | int, over: int) -> float:
    """What is left of 1 after so many updates []: all for half of `over`, then less and less until its end; 0: all."""
    return min(max(2 - 2 * int(updates) / over, LEAST), 1.0) if over else 1.0


def anneal(opt: torch.optim.Optimizer, lr: float, updates: Tensor | int, over: int) -> None:
    """Set an optimizer's learning rate to what is left of `lr`."""
    if over:
        for group in opt.param_groups:
            group["lr"] = lr * left(updates, over)
