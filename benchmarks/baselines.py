"""Environment steps a second of whole training loops, ours beside Stable-Baselines3's.

    pip install -c constraints.txt -e ".[baselines]"
    OMP_NUM_THREADS=1 python benchmarks/baselines.py --cases sac_cheetah --bf16

Both sides have equal networks, batches, update ratios, buffers and threads, and log as they log by default; neither
evaluates nor saves. Where they differ the cases below say so. Each side runs in a process of its own, past its random
steps before the clock starts, and waits while another is timed. Each round times every variant once, so that a busy
machine slows all of them. Printed are medians of the rounds: steps a second by the clock, the ratio of clocks, and the
ratio of processor seconds, which other work on the machine disturbs least, but which adds up all threads.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch

from mbrl_lab import make_run
from mbrl_lab.nets.speed import keep_freed_memory

WARMUP = 1_000
ATARI = "encoder=nature encoder.hidden=512 policy.depth=0 algo.reward_clip=1.0"
Loop = Callable[[int], object]
"""Goes so many environment steps further."""
Seconds = tuple[float, float]
"""By the clock, and of the processor."""


@dataclass(frozen=True)
class Case:
    """A job on both sides, and how many environment steps are timed at once."""

    steps: int
    ours: str
    theirs: Callable[[str], Any]


def sb3_sac_cheetah(device: str) -> Any:
    import gymnasium
    from stable_baselines3 import SAC

    env = gymnasium.make("HalfCheetah-v5")
    return SAC("MlpPolicy", env, learning_starts=WARMUP, buffer_size=100_000, device=device)


def sb3_dqn_breakout(device: str) -> Any:
    from stable_baselines3 import DQN

    replay = {"learning_starts": WARMUP, "buffer_size": 20_000, "batch_size": 32, "train_freq": 4}
    return DQN("CnnPolicy", sb3_breakout(1), learning_rate=1e-4, target_update_interval=1_000, device=device, **replay)


def sb3_ppo_breakout(device: str) -> Any:
    from stable_baselines3 import PPO

    sizes = {"n_steps": 128, "n_epochs": 4, "batch_size": 256}
    return PPO(
        "CnnPolicy", sb3_breakout(8), learning_rate=2.5e-4, clip_range=0.1, ent_coef=0.01, device=device, **sizes
    )


def sb3_breakout(num: int) -> Any:
    """`num` environments, one after the other in one process, as its documentation makes them."""
    import ale_py
    import gymnasium
    from stable_baselines3.common.env_util import make_atari_env
    from stable_baselines3.common.vec_env import VecFrameStack

    gymnasium.register_envs(ale_py)
    return VecFrameStack(make_atari_env("ALE/Breakout-v5", num, env_kwargs=PLAIN_GAME), n_stack=4)


PLAIN_GAME = {"frameskip": 1, "repeat_action_probability": 0.0, "full_action_space": False}
"""Its wrapper skips the frames."""

CASES = {
    # Two critics and an actor of 2 x 256, batch 256, an update each step.
    "sac_cheetah": Case(50, f"algo=sac env=cheetah preset=none budget=none algo.warmup={WARMUP}", sb3_sac_cheetah),
    # Nature's network, batch 32, an update each 4 steps.
    "ddqn_breakout": Case(
        800,
        f"algo=ddqn env=breakout preset=none budget=none env.num=1 {ATARI} algo.warmup={WARMUP}"
        " algo.update.batch=32 algo.update.every=4"
        " policy.target.double=false policy.target.tau=1 policy.target.every=250 policy.optim.lr=1e-4"
        " replay.capacity=20_000",
        sb3_dqn_breakout,
    ),
    # Nature's network shared by actor and value, 8 environments, 4 passes of 4 minibatches of 256. Ours steps the
    # environments in parallel threads, theirs one by one.
    "ppo_breakout": Case(
        2_048,
        f"algo=ppo env=breakout preset=none budget=none env.num=8 {ATARI} algo.horizon=128"
        " policy.optim.epochs=4 policy.optim.minibatches=4 policy.optim.lr=2.5e-4"
        " policy.objective.ratio_clip=0.1 policy.objective.entropy_coef=0.01 replay.capacity=20_000",
        sb3_ppo_breakout,
    ),
}


def ours(case: str, device: str, threads: int, words: str) -> Loop:
    """Our loop, from a command line's words."""
    algo, env, *rest = CASES[case].ours.split()
    never = ("eval.every=0", "checkpoint.every=0", "steps=100_000_000", f"runtime.threads={threads}")
    words = f"{' '.join(rest)} {words} runtime.device={device}"
    folder = tempfile.mkdtemp()
    runner = make_run(algo.split("=")[1], env.split("=")[1], *words.split(), *never, folder=folder)
    runner.reset()

    def go(steps: int) -> None:
        end = runner.steps + steps
        while runner.steps < end:
            runner.advance()

    return go


def theirs(case: str, device: str, threads: int) -> Loop:
    """Theirs, with freed memory kept as ours keeps it."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    agent = CASES[case].theirs(device)
    return lambda steps: agent.learn(steps, reset_num_timesteps=False)


def serve(make: Callable[[], Loop], steps: int, device: str, line: Connection) -> None:
    """A variant's process: past the random steps, then the seconds of `steps` steps, as often as asked."""
    warnings.simplefilter("ignore")
    go = make()
    go(2 * WARMUP)
    line.send("ready")
    while line.recv() == "go":
        clock, processor = time.perf_counter(), time.process_time()
        go(steps)
        if device != "cpu":
            torch.cuda.synchronize()
        line.send((time.perf_counter() - clock, time.process_time() - processor))


def race(case: str, rounds: int, device: str, threads: int, kinds: dict[str, str]) -> dict[str, list[Seconds]]:
    """Each round's seconds, of every variant; Stable-Baselines3 comes first."""
    makers: dict[str, Callable[[], Loop]] = {"stable-baselines3": partial(theirs, case, device, threads)}
    makers |= {f"ours {name}": partial(ours, case, device, threads, words) for name, words in kinds.items()}
    spawn = multiprocessing.get_context("spawn")
    lines: dict[str, Connection] = {}
    for name, make in makers.items():
        lines[name], there = spawn.Pipe()
        spawn.Process(target=serve, args=(make, CASES[case].steps, device, there), daemon=True).start()
        there.close()  # so that a process that fails is noticed
        lines[name].recv()
    seconds: dict[str, list[Seconds]] = {name: [] for name in lines}
    for _ in range(rounds):
        for name, line in lines.items():
            line.send("go")
            seconds[name].append(line.recv())
    for line in lines.values():
        line.send("stop")
    return seconds


def report(case: str, seconds: dict[str, list[Seconds]]) -> None:
    """A line for each variant."""
    base, *_ = seconds.values()
    for name, each in seconds.items():
        speed = CASES[case].steps / statistics.median(clock for clock, _ in each)
        clock, processor = ([b[k] / a[k] for a, b in zip(each, base, strict=True)] for k in (0, 1))
        spread = f"({min(clock):.2f} to {max(clock):.2f}), of processor {statistics.median(processor):5.2f} x"
        print(f"{case:14} {name:18} {speed:7.1f} steps/s {statistics.median(clock):5.2f} x {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast too; slow on a processor without bfloat16")
    parser.add_argument("--compile", action="store_true", help="each of these compiled too")
    given = parser.parse_args()
    kinds = {"fp32": ""}
    kinds |= {"bf16": "runtime.precision=bf16"} if given.bf16 else {}
    if given.compile:
        kinds |= {f"{name} compiled": f"{words} runtime.compile=true".strip() for name, words in kinds.items()}
    for case in given.cases:
        report(case, race(case, given.rounds, given.device, given.threads, kinds))


if __name__ == "__main__":
    main()
