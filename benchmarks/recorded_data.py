"""What recorded data are worth on Pendulum: python benchmarks/recorded_data.py OUT [--seeds 5]

1. MBPO runs for 2,000 steps (OUT/source), and its replay is exported as a dataset of Minari.
2. Is a model that is fitted to the dataset as good as the run's own? The one-step errors of both on the steps of
   another run, which neither has seen (OUT/nothing-seed0), as fractions of the standard deviations of the targets.
3. MBPO from nothing and from the dataset, evaluated every 250 of its own steps, for each seed.

Writes OUT/recorded_data.csv. A run that is done is not repeated. Needs the extra `minari`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from mbrl_lab import load_run
from mbrl_lab.dynamics import Ensemble
from mbrl_lab.types import Step

ROOT = Path(__file__).parents[1]
EVALUATE = ["eval.every=250", "eval.episodes=10", "video.every=0", "video.final=0"]
FITS = 37
"""Of the source: one every 50 steps after 200 random ones."""
FROM_DATA = ["replay.init=minari:pendulum/source-v0", "algo.warmup=2"]


def train(folder: Path, steps: int, seed: int, *words: str) -> None:
    """MBPO on Pendulum, unless that run is done."""
    status = folder / "status.json"
    if status.exists() and json.loads(status.read_text())["state"] == "done":
        return
    run = ["algo=mbpo", "env=pendulum", f"steps={steps}", f"seed={seed}", f"hydra.run.dir={folder}", *EVALUATE, *words]
    subprocess.run([sys.executable, ROOT / "scripts" / "train.py", *run], check=True)


def one_step_errors(run: Path, steps: Step) -> tuple[Tensor, Tensor]:
    """Errors of a run's model on transitions [2, N], for state and reward: 1 is that of predicting the mean."""
    model = load_run(run).algo.model
    assert isinstance(model, Ensemble)
    with torch.no_grad():
        found = model.validation(steps)
    relative = found.error.square().mean(0).sqrt() / found.true.std(0)
    return relative[:-1].square().mean().sqrt(), relative[-1]


def curve(folder: Path) -> dict[int, float]:
    """Mean return of the evaluation after so many steps."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["eval/return"] for row in rows if "eval/return" in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_000)
    args = parser.parse_args()
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(out / "minari")

    source = out / "source"
    train(source, 2_000, 100)
    if not (out / "minari" / "pendulum").exists():
        export = [sys.executable, ROOT / "scripts" / "data.py", "export", source, "--minari", "pendulum/source-v0"]
        subprocess.run(export, check=True)

    rows = []
    for seed in range(args.seeds):
        for start, words in (("nothing", []), ("data", FROM_DATA)):
            folder = out / f"{start}-seed{seed}"
            train(folder, args.steps, seed, *words)
            rows += [{"start": start, "seed": seed, "step": k, "return": round(v, 1)} for k, v in curve(folder).items()]
    with (out / "recorded_data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

    # A step apart, as many fits as the source made, on the recorded steps and hardly any others.
    models = {"the run's own": source}
    for seed in range(3):
        name = f"fitted to its dataset, {seed}"
        models[name] = out / f"fitted-seed{seed}"
        train(models[name], FITS + 2, seed, *FROM_DATA, "algo.every=1", "eval.final_episodes=1")
    replay = load_run(out / "nothing-seed0", with_replay=True).replay
    unseen = replay.read(replay.sample_transitions(5_000), 2)
    print(f"{'model':26} {'state':>8} {'reward':>8}")
    for name, run in models.items():
        state, reward = one_step_errors(run, unseen)
        print(f"{name:26} {state:8.4f} {reward:8.4f}")


if __name__ == "__main__":
    main()
