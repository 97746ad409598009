"""Does `debug=smoke` finish every pair? One line of CSV for each: outcome, processor seconds, the reason of a refusal.

Each pair runs as a process of its own, start-up, video and pictures included. Pairs that are listed twice run once.

    python benchmarks/smoke.py > docs/results/smoke.csv
    python benchmarks/smoke.py "algo=mpc env=breakout" "algo=mpc env=pendulum dynamics=rssm_xs"
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mbrl_lab.config import CONF

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train.py"
LIMIT = 600
"""Seconds of processor time after which a run is killed."""

ENV_OF = {"discrete": "cartpole", "continuous": "pendulum", "pixels": "breakout", "grid": "minatar_breakout"}
"""The environment that stands for a family."""

NEEDS = {"gym": "env.id=Acrobot-v1", "atari": "env.game=pong"}
"""What an environment's file leaves open."""

PLANNERS = ("random_shooting", "cem", "icem", "mppi")
MODELS = {
    "cartpole": ("latent", "rssm_xs", "rssm_s", "analytic"),
    "pendulum": ("latent", "rssm_xs", "rssm_s", "analytic"),
    "minatar_breakout": ("latent", "rssm_xs", "analytic"),
    "breakout": ("latent", "rssm_xs"),
}
"""Other models than the recipe's that `algo=mpc` plans in."""


def pairs() -> list[str]:
    """Every recipe, every environment by its default algorithms, planners, models, experiments."""
    names = {
        group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in ("recipe", "env", "preset")
    }
    recipes = [name.rsplit("_", 1) for name in names["recipe"]]
    words = [f"algo={algo} env={ENV_OF[family]}" for algo, family in recipes]
    words += [f"algo=random env={env} {NEEDS.get(env, '')}".strip() for env in names["env"]]
    tuned = (name.split("_", 1) for name in names["preset"] if "_" in name)
    there = [(algo, env) for algo, env in tuned if env in names["env"]]
    words += [f"algo={algo} env={env} {NEEDS.get(env, '')}".strip() for algo, env in there]
    words += [f"algo=mpc env={env} planner={planner}" for env in ENV_OF.values() for planner in PLANNERS]
    words += [f"algo=mpc env={env} dynamics={model}" for env, models in MODELS.items() for model in models]
    words += [f"experiment={path.stem}" for path in sorted((CONF / "experiment").glob("*.yaml"))]
    return list(dict.fromkeys(words))


def smoke(words: str) -> dict[str, Any]:
    """Run one pair; `outcome` is done, refused (exit code 2), failed, or killed at the limit."""
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, str(SCRIPT), *words.split(), "debug=smoke", f"hydra.run.dir={home}/run"]
        limited = ["prlimit", f"--cpu={LIMIT}", *command]
        process = subprocess.Popen(limited, cwd=home, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = code = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        last = ([""] + [line.strip() for line in errors if line.strip()])[-1]
    outcome = {0: "done", 2: "refused"}.get(code, "killed" if code < 0 else "failed")
    seconds = usage.ru_utime + usage.ru_stime
    return {
        "pair": words,
        "outcome": outcome,
        "processor_seconds": round(seconds, 1),
        "reason": last if code else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", help="settings of a run each, in quotes; none: every pair")
    given = parser.parse_args()
    writer = csv.DictWriter(sys.stdout, ["pair", "outcome", "processor_seconds", "reason"])
    writer.writeheader()
    for words in given.pairs or pairs():
        writer.writerow(smoke(words))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
