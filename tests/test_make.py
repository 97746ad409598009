"""What `make cs285` runs, by its variables; nothing is run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mbrl_lab.config import check, compose_config

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def runs(*variables: str) -> list[list[str]]:
    """The overrides of each training, in order."""
    command = ["make", "-n", "-o", ".venv/.installed", "cs285", *variables]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
    words = [shlex.split(line) for line in said.splitlines() if "scripts/train.py" in line]
    return [line[line.index("scripts/train.py") + 1 :] for line in words]


def test_mpc_and_then_mbpo() -> None:
    mpc, mbpo = runs()
    assert mpc == ["name=cs285", "algo=mpc", "env=cheetah_cs285", "planner=random_shooting"]
    assert mbpo == [
        "name=cs285",
        "algo=mbpo",
        "env=cheetah_cs285",
        "algo.rollouts.length=[10,10,0,1]",
        "policy.temperature.alpha=0.1",
    ]


def test_the_variables_reach_the_run_they_are_for() -> None:
    mpc, mbpo = runs(
        "ENV=obstacles_cs285",
        "MBPO_ENV=reacher_cs285",
        "PLANNER=cem",
        "ROLLOUT=5",
        "INIT_TEMPERATURE=0.5",
        "MPC_ARGS=steps=6000 seed=1",
        "MBPO_ARGS=seed=2",
    )
    assert mpc[2:] == ["env=obstacles_cs285", "planner=cem", "planner.iterations=4", "steps=6000", "seed=1"]
    assert mbpo[2:] == ["env=reacher_cs285", "algo.rollouts.length=[5,5,0,1]", "policy.temperature.alpha=0.5", "seed=2"]
    assert len(runs("RUN_MBPO=0")) == 1 and runs("ENV=reacher_cs285")[1][2] == "env=reacher_cs285"


@pytest.mark.parametrize("env", ["cheetah_cs285", "obstacles_cs285", "reacher_cs285"])
@pytest.mark.parametrize("planner", ["random_shooting", "cem"])
def test_what_it_runs_composes_and_holds_what_can_be(env: str, planner: str) -> None:
    mpc, mbpo = (compose_config(words) for words in runs(f"ENV={env}", f"PLANNER={planner}", "ROLLOUT=7"))
    for cfg in (mpc, mbpo):
        check(cfg)
        assert cfg.dynamics.members == 3 and not cfg.dynamics.regression.gaussian and cfg.dynamics.trainer.batch == 512
        assert cfg.dynamics.regression.noise == 0.01 and cfg.dynamics.known.reward_fn == cfg.env.physics.reward
    assert mpc.planner.population == 1000 and mpc.algo.warmup == 5_000
    assert mbpo.algo.rollouts.length[:2] == [7, 7] and mbpo.policy.temperature.alpha == 0.1
