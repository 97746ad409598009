"""Time of updates and plans in bf16 and in auto as a ratio to fp32, at the sizes of documented runs.

    OMP_NUM_THREADS=1 python benchmarks/precision.py
    OMP_NUM_THREADS=1 python benchmarks/precision.py --csv docs/results/precision.csv --cases sac_cheetah ddqn_breakout
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
        OMP_NUM_THREADS=1 python benchmarks/precision.py --rounds 3

Each case is a run as the command line composes it, its replay filled by random actions. Every round times each
precision once, in turns, so that a busy machine slows all of them; the median of the rounds' ratios is printed, of
processor seconds. Above 1: slower than fp32.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mbrl_lab import make_run
from mbrl_lab.ops import clipped
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.provenance import cpu_model

ROWS = 1_500
"""Steps of random actions in replay."""

SECONDS = 0.3
"""Of each measurement, at least."""

CAPS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
PRECISIONS = ("fp32", "bf16", "auto")
Job = Callable[[], object]


def policy_update(runner: Runner) -> Job:
    algo: Any = runner.algo

    def update() -> Any:
        steps = runner.replay.sample(algo.update.batch, algo.policy.window, algo.policy.n_step)
        return algo.policy.update(clipped(steps, algo.reward_clip))

    return update


def on_policy_update(runner: Runner) -> Job:
    algo: Any = runner.algo
    return lambda: algo.policy.update(runner.replay.latest(algo.horizon + 1))


def plan(runner: Runner) -> Job:
    algo: Any = runner.algo
    fit(runner)()
    algo.ready.fill_(True)
    return lambda: algo.act(runner.newest, None, explore=False)


def fit(runner: Runner) -> Job:
    """A gradient step of an ensemble, on rows of its own for each member."""
    algo: Any = runner.algo
    indices = runner.replay.transitions()
    algo.model.normalise(runner.replay.read(indices, 2))
    drawn = indices[torch.randint(len(indices), (algo.model.members, algo.model.trainer.batch))]
    steps = runner.replay.read(drawn, 2)
    return lambda: algo.model.update(steps)


def imagine(runner: Runner) -> Job:
    """A step of imagination from as many states as rollouts start in."""
    algo: Any = runner.algo
    fit(runner)()
    states = algo.model.start_states(runner.replay, algo.rollouts.starts)
    actions = algo.spec.sample(algo.rollouts.starts)
    return lambda: algo.model.imagine(states, actions)


def frames(runner: Runner) -> Job:
    """A gradient step of a model of images."""
    algo: Any = runner.algo
    steps = runner.replay.sample(algo.model.trainer.batch, algo.model.lead + 1 + algo.model.unroll)
    return lambda: algo.model.update(steps)


def dreamer_update(runner: Runner) -> Job:
    algo: Any = runner.algo
    return lambda: algo._update(runner.replay)


CASES: dict[str, tuple[Callable[[Runner], Job], str]] = {
    "sac_cheetah": (policy_update, "algo=sac env=cheetah"),
    "sac_pendulum": (policy_update, "algo=sac env=pendulum"),
    "ddqn_breakout": (policy_update, "algo=ddqn env=breakout"),
    "ddqn_minatar": (policy_update, "algo=ddqn env=minatar_breakout"),
    "ddqn_cartpole": (policy_update, "algo=ddqn env=cartpole"),
    "ppo_breakout": (on_policy_update, "algo=ppo env=breakout"),
    "ppo_minatar": (on_policy_update, "algo=ppo env=minatar_breakout"),
    "ppo_cartpole": (on_policy_update, "algo=ppo env=cartpole"),
    "mpc_plan_cartpole": (plan, "algo=mpc env=cartpole"),
    "mpc_plan_pendulum": (plan, "algo=mpc env=pendulum"),
    "mpc_plan_cheetah": (plan, "algo=mpc env=cheetah"),
    "mpc_fit_cartpole": (fit, "algo=mpc env=cartpole"),
    "mbpo_fit_cheetah": (fit, "algo=mbpo env=cheetah"),
    "mbpo_imagine_cheetah": (imagine, "algo=mbpo env=cheetah algo.rollouts.starts=10_000"),
    "mbpo_policy_cheetah": (policy_update, "algo=mbpo env=cheetah"),
    "mbpo_fit_pendulum": (fit, "algo=mbpo env=pendulum"),
    "mbpo_imagine_pendulum": (imagine, "algo=mbpo env=pendulum"),
    "mbpo_policy_pendulum": (policy_update, "algo=mbpo env=pendulum"),
    "mbpo_fit_minatar": (frames, "algo=mbpo env=minatar_breakout"),
    "dreamer_cartpole": (dreamer_update, "algo=dreamer env=cartpole"),
    "dreamer_pendulum": (dreamer_update, "algo=dreamer env=pendulum"),
    "dreamer_rssm_xs": (dreamer_update, "algo=dreamer env=pendulum dynamics=rssm_xs preset=none budget=none"),
    "dreamer_minatar": (dreamer_update, "algo=dreamer env=minatar_breakout"),
}


def prepare(case: str, precision: str) -> tuple[Runner, Job]:
    """A run past its random steps, and what of it is timed."""
    make, words = CASES[case]
    algo, env, *rest = (word.partition("=")[2] if k < 2 else word for k, word in enumerate(words.split()))
    never = ("eval.every=0", "checkpoint.every=0", "steps=10_000_000", "replay.capacity=20_000")
    folder = tempfile.mkdtemp()
    runner = make_run(algo, env, *rest, *never, f"runtime.precision={precision}", folder=folder)
    runner.reset()
    for _ in range(max(ROWS // runner.envs.num, getattr(runner.algo, "horizon", 0) + 1)):
        runner.newest = runner.envs.step(runner.envs.spec.sample(runner.envs.num)).to(runner.device)
        runner.replay.add(runner.newest)
    with runner.autocast():
        return runner, make(runner)


def seconds(runner: Runner, job: Job, times: int) -> float:
    began = time.process_time()
    with runner.autocast():
        for _ in range(times):
            job()
    return (time.process_time() - began) / times


def race(case: str, rounds: int) -> dict[str, Any]:
    """A row of the table."""
    with contextlib.redirect_stderr(io.StringIO()):
        made = {precision: prepare(case, precision) for precision in PRECISIONS}
    times = {}
    for name, (runner, job) in made.items():
        once = min(seconds(runner, job, 1) for _ in range(2))
        times[name] = max(1, int(SECONDS / once))
    taken = [{name: seconds(*made[name], times[name]) for name in PRECISIONS} for _ in range(rounds)]
    bits = torch.finfo(made["auto"][0].precision).bits
    for runner, _ in made.values():
        runner.envs.close()
    return {
        "case": case,
        "fp32_ms": round(1000 * statistics.median(t["fp32"] for t in taken), 2),
        "bf16_ratio": round(statistics.median(t["bf16"] / t["fp32"] for t in taken), 2),
        "auto_ratio": round(statistics.median(t["auto"] / t["fp32"] for t in taken), 2),
        "auto": "bf16" if bits == 16 else "fp32",
        "processor": cpu_model(),
        "caps": " ".join(f"{name}={os.environ[name]}" for name in CAPS if name in os.environ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--csv", type=Path, help="add the rows to a file")
    given = parser.parse_args()
    for case in given.cases:
        row = race(case, given.rounds)
        print(
            f"{case:24} fp32 {row['fp32_ms']:9.2f} ms   bf16 {row['bf16_ratio']:6.2f} x"
            f"   auto {row['auto_ratio']:6.2f} x ({row['auto']})",
            flush=True,
        )
        if given.csv:
            fresh = not given.csv.exists()
            with given.csv.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if fresh:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
