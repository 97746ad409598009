"""How long until a score: ours beside Stable-Baselines3, in steps, processor seconds and seconds by the clock.

    pip install -c constraints.txt -e ".[baselines]"
    OMP_NUM_THREADS=1 python benchmarks/time_to_score.py --envs cartpole pendulum --seeds 3

Each method has the settings that its authors recommend for the environment: ours a preset, theirs those of RL
Baselines3 Zoo or, where it has none, the defaults. At equal intervals of steps the policy plays 10 episodes without
exploration. The score is reached when their mean is at or above it twice in a row, and the time is that of the first of
the two. Clocks stand still during evaluations, and include the making of the agent and its first steps, not imports.

Runs take turns, one at a time, each in a process of its own: all methods with one seed, then with the next. Rows go to
docs/results/time_to_score.csv, with the processor's name, and what is there already is not run again. Lines say medians
over seeds.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import multiprocessing
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mbrl_lab import make_run
from mbrl_lab.nets.speed import keep_freed_memory
from mbrl_lab.tracking.provenance import PACKAGE, cpu_model, git

OUT = Path(__file__).parents[1] / "docs" / "results" / "time_to_score.csv"
EPISODES = 10
NEVER = ("eval.every=0", "checkpoint.every=0", "video.every=0", "logger=jsonl")
COLUMNS = ("env", "score", "method", "seed", "reached", "steps", "processor_seconds", "seconds", "commit", "processor")


@dataclass(frozen=True)
class Case:
    """An environment, its score, and who is asked to reach it."""

    id: str
    """Gymnasium's, for Stable-Baselines3."""
    score: float
    ours: dict[str, str]
    """Method -> words of the command line."""
    theirs: dict[str, tuple[int, int, dict[str, Any]]]
    """Class -> steps at most, steps between evaluations, arguments."""


def linear(first: float) -> Callable[[float], float]:
    """A schedule that falls to 0 over a run, as the Zoo's lin_0.001."""
    return lambda remaining: first * remaining


def zoo_cartpole_ppo() -> dict[str, Any]:
    return {
        "num_envs": 8,
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": linear(1e-3),
        "clip_range": linear(0.2),
    }


CASES = {
    "cartpole": Case(
        "CartPole-v1",
        475,
        {
            "mpc": "algo=mpc env=cartpole",
            "ddqn": "algo=ddqn env=cartpole",
            "ppo": "algo=ppo env=cartpole",
        },
        {
            "PPO": (100_000, 5_000, zoo_cartpole_ppo()),
            "DQN": (
                50_000,
                2_500,
                {
                    "learning_rate": 2.3e-3,
                    "batch_size": 64,
                    "buffer_size": 100_000,
                    "learning_starts": 1_000,
                    "gamma": 0.99,
                    "target_update_interval": 10,
                    "train_freq": 256,
                    "gradient_steps": 128,
                    "exploration_fraction": 0.16,
                    "exploration_final_eps": 0.04,
                    "policy_kwargs": {"net_arch": [256, 256]},
                },
            ),
        },
    ),
    "pendulum": Case(
        "Pendulum-v1",
        -200,
        {"mpc": "algo=mpc env=pendulum", "mbpo": "algo=mbpo env=pendulum", "sac": "algo=sac env=pendulum"},
        {"SAC": (20_000, 1_000, {"learning_rate": 1e-3})},
    ),
    "inverted_pendulum": Case(
        "InvertedPendulum-v5",
        950,
        {"mbpo": "algo=mbpo env=inverted_pendulum preset=mbpo_fast_inverted_pendulum"},
        {"SAC": (20_000, 1_000, {}), "CrossQ": (20_000, 1_000, {})},
    ),
    "cheetah": Case(
        "HalfCheetah-v5",
        3_000,
        {
            "svg": "algo=mbpo policy=svg env=cheetah preset=mbpo_svg_cheetah runtime.compile=true",
            "crossq": "algo=sac policy=crossq env=cheetah",
        },
        {"SAC": (100_000, 5_000, {"learning_starts": 10_000}), "CrossQ": (100_000, 2_500, {})},
    ),
}
OURS_EVERY = {"mpc": 250, "mbpo": 250, "svg": 1_250, "crossq": 2_500, "ppo": 5_000}
"""Steps between our evaluations; else 1,000."""


class Watch:
    """Clocks that stand still during evaluations, and what these found."""

    def __init__(self, score: float) -> None:
        self.score = score
        self.found: list[tuple[int, float, float, float]] = []
        self.processor = self.clock = 0.0
        self.start()

    def start(self) -> None:
        self.began = time.process_time(), time.perf_counter()

    def reached(self, steps: int, play: Callable[[], float]) -> bool:
        """Evaluate after `steps` steps; whether the score was reached twice in a row."""
        self.processor += time.process_time() - self.began[0]
        self.clock += time.perf_counter() - self.began[1]
        self.found.append((steps, self.processor, self.clock, play()))
        self.start()
        return all(value >= self.score for *_, value in self.found[-2:]) and len(self.found) > 1

    def result(self) -> dict[str, str]:
        """The first of two evaluations in a row that reached the score, or how far the run went."""
        pairs = zip(self.found, self.found[1:], strict=False)
        first = next((a for a, b in pairs if min(a[3], b[3]) >= self.score), None)
        steps, processor, clock, _ = first or self.found[-1]
        times = {"steps": str(steps), "processor_seconds": f"{processor:.1f}", "seconds": f"{clock:.1f}"}
        return {"reached": str(first is not None), **times}


def ours(env: str, method: str, seed: int) -> dict[str, str]:
    """A run of ours until the score, or to the last step of its preset."""
    case = CASES[env]
    watch = Watch(case.score)
    algo, name, *words = case.ours[method].split()
    folder = tempfile.mkdtemp()
    runner = make_run(
        algo.partition("=")[2],
        name.partition("=")[2],
        *words,
        f"seed={seed}",
        "runtime.threads=1",
        *NEVER,
        folder=folder,
    )
    runner.reset()
    every = OURS_EVERY.get(method, 1_000)

    def play() -> float:
        return statistics.mean(episode.ret for episode in runner.evaluate(EPISODES))

    while runner.steps < runner.schedule.steps:
        runner.advance()
        if runner.crossed(every) and watch.reached(runner.steps, play):
            break
    return watch.result()


def theirs(env: str, method: str, seed: int) -> dict[str, str]:
    """A run of Stable-Baselines3 or sb3-contrib until the score, or to its last step."""
    import stable_baselines3 as sb3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    if method == "CrossQ":
        import sb3_contrib as library
    else:
        library = sb3
    case = CASES[env]
    steps, every, arguments = case.theirs[method]
    arguments = dict(arguments)
    # Freed memory is kept as ours keeps it.
    keep_freed_memory()
    torch.set_num_threads(1)
    watch = Watch(case.score)
    make = make_vec_env(case.id, arguments.pop("num_envs", 1), seed=seed)
    agent = getattr(library, method)("MlpPolicy", make, seed=seed, device="cpu", **arguments)
    test = make_vec_env(case.id, 1, seed=1_000 + seed)

    class Evaluate(BaseCallback):
        due = every

        def _on_step(self) -> bool:
            if self.num_timesteps < self.due:
                return True
            self.due += every
            play = lambda: float(evaluate_policy(agent, test, EPISODES)[0])  # noqa: E731
            return not watch.reached(self.num_timesteps, play)

    agent.learn(steps, callback=Evaluate())
    return watch.result()


def in_a_process(run: Callable[..., dict[str, str]], *arguments: Any) -> dict[str, str]:
    """A run in a process of its own, so that none inherits another's memory and compiled code."""
    with multiprocessing.get_context("spawn").Pool(1, initializer=warnings.simplefilter, initargs=("ignore",)) as pool:
        return pool.apply(run, arguments)


def done_before() -> list[dict[str, str]]:
    return list(csv.DictReader(OUT.open())) if OUT.exists() else []


def store(row: dict[str, str]) -> None:
    """Add a row at once: a stopped benchmark goes on where it was."""
    new = not OUT.exists()
    with OUT.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def report(env: str, rows: list[dict[str, str]]) -> None:
    """A line for each method: medians over seeds, infinite where the score was not reached."""
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]

        def median(key: str, mine: list[dict[str, str]] = mine) -> float:
            return statistics.median(float(r[key]) if r["reached"] == "True" else math.inf for r in mine)

        reached = sum(row["reached"] == "True" for row in mine)
        steps, processor, clock = (median(key) for key in ("steps", "processor_seconds", "seconds"))
        print(
            f"{env:18} {method:12} {reached} of {len(mine)} seeds {steps:9,.0f} steps "
            f"{processor:8.1f} processor s {clock:8.1f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", help="only these, e.g. mpc sb3-SAC")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    processor = cpu_model()
    commit = (git(PACKAGE)["commit"] or "unknown")[:7]
    for package in ("stable_baselines3", "sb3_contrib"):
        if not importlib.util.find_spec(package):
            print(f'{package} is left out, as it is not installed: pip install -c constraints.txt -e ".[baselines]"')
    for env in args.envs:
        case = CASES[env]
        runs = {method: (ours, method) for method in case.ours}
        for method in case.theirs:
            package = "sb3_contrib" if method == "CrossQ" else "stable_baselines3"
            if importlib.util.find_spec(package):
                runs[f"sb3-{method}"] = (theirs, method)
        runs = {name: run for name, run in runs.items() if not args.methods or name in args.methods}
        for seed in range(args.seeds):
            for name, (run, method) in runs.items():
                who = {"env": env, "method": name, "seed": str(seed), "processor": processor}
                if any(all(row[k] == v for k, v in who.items()) for row in done_before()):
                    continue
                row = who | {"score": str(case.score), "commit": commit, **in_a_process(run, env, method, seed)}
                store(row)
                print(" ".join(f"{row[k]}" for k in COLUMNS[:-1]), flush=True)
        report(env, [r for r in done_before() if r["env"] == env and r["processor"] == processor])


if __name__ == "__main__":
    main()
