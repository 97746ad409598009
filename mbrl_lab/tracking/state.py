"""What a resumed run must restore: weights, optimizers and their like, generators, and the global random states."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

COMPILED = "_orig_mod."  # what torch.compile puts into names; left out, so that a run may resume with or without it


EXTRA = "_extra_state"  # where torch puts what a module's `get_extra_state` gives


def weights(module: nn.Module) -> dict[str, Any]:
    """Its `state_dict` without its own extra state, which can be large; that of modules inside it is there."""
    return {name: x for name, x in module.state_dict().items() if name != EXTRA}


def module_state(module: nn.Module) -> dict[str, Any]:
    """Everything a module learns with, plain: {weights, parts, generators}."""
    return {
        "weights": {bare(name): x for name, x in weights(module).items()},
        "parts": {name: part.state_dict() for name, part in stateful(module).items()},
        "generators": {name: generator_state(g) for name, g in generators(module).items()},
    }


def load_module_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Put back what `module_state` gave, on the devices the module is on; ValueError if it was of another module."""
    here = weights(module)
    own = {name: bare(name) for name in here}
    parts, found = stateful(module), generators(module)
    for kind, names in {"weights": own.values(), "parts": parts, "generators": found}.items():
        check_names(kind, state[kind], names)
    saved = {name: state["weights"][plain] for name, plain in own.items()}
    check_shapes(here, saved)
    module.load_state_dict(saved, strict=False)  # the names were compared; its own extra state is not among them
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])
    for name, generator in found.items():
        set_generator_state(generator, state["generators"][name])


def optimizers(module: nn.Module) -> dict[str, Optimizer]:
    """The optimizers that a module and those inside it hold as attributes, by dotted name."""
    return {name: part for name, part in stateful(module).items() if isinstance(part, Optimizer)}


def stateful(module: nn.Module) -> dict[str, Any]:
    """Attributes, but for modules and tensors, with both verbs of a state_dict: optimizers, schedulers, scalers."""
    return attributes(module, lambda x: hasattr(x, "state_dict") and hasattr(x, "load_state_dict"))


def generators(module: nn.Module) -> dict[str, torch.Generator | np.random.Generator]:
    """The random generators that a module and those inside it hold as attributes."""
    return attributes(module, lambda x: isinstance(x, torch.Generator | np.random.Generator))


def attributes(module: nn.Module, wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """Attributes that are wanted, in containers too, each once, under the name it was first met by."""
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
    """A dotted name as it would be without torch.compile."""
    return name.replace(COMPILED, "")


def check_names(kind: str, saved: Iterable[str], present: Iterable[str]) -> None:
    """ValueError that shows which names only one side has."""
    before, here = set(saved), set(present)
    if before != here:
        missing, unknown = sorted(before - here), sorted(here - before)
        raise ValueError(f"the checkpoint is of another model: only it has {kind} {missing}, only this run {unknown}")


def check_shapes(here: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """ValueError that shows the first weights whose shapes differ."""
    for name, x in here.items():
        extra = name.endswith(EXTRA)  # whose shape is for its module to know
        if not extra and isinstance(x, Tensor) and x.shape != saved[name].shape:
            shapes = f"{list(saved[name].shape)} in it, {list(x.shape)} here"
            raise ValueError(f"the checkpoint is of another model: {bare(name)} has shape {shapes}")


def generator_state(generator: torch.Generator | np.random.Generator) -> Any:
    """The state of one generator, plain."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state


def set_generator_state(generator: torch.Generator | np.random.Generator, state: Any) -> None:
    """Put back what `generator_state` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def random_state() -> dict[str, Any]:
    """The global random states, plain: Python, NumPy's legacy one, torch on the CPU and on the CUDA devices in use."""
    numpy: dict[str, Any] = np.random.get_state(legacy=False)
    # Arrays of NumPy are not plain values, which checkpoints are made of.
    key = numpy["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave, as far as this machine has the devices."""
    numpy = state["numpy"]
    key = np.asarray(numpy["state"]["key"], dtype=np.uint32)
    random.setstate(state["python"])
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    for device, x in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(x, device)


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Leave the global random states as they were, whatever happens inside."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)
