"""Counts that are plain numbers and saved with the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def save_count(module: nn.Module, name: str) -> None:
    """Keep the attribute `name` of a module, a whole number, in its state_dict, as an int64 tensor there.

    A buffer would be on the device of the weights, and each look at it would wait for a GPU.
    """

    def save(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        state[prefix + name] = torch.tensor(getattr(module, name))

    def load(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        # Taken out, as torch knows no parameter or buffer of this name.
        if (saved := state.pop(prefix + name, None)) is not None:
            setattr(module, name, int(saved))

    module.register_state_dict_post_hook(save)
    module.register_load_state_dict_pre_hook(load)
