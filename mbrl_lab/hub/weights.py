"""Weights of an agent as safetensors: a format of tensors alone, whose reading runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbrl_lab.config import ConfigError
from mbrl_lab.hub.extra import require
from mbrl_lab.tracking.atomic import replacing

WEIGHTS = "model.safetensors"


def write_weights(state: Mapping[str, Any], step: int, path: Path) -> None:
    """Write the weights of `module_state`. Optimizers are left out, as an evaluation needs none.

    ConfigError if the agent acts by random generators of its own, which no file of tensors can hold.
    """
    if state["generators"]:
        names = ", ".join(state["generators"])
        raise ConfigError(f"the agent has random generators of its own ({names}), which {WEIGHTS} cannot hold")
    # Clones: the format refuses tensors that share memory, and takes contiguous ones only.
    tensors = {name: x.detach().cpu().clone().contiguous() for name, x in state["weights"].items()}
    with replacing(path) as file:
        file.write(require("safetensors.torch").save(tensors, {"format": "pt", "step": str(step)}))


def read_weights(path: Path) -> tuple[dict[str, Any], int]:
    """State for `load_module_state`, and the step. ConfigError, one line, for any other file."""
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            step = int((file.metadata() or {})["step"])
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} holds no weights of an agent: {error}") from error
    return {"weights": weights}, step
