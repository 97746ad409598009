"""Warm start: copies the weights of another run into the algorithm of a new run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from mbrl_lab.config import ConfigError, check_old_names
from mbrl_lab.protocols import Algo
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import flatten
from mbrl_lab.tracking.state import EXTRA, bare, weights

ATTRIBUTES = {"dynamics": "model", "policy": "policy", "value": "value"}
"""Config group (as in `init_parts`) -> the attribute under which an algorithm holds that part."""

SHOWN = 3
"""Differing names or shapes that a message lists."""


def warm_start(algo: Algo, cfg: DictConfig, home: RunFolder) -> list[str]:
    """Copy the weights that `init_from`, `init_checkpoint` and `init_parts` select; returns lines that list them.

    A resumed run copies nothing, so the other run's folder is no longer needed then.
    Raises ConfigError, in one line, if there are no such weights or they do not fit; nothing is copied then.
    """
    if cfg.init_from is None or Checkpoint(home.last).exists():
        return []
    source = RunFolder(cfg.init_from)
    saved, step = read_weights(cfg, source, home)

    # Names before shapes: with another algorithm there are no shapes to compare.
    own = {bare(name): x for name, x in weights(algo).items()}
    here, there = (chosen(x, cfg.init_parts) for x in (own, saved))
    for part in cfg.init_parts or ():
        require_part(part, cfg, own, saved)
    require_same(cfg, source, here, there)
    algo.load_state_dict({name: there.get(bare(name), x) for name, x in weights(algo).items()}, strict=False)

    kept = sorted(set(own) - set(here))
    return sheet(algo, here, kept, f"{source.checkpoint(cfg.init_checkpoint)}, step {step:,}")


def read_weights(cfg: DictConfig, source: RunFolder, home: RunFolder) -> tuple[Mapping[str, Any], int]:
    """The algo's weights in the source's checkpoint, by name, and its step. No code from the file is run."""
    place = source.checkpoint(cfg.init_checkpoint)
    # Its own checkpoint is read by a resume; copying from it would do nothing.
    if source.path == home.path:
        raise ConfigError(f"init_from is {cfg.init_from}, this run's own folder: name another run, or leave it out")
    if not source.path.is_dir():
        raise ConfigError(f"init_from is {cfg.init_from}; there is no such folder of a run")

    try:
        check_old_names(source.config(), f"init_from: {source.path / 'config.yaml'}")
        loaded = Checkpoint(place).load()
    except ConfigError:
        raise
    except ValueError as error:  # a damaged file, which the error names
        raise ConfigError(f"init_from is {cfg.init_from}, which cannot be read: {error}") from error
    if loaded is None:
        allowed = "init_checkpoint can be last, best or a checkpoint's folder"
        raise ConfigError(f"init_from is {cfg.init_from}, but {place} holds no checkpoint; {allowed}")

    try:
        return loaded.state["algo"]["weights"], int(loaded.state["step"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"init_from is {cfg.init_from}, but {place} is no checkpoint of a run") from error


def chosen(saved: Mapping[str, Any], parts: Sequence[str] | None) -> dict[str, Tensor]:
    """The tensors to copy: those of these parts, or all, except counters and extra state.

    Counters are integer scalars such as `updates`, by which exploration and learning rates are annealed: they begin at
    0 in the new run.
    """
    names = [name for name, x in saved.items() if isinstance(x, Tensor) and not name.endswith(EXTRA)]
    names = [name for name in names if saved[name].ndim or saved[name].dtype != torch.int64]
    if parts is not None:
        names = [name for name in names if name.partition(".")[0] in {ATTRIBUTES[part] for part in parts}]
    return {name: saved[name] for name in names}


def require_part(part: str, cfg: DictConfig, own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """ConfigError if this run or the source has no such part with weights."""
    for who, names in (("this run", own), (f"the run in {cfg.init_from}", saved)):
        heads = {name.partition(".")[0] for name in names}
        if ATTRIBUTES[part] not in heads:
            there = ", ".join(key for key, head in ATTRIBUTES.items() if head in heads) or "none"
            raise ConfigError(f"init_parts names {part}, which {who} does not have; it has {there}")


def require_same(cfg: DictConfig, source: RunFolder, here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> None:
    """ConfigError with the first tensors that only one of the two has, or whose shapes differ."""
    start = f"init_from is {cfg.init_from}, which does not fit"
    if here.keys() != there.keys():
        target = flatten(source.config()).get("algo._target_", "another algo")
        algos = f"({str(target).rpartition('.')[2]} there, {cfg.algo._target_.rpartition('.')[2]} here)"
        only = {
            "only it has": sorted(there.keys() - here.keys()),
            "only this run has": sorted(here.keys() - there.keys()),
        }
        names_of = "; ".join(f"{who} {first(names)}" for who, names in only.items() if names)
        cure = "" if cfg.init_parts else "; init_parts=[policy] or [dynamics] copies one part"
        raise ConfigError(f"{start} {algos}: {names_of}{cure}")

    differing = [
        f"{name} is {list(there[name].shape)} there, {list(x.shape)} here"
        for name, x in here.items()
        if x.shape != there[name].shape
    ]
    if differing:
        raise ConfigError(f"{start}: {first(differing)}")


def first(words: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more


def sheet(algo: Algo, copied: Mapping[str, Tensor], kept: Sequence[str], source: str) -> list[str]:
    """`init  ...` lines: the source, each module with its tensors and parameters, and what is not copied."""
    return [
        f"init      {source}",
        *(f"          {line}" for line in rows(algo, copied)),
        f"          not copied: {not_copied(kept)}",
    ]


def rows(algo: Algo, copied: Mapping[str, Tensor]) -> Iterator[str]:
    """One line per module of the algorithm: the number of copied tensors, and of parameters in them."""
    learned = {bare(name) for name, _ in algo.named_parameters()}
    for head in dict.fromkeys(name.partition(".")[0] for name in copied):
        names = [name for name in copied if name.partition(".")[0] == head]
        parameters = sum(copied[name].numel() for name in names if name in learned)
        yield f"{head}: {len(names)} tensors, {parameters:,} parameters"


def not_copied(kept: Sequence[str]) -> str:
    """What a warm start does not copy."""
    return ", ".join(["optimizers, replay", *([first(kept)] if kept else [])])
