"""What a run left behind, but for what cannot repeat; and run folders made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl without what is measured with a clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 100


def put_run(folder: Path, returns: list[float], final: float | None = None, **config: Any) -> Path:
    """A run's folder as training leaves it, with an evaluation each 100 steps that took 10 seconds."""
    algo, seed = config.pop("algo", "sac"), config.pop("seed", 0)
    env = config.pop("env", {"make": {"id": "Pendulum-v1"}, "threshold": 2.5})
    folder.mkdir(parents=True)
    tree = {"seed": seed, "steps": 100 * len(returns), "algo": {"_target_": f"x.{algo.upper()}"}, "env": env, **config}
    OmegaConf.save(OmegaConf.create(tree), folder / "config.yaml")
    (folder / "overrides.txt").write_text(f"algo={algo}\nseed={seed}\n")

    rows: list[dict[str, float]] = [
        {"step": 100 * k, "eval/return": value, "time/seconds": 12.0 * k, "time/evaluation": 2.0 * k}
        for k, value in enumerate(returns, 1)
    ]
    rows += [{"step": 100 * len(returns), "final/return": final}] if final is not None else []
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = {
        "state": "done",
        "step": 100 * len(returns),
        "attempt": 1,
        "pid": 1,
        "born": "",
        "host": "h",
        "error": None,
    }
    (folder / "status.json").write_text(json.dumps(status))
    hardware = {"host": "h", "cpu": "a processor", "cores": 2, "gpus": []}
    origin = {"started": "2026-01-01T00:00:00", "git": {"commit": "abc", "dirty": False}, "hardware": hardware}
    (folder / "env.json").write_text(json.dumps(origin | {"python": "3.11", "packages": {"torch": "2.9"}}))
    return folder
