"""Results of an agent: the evaluation that its card reports."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from mbrl_lab.config import ConfigError
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.provenance import shell_command
from mbrl_lab.tracking.settings import flatten


def results_of(folder: RunFolder, checkpoint: str, step: int) -> dict[str, Any]:
    """The largest evaluation of a checkpoint at its step, or the run's own final one.

    The first five keys are those of other libraries' results.json on the Hub. ConfigError if there is none.
    """
    found = evaluated(folder, checkpoint, step) or (final(folder, step) if checkpoint == "last" else None)
    if found is None:
        raise ConfigError(
            f"{folder.path} has no evaluation of its checkpoint {checkpoint} at step {step:,}: "
            f"{shell_command('evaluate')} {folder.path} --checkpoint {checkpoint} --episodes 20"
        )
    return found | {"step": step, "checkpoint": checkpoint, "run": folder.identity()}


def evaluated(folder: RunFolder, checkpoint: str, step: int) -> dict[str, Any] | None:
    """The results of scripts/evaluate.py with the most episodes."""
    best: dict[str, Any] | None = None
    for path in sorted(folder.evaluations.glob("*.json")):
        read = json.loads(path.read_text(encoding="utf-8"))
        fits = (read.get("checkpoint"), read.get("step")) == (checkpoint, step)
        if fits and (best is None or read["episodes"] > best["n_eval_episodes"]):
            date = datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
            returns = [episode["return"] for episode in read["played"]]
            best = summary(folder, read["return"], read["return_std"], read["episodes"], date, returns)
    return best


def final(folder: RunFolder, step: int) -> dict[str, Any] | None:
    """The final evaluation, which is a run's last row of metrics."""
    lines = folder.metrics.read_text(encoding="utf-8").splitlines() if folder.metrics.exists() else []
    row = json.loads(lines[-1]) if lines else {}
    if row.get("step") != step or row.get("final/return") is None:
        return None
    episodes = flatten(folder.config()).get("eval.final_episodes", 0)
    date = datetime.datetime.fromtimestamp(folder.metrics.stat().st_mtime, datetime.UTC)
    return summary(folder, row["final/return"], row["final/return_std"], int(episodes), date, None)


def summary(
    folder: RunFolder, mean: float, std: float, episodes: int, date: datetime.datetime, returns: list[float] | None
) -> dict[str, Any]:
    # An evaluation explores only by this setting.
    random = flatten(folder.config()).get("policy.exploration.epsilon_eval", 0)
    return {
        "mean_reward": mean,
        "std_reward": std,
        "is_deterministic": not random,
        "n_eval_episodes": episodes,
        "eval_datetime": date.isoformat(timespec="seconds"),
        "returns": returns,
    }


def write_results(results: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
