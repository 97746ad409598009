"""Reference metrics: short seeded runs of every recipe, to prove that a refactoring changes no number.

    python benchmarks/reference.py record before.json      # at the commit to compare with
    python benchmarks/reference.py check before.json       # afterwards, on the same machine; exits with 1 if unequal
    python benchmarks/reference.py check before.json --renamed model/old=model/new

Each run takes 220 steps with two evaluations, every setting that makes it short is given here, and arithmetic is fp32
on one thread. The file holds all logged metrics (but times) and a checksum of the final weights, which
does not depend on their names. Floats are equal to
the bit on one processor with one version of torch only, so record the file on your machine and do not commit it.

With `--resume` each run is also stopped at step 133 and resumed, and must end with the same numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from mbrl_lab.app import make_run
from mbrl_lab.config import CONF, compose_config
from mbrl_lab.tracking.state import module_state

ENVS = {"discrete": "cartpole", "continuous": "pendulum", "pixels": "breakout", "grid": "minatar_breakout"}

BUDGET = {
    "seed": 3,
    "steps": 220,
    "log_every": 20,
    "eval.every": 100,
    "eval.episodes": 1,
    "eval.final_episodes": 1,
    "replay.capacity": 10_000,
    "checkpoint.every": 37,
    "video.final": 0,
    "env.num": 1,
    "runtime.precision": "fp32",
    "runtime.threads": 1,
    "runtime.device": "cpu",
}

SMALL: dict[str, dict[str, Any]] = {
    "random": {},
    "ddqn": {"algo.warmup": 50, "algo.update.batch": 16, "policy.width": 32},
    "sac": {"algo.warmup": 50, "algo.update.batch": 16, "policy.width": 32},
    "ppo": {"algo.horizon": 25, "policy.width": 32, "policy.optim.epochs": 2, "policy.optim.minibatches": 2},
    "mpc": {
        "algo.warmup": 100,
        "dynamics.trainer.max_updates": 20,
        "planner.population": 16,
        "planner.elites": 4,
        "planner.horizon": 5,
        "planner.iterations": 1,
    },
    "tdmpc": {
        "algo.warmup": 100,
        "algo.pretrain": 5,
        "algo.update.batch": 16,
        "algo.update.every": 4,
        "dynamics.width": 32,
        "policy.width": 32,
        "planner.population": 16,
        "planner.elites": 4,
        "planner.proposals": 4,
    },
    "mbpo": {
        "algo.warmup": 50,
        "algo.every": 50,
        "algo.rollouts.starts": 50,
        "algo.rollouts.epoch": 100,
        "algo.update.batch": 16,
        "algo.update.number": 1,
        "dynamics.trainer.batch": 16,
        "dynamics.trainer.max_updates": 8,
        "policy.width": 32,
    },
    "dreamer": {
        "algo.warmup": 100,
        "algo.pretrain": 5,
        "dynamics.trainer.batch": 4,
        "algo.update.every": 4,
        "algo.update.batch": 8,
        "algo.horizon": 5,
        "dynamics.width": 32,
        "dynamics.length": 5,
        "policy.width": 32,
    },
}

PAIRS: dict[str, list[str]] = {
    "mpc_discrete+icem": ["planner=icem"],
    "mpc_continuous+mppi": ["planner=mppi"],
    "mpc_continuous+random_shooting": ["planner=random_shooting"],
    "mpc_discrete+value": ["value=ddqn", "policy.width=32"],
    "mpc_discrete+rssm": [
        "dynamics=rssm_xs",
        "dynamics.state.units=32",
        "dynamics.width=16",
        "dynamics.length=5",
        "dynamics.trainer.batch=51",
    ],
    "mpc_continuous+latent": ["dynamics=latent", "dynamics.width=32"],
    "mpc_pixels+rssm": [
        "dynamics=rssm_xs",
        "dynamics.state.units=32",
        "dynamics.width=16",
        "dynamics.length=5",
        "planner.population=4",
        "dynamics.trainer.batch=4",
    ],
    "mbpo_discrete+rssm": ["dynamics=rssm_xs", "dynamics.state.units=32", "dynamics.width=16", "dynamics.length=5"],
    "mbpo_grid+rssm": ["dynamics=rssm_xs", "dynamics.state.units=32", "dynamics.width=16", "dynamics.length=5"],
    "mbpo_continuous+latent": ["dynamics=latent", "dynamics.width=32", "dynamics.trainer.batch=3"],
    "mbpo_discrete+sac": ["policy=sac", "policy.width=32"],
    "mbpo_continuous+svg": ["policy=svg", "policy.width=32", "policy.horizon=2", "algo.real_ratio=0.5"],
    "sac_continuous+crossq": ["policy=crossq", "policy.width=32", "policy.critic.width=32"],
    "mpc_continuous+proposals": ["planner=mppi", "planner.proposals=4", "value=sac", "policy.width=32"],
    "mpc_continuous+value": ["value=sac", "policy.width=32"],
    "mbpo_grid+uncertainty": ["algo.uncertainty.max=0.5", "algo.uncertainty.bonus=0.1"],
    "dreamer_discrete+rssm": [
        "dynamics=rssm_xs",
        "policy=actor_critic_xs",
        "dynamics.state.units=32",
        "dynamics.width=16",
        "dynamics.length=5",
    ],
}
"""Parts beside those of the recipe."""

FRAMES = {"dynamics.width": 8, "dynamics.members": 2, "planner.population": 4, "planner.horizon": 2}
"""What a model of frames needs beside, to be quick."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["record", "check"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="recipes whose name holds this text")
    parser.add_argument(
        "--renamed", nargs="*", default=[], metavar="OLD=NEW", help="metrics that have another name now"
    )
    parser.add_argument("--resume", action="store_true", help="stop each run in the middle and resume it, too")
    args = parser.parse_args()
    recipes = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml")) + list(PAIRS)
    recipes = [recipe for recipe in recipes if args.only in recipe]
    results = {recipe: timed(recipe, args.resume) for recipe in recipes}
    if args.what == "record":
        args.file.write_text(json.dumps(results))
        return 0
    renamed = dict(pair.split("=") for pair in args.renamed)
    return compare(json.loads(args.file.read_text()), results, renamed)


def timed(recipe: str, resume: bool) -> dict[str, Any]:
    """What a recipe's run logged; a line tells how long it took."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        whole = run(words(recipe), Path(folder) / "whole")
        if resume:
            parts = run(words(recipe), Path(folder) / "parts", stop_at=133)
            for line in differences(whole, parts):
                raise SystemExit(f"{recipe}: a resumed run differs: {line}")
    print(f"{recipe:20} {time.process_time() - began:6.1f} s", flush=True)
    return whole


def words(recipe: str) -> list[str]:
    """A recipe's command line: its algo, the environment of its family, and whatever makes it short."""
    algo, _, family = recipe.partition("+")[0].rpartition("_")
    parts = PAIRS.get(recipe, [])
    chosen = [f"algo={algo}", f"env={ENVS[family]}", "preset=none", *(part for part in parts if "." not in part)]
    cfg = compose_config(chosen)
    short = BUDGET | SMALL[algo]
    if OmegaConf.select(cfg, "dynamics.target") is not None:
        short |= FRAMES
    known = {key: value for key, value in short.items() if OmegaConf.select(cfg, key) is not None}
    if cfg.env.make._target_ == "mbrl_lab.env.make_gym":
        chosen.append("+env.make.max_episode_steps=40")
    return chosen + [f"{key}={value}" for key, value in known.items()] + [part for part in parts if "." in part]


def run(overrides: list[str], folder: Path, stop_at: int = 0) -> dict[str, Any]:
    """Train in `folder`; with `stop_at`, leave at that step without saving and go on from the last checkpoint."""
    algo, env, *rest = overrides
    if stop_at:
        interrupt(make_run(algo.partition("=")[2], env.partition("=")[2], *rest, folder=folder), stop_at)
    runner = make_run(algo.partition("=")[2], env.partition("=")[2], *rest, folder=folder)
    runner.run()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "rows": [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows],
        "episodes": (folder / "episodes.jsonl").read_text().splitlines(),
        "weights": checksum(module_state(runner.algo)),
    }


class Interrupted(Exception):
    """Stands for a process that dies."""


def interrupt(runner: Any, step: int) -> None:
    """Train until `step`, then leave as a process does that dies."""
    advance = runner.advance

    def until() -> None:
        if runner.steps >= step:
            raise Interrupted
        advance()

    runner.advance = until
    try:
        runner.run()
    except Interrupted:
        runner.envs.close()
        runner.folder.mark("failed")


def checksum(state: Any) -> str:
    """Of all tensors in nested dicts and lists, whatever their names and their order are."""
    digests = []

    def add(node: Any) -> None:
        if isinstance(node, dict):
            for child in node.values():
                add(child)
        elif isinstance(node, list | tuple):
            for child in node:
                add(child)
        elif isinstance(node, torch.Tensor):
            content = node.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            digests.append(hashlib.sha256(content).hexdigest())

    add(state)
    return hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()


def compare(before: dict[str, Any], after: dict[str, Any], renamed: dict[str, str]) -> int:
    """Print a line for every recipe that differs; 1 if any does."""
    for run in before.values():
        run["rows"] = [{renamed.get(key, key): value for key, value in row.items()} for row in run["rows"]]
    wrong = 0
    for recipe in after:
        lines = differences(before[recipe], after[recipe]) if recipe in before else ["it was not recorded"]
        wrong += bool(lines)
        print(f"{recipe:20} {'equal' if not lines else f'{len(lines)} differences, first: {lines[0]}'}")
    return min(wrong, 1)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between two runs, a line each."""
    lines = []
    if len(before["rows"]) != len(after["rows"]):
        lines.append(f"{len(before['rows'])} rows -> {len(after['rows'])}")
    for old, new in zip(before["rows"], after["rows"], strict=False):
        for key in old | new:
            if old.get(key) != new.get(key):
                lines.append(f"step {old['step']}: {key} {old.get(key)} -> {new.get(key)}")
    lines += ["episodes differ"] * (before["episodes"] != after["episodes"])
    return lines + ["weights differ"] * (before["weights"] != after["weights"])


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
