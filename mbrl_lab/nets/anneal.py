"""Learning rates that fall with the count of updates."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = 0.01
"""The share that stays."""


def left(updates: Tensor, over: int) -> float:
    """What is left, of 1 to begin with, after so many updates []: it falls linearly over so many; 0: never."""
    return max(1 - int(updates) / over, LEAST) if over else 1.0


def anneal(opt: torch.optim.Optimizer, lr: float, updates: Tensor, over: int) -> None:
    """Set an optimizer's learning rate to what is left of `lr`."""
    if over:
        for group in opt.param_groups:
            group["lr"] = lr * left(updates, over)
