"""The parts of a job: what a command line builds, with its shapes, parameters and settings."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from mbrl_lab.app import build_runner, precision_name
from mbrl_lab.config import build, check, compose_config
from mbrl_lab.doctor.machine import describe, pace
from mbrl_lab.doctor.sight import meanings, sight
from mbrl_lab.env import Envs
from mbrl_lab.replay import nbytes
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import flatten

GROUPS = ("algo", "dynamics", "planner", "policy", "encoder")
WIDTH = 110
PICTURES = Path("outputs/doctor")


def parts(overrides: Sequence[str], config_dir: Path | str | None = None) -> list[str]:
    """Lines to print. Only a picture is written to disk. Raises ConfigError for a job that cannot be built."""
    cfg = compose_config(overrides, config_dir)
    check(cfg)

    # The runner needs a folder, but nothing of it is kept.
    with tempfile.TemporaryDirectory() as place:
        runner = build_runner(cfg, RunFolder(place))
    try:
        return [*outline(runner, cfg), *meeting(runner.envs, cfg, overrides), *settings(cfg), *modules(runner.algo)]
    finally:
        runner.envs.close()


def outline(runner: Runner, cfg: DictConfig) -> list[str]:
    """Run, environment and replay, with device and precision."""
    envs, replay = runner.envs, runner.replay
    size = nbytes(envs.spec, cfg.replay.capacity) / 1e6
    rows = {
        "run": f"{cfg.steps:,} steps, seed {cfg.seed}, on {runner.device} in {precision_name(runner)}",
        "env": f"{envs.num} x {describe(envs.spec)}, frame skip {envs.frame_skip}",
        "replay": f"{cfg.replay.capacity:,} steps, {size:,.1f} MB on {replay.storage}",
    }
    return [f"{name:9} {text}" for name, text in rows.items()]


def meeting(envs: Envs, cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The environment: actions by name, speed, and a picture."""
    # The picture is named by the environment, and by its id or game if the file leaves that open.
    words = [*(o.partition("=")[2] for o in overrides if o.startswith("env=")), "cartpole"][:1]
    words += [str(cfg.env[key]) for key in ("id", "game") if key in cfg.env]
    named = " ".join(f"{k}={name}" for k, name in enumerate(meanings(envs)))
    rows = {
        "actions": named or ("unnamed" if envs.spec.discrete else "in [-1, 1]"),
        "speed": f"{pace(envs):,.0f} steps/s of {envs.num} with random actions, before any learning",
        "picture": sight(envs, build(cfg.env.make), PICTURES / f"{'-'.join(words).replace('/', '-')}.png"),
    }
    return [f"{name:9} {text}" for name, text in rows.items()]


def settings(cfg: DictConfig) -> list[str]:
    """Class and settings of each part that the config names."""
    tree = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(tree, dict), type(tree)
    return [line for group in GROUPS if group in tree for line in setting_lines(group, tree[group])]


def setting_lines(group: str, node: Mapping[str, Any]) -> list[str]:
    """`planner   CEM: horizon=15 population=200 ...`, wrapped. Settings of another group are not repeated."""
    # Interpolations put parts of other groups inside of this one; each is shown in its own place.
    own = flatten({k: v for k, v in node.items() if k not in GROUPS and k not in ("_target_", "_partial_")})
    words = [f"{key}={value_of(value)}" for key, value in own.items() if not key.endswith(("_target_", "_partial_"))]
    functions = [f"{k.removesuffix('._target_')}={class_of(v)}" for k, v in own.items() if k.endswith("._target_")]
    text = f"{class_of(node['_target_'])}: {' '.join(functions + words)}".removesuffix(": ")
    return textwrap.wrap(text, WIDTH, initial_indent=f"{group:9} ", subsequent_indent=" " * 10, break_on_hyphens=False)


def class_of(target: str) -> str:
    return target.rpartition(".")[2]


def value_of(value: Any) -> str:
    """A value as it is written on the command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def modules(algo: nn.Module) -> list[str]:
    """A table of every module: name, class, number of parameters in total, and the shapes of its own ones."""
    rows = [("module", "class", "parameters", "shapes"), *module_rows("algo", algo, 0)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return [f"{a:{widths[0]}}  {b:{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]


def module_rows(name: str, module: nn.Module, depth: int) -> Iterator[tuple[str, str, str, str]]:
    shapes = " ".join(
        (f"{key} " if not key.isdecimal() else "") + str(list(p.shape))
        for key, p in module.named_parameters(recurse=False)
    )
    total = sum(p.numel() for p in module.parameters())
    yield "  " * depth + name, type(module).__name__, f"{total:,}", shapes
    for key, child in module.named_children():
        yield from module_rows(key, child, depth + 1)
