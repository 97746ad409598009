"""Updates a second of Dreamer's model and policy, and imagined steps a second, at a stated size.

    OMP_NUM_THREADS=1 python benchmarks/dreamer.py                   # the latent model and rssm_xs, on vectors
    OMP_NUM_THREADS=1 python benchmarks/dreamer.py --bf16 --compile  # the same in bfloat16, compiled, and both
    OMP_NUM_THREADS=1 python benchmarks/dreamer.py --env breakout --models rssm_xs --rounds 3

An update is one gradient step of the model on `--batch` windows of `--length` rows, and one of the policy on dreams of
15 steps from `--starts` states. Imagination is 15 steps of states and actor alone, without gradients. Each round times
every variant once, so that a busy machine slows all of them; medians of the rounds are printed, in seconds of the
processor, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from mbrl_lab import make_run
from mbrl_lab.app import compile_parts
from mbrl_lab.dynamics.rollout import dream
from mbrl_lab.types import Step

HORIZON = 15


class Variant(NamedTuple):
    """What is timed, and how."""

    model: str
    dtype: torch.dtype
    compiled: bool
    algo: Any


def main() -> None:
    given = arguments()
    dtypes = [torch.float32, *([torch.bfloat16] if given.bf16 else [])]
    compiled = [False, *([True] if given.compile else [])]
    variants = [built(given, *kind) for kind in itertools.product(given.models, dtypes, compiled)]
    times: dict[int, list[tuple[float, float]]] = {k: [] for k in range(len(variants))}
    for _ in range(given.rounds + 1):  # the first one warms up
        for k, variant in enumerate(variants):
            with torch.autocast("cpu", variant.dtype, variant.dtype != torch.float32, cache_enabled=False):
                times[k].append(measured(given, variant))
    print("model,digits,compiled,parameters,batch,length,starts,updates_per_second,imagined_steps_per_second")
    for k, v in enumerate(variants):
        update, imagined = (statistics.median(column) for column in zip(*times[k][1:], strict=True))
        size = sum(p.numel() for p in v.algo.model.parameters())
        sizes = f"{size},{given.batch},{given.length},{given.starts}"
        speed = f"{1 / update:.2f},{given.starts * HORIZON / imagined:.0f}"
        print(f"{v.model},{str(v.dtype)[6:]},{str(v.compiled).lower()},{sizes},{speed}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="pendulum")
    parser.add_argument("--models", nargs="+", default=["latent", "rssm_xs"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--starts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


def built(given: argparse.Namespace, model: str, dtype: torch.dtype, compiled: bool) -> Variant:
    """DreamerV3's policy on a model, untrained."""
    policy = ["policy.width=128", "policy.norm=true", "policy.bins=255"]
    sizes = [f"algo.batch={given.batch}", f"dynamics.length={given.length}", f"algo.starts={given.starts}"]
    words = [f"dynamics={model}", "preset=none", "env.num=1", "runtime.device=cpu", "replay.capacity=2000"]
    runner = make_run("dreamer", given.env, *words, *policy, *sizes, folder=tempfile.mkdtemp())
    runner.envs.close()
    if compiled:
        compile_parts(runner.algo)
    return Variant(model, dtype, compiled, runner.algo)


def measured(given: argparse.Namespace, variant: Variant) -> tuple[float, float]:
    """Processor seconds of an update and of imagining."""
    algo, steps = variant.algo, rows(given, variant.algo.spec)
    state, _ = algo.model.update(steps)
    begun = algo._begin(state, steps)

    def update() -> None:
        states, _ = algo.model.update(steps)
        algo.policy.learn_in(algo.model, algo._begin(states, steps), HORIZON)

    @torch.no_grad()
    def imagine() -> None:
        dream(algo.model, lambda features: algo.policy.act(features, True), begun, HORIZON)

    return taken(update), taken(imagine)


def rows(given: argparse.Namespace, spec: Any) -> Step:
    """[length, batch] random rows."""
    shape = given.length, given.batch
    if spec.obs_dtype == torch.uint8:
        obs = torch.randint(2, (*shape, *spec.obs_shape), dtype=torch.uint8)
    else:
        obs = torch.randn(*shape, *spec.obs_shape)
    action = spec.random(given.length * given.batch).unflatten(0, shape)
    no = torch.zeros(shape, dtype=torch.bool)
    return Step(action, obs, torch.randn(shape), no, no)


def taken(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
