"""Writes the files of an exported policy, once they are known to act as it does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from mbrl_lab.env.actions import bare_action
from mbrl_lab.export.acting import Acting, Field, acting
from mbrl_lab.export.formats import Call, run_onnx, run_torch, traced, write_onnx, write_torch
from mbrl_lab.export.parity import TOLERANCE, Parity, Played, latency, parity, play
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.atomic import replacing, write_text
from mbrl_lab.tracking.settings import algorithm_of

TORCH, ONNX, SHEET = "policy.pt2", "policy.onnx", "policy.json"


@dataclass(frozen=True)
class Timed:
    """One way to run the policy."""

    seconds: float
    """Of one action."""
    size: int = 0
    """Bytes of its file."""
    parity: Parity | None = None
    """None: the policy itself."""


@dataclass(frozen=True)
class Exported:
    """What was written, and what is known of it."""

    module: Acting
    played: Played
    package: Timed
    files: dict[str, Timed]
    note: str | None
    """Why there is no ONNX."""


def export(runner: Runner, make: Callable[[], gymnasium.Env], out: Path, checkpoint: str, steps: int) -> Exported:
    """Write policy.pt2, policy.onnx if its packages are installed, and policy.json into the folder `out`.

    Args:
        runner: a run, with the weights of a checkpoint.
        make: makes one of its environments, of which bounds of actions are taken.
        out: the folder.
        checkpoint: the checkpoint's name, for policy.json.
        steps: real observations on which the files are compared with the run's policy.

    ConfigError if the run has no policy. ValueError if a file does not act as it does; nothing is written then.
    """
    module = acting(runner)
    played = play(runner, module, steps)
    runner.envs.put_away()  # of some simulators only one may exist
    program = traced(module)

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_torch(program, place / TORCH)
        calls: dict[str, Call] = {TORCH: run_torch(place / TORCH)}
        if (note := write_onnx(program, module.signature, place / ONNX)) is None:
            calls[ONNX] = run_onnx(place / ONNX, module.signature)

        files = {}
        for name, call in calls.items():
            found = parity(call, played)
            require(found, name, runner, steps)
            files[name] = Timed(latency(call, played), (place / name).stat().st_size, found)
        done = Exported(module, played, Timed(latency(module, played)), files, note)

        out.mkdir(parents=True, exist_ok=True)
        (out / ONNX).unlink(missing_ok=True)  # an older one, if none is written now
        for name in files:
            with replacing(out / name) as file:
                file.write((place / name).read_bytes())
    content = sheet(runner, done, action_bounds(make), checkpoint)
    write_text(out / SHEET, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return done


def require(found: Parity, name: str, runner: Runner, steps: int) -> None:
    """ValueError unless the file acts as the policy does."""
    if not found.holds:
        raise ValueError(
            f"{name} does not act as the policy of {runner.folder.path}: on {steps} real observations its outputs "
            f"differ by up to {found.difference:.1e}, where {TOLERANCE:g} is allowed, {found.other_actions} actions "
            f"are others; nothing was written"
        )


def action_bounds(make: Callable[[], gymnasium.Env]) -> dict[str, Any]:
    """How actions of the policy become actions of the bare environment: `start`, or `low` and `high`."""
    env = make()
    try:
        space = env.action_space
        if isinstance(space, gymnasium.spaces.Discrete):
            return {"start": int(bare_action(env, np.int64(0)))}
        low, high = (bare_action(env, np.full(space.shape, x, np.float32)) for x in (-1, 1))
        return {"low": np.ravel(low).tolist(), "high": np.ravel(high).tolist()}
    finally:
        env.close()


def sheet(runner: Runner, done: Exported, bounds: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    """What somebody without this package has to know, as plain values."""
    spec, signature, played = runner.envs.spec, done.module.signature, done.played
    return {
        "format": 1,
        "environment": runner.folder.config()["env"]["make"],
        "algorithm": algorithm_of(runner.folder.config()),
        "policy": type(done.module.policy).__name__,
        "checkpoint": checkpoint,
        "step": runner.steps,
        "inputs": described(signature.inputs),
        "outputs": described(signature.outputs),
        "stack": spec.stack,
        "action": {"discrete": spec.discrete, **bounds},
        "compared": {"observations": len(played.inputs), "episodes": played.episodes, "tolerance": TOLERANCE},
        "seconds": {"mbrl_lab": done.package.seconds, **{name: x.seconds for name, x in done.files.items()}},
        "differences": {name: x.parity.difference for name, x in done.files.items() if x.parity},
    }


def described(fields: Sequence[Field]) -> list[dict[str, Any]]:
    return [{"name": x.name, "dtype": x.kind, "shape": list(x.shape)} for x in fields]
