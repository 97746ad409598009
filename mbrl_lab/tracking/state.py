"""The state that a resumed run restores: weights, optimizers, generators, and the global random states."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COMPILED = "_orig_mod."
"""torch.compile adds this to names. It is removed, so that a run may be resumed with or without compilation."""

EXTRA = "_extra_state"
"""The key under which torch stores a module's `get_extra_state`."""


def weights(module: nn.Module) -> dict[str, Any]:
    """The `state_dict` without the module's own extra state, which can be large; that of inner modules is kept."""
    return {name: x for name, x in module.state_dict().items() if name != EXTRA}


def module_state(module: nn.Module) -> dict[str, Any]:
    """Everything that a module needs to continue learning, as plain values: {weights, parts, generators}."""
    return {
        "weights": {bare(name): x for name, x in weights(module).items()},
        "parts": {name: part.state_dict() for name, part in stateful(module).items()},
        "generators": {name: generator_state(g) for name, g in generators(module).items()},
    }


def load_module_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Restore the result of `module_state`, on the module's devices; ValueError if it is of another module.

    Published weights come without `parts` and `generators`, which are left as they are then.
    """
    # Everything is compared before anything is loaded, so that an error leaves the module unchanged.
    here = weights(module)
    own = {name: bare(name) for name in here}
    parts = stateful(module) if "parts" in state else {}
    found = generators(module) if "generators" in state else {}
    for kind, names in {"weights": own.values(), "parts": parts, "generators": found}.items():
        check_names(kind, state.get(kind, {}), names)
    saved = {name: state["weights"][plain] for name, plain in own.items()}
    check_shapes(here, saved)

    # Not strict: names were compared above, and the module's own extra state is saved elsewhere.
    module.load_state_dict(saved, strict=False)
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    for name, generator in found.items():
        set_generator_state(generator, state["generators"][name])


def optimizers(module: nn.Module) -> dict[str, Optimizer]:
    """The optimizers that a module and those inside it hold as attributes, by dotted name."""
    return {name: part for name, part in stateful(module).items() if isinstance(part, Optimizer)}


def stateful(module: nn.Module) -> dict[str, Any]:
    """Attributes with state_dict and load_state_dict, except modules and tensors: optimizers, schedulers, scalers."""
    return attributes(module, lambda x: hasattr(x, "state_dict") and hasattr(x, "load_state_dict"))


def generators(module: nn.Module) -> dict[str, torch.Generator | np.random.Generator]:
    """The random generators that a module and those inside it hold as attributes."""
    return attributes(module, lambda x: isinstance(x, torch.Generator | np.random.Generator))


def attributes(module: nn.Module, wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Attributes that are `wanted`, in containers too, each once, under the first name found."""
    found: dict[int, tuple[str, Any]] = {}
    for prefix, inner in module.named_modules():
        for name, value in leaves(vars(inner), prefix):
            if not isinstance(value, nn.Module | Tensor) and wanted(value):
                # By identity: an optimizer that two modules share is saved once.
                found.setdefault(id(value), (bare(name), value))
    return dict(found.values())


def leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts, lists and tuples, with dotted names."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, inner in items:
        yield from leaves(inner, f"{name}.{key}" if name else str(key))


def bare(name: str) -> str:
    """A dotted name without the additions of torch.compile."""
    return name.replace(COMPILED, "")


def check_names(kind: str, saved: Iterable[str], present: Iterable[str]) -> None:
    """ValueError with the names that only one of the two has."""
    before, here = set(saved), set(present)
    if before != here:
        missing, unknown = sorted(before - here), sorted(here - before)
        raise ValueError(f"the checkpoint is of another model: only it has {kind} {missing}, only this run {unknown}")


def check_shapes(here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """ValueError with the first weights whose shapes differ."""
    for name, x in here.items():
        extra = name.endswith(EXTRA)  # its module checks it
        if not extra and isinstance(x, Tensor) and x.shape != saved[name].shape:
            shapes = f"{list(saved[name].shape)} in it, {list(x.shape)} here"
            raise ValueError(f"the checkpoint is of another model: {bare(name)} has shape {shapes}")


def generator_state(generator: torch.Generator | np.random.Generator) -> Any:
    """The state of one generator, as plain values."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state


def set_generator_state(generator: torch.Generator | np.random.Generator, state: Any) -> None:
    """Restore the result of `generator_state`."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def random_state() -> dict[str, Any]:
    """The global random states, as plain values: Python, NumPy's legacy one, torch on the CPU and on CUDA."""
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    # NumPy arrays are not plain values, of which checkpoints consist.
    key = numpy["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the result of `random_state`, for the devices that this machine has."""
    numpy = state["numpy"]
    key = np.asarray(numpy["state"]["key"], dtype=np.uint32)
    random.setstate(state["python"])
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    for device, x in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(x, device)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Restore the global random states afterwards, whatever happens inside."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
