"""The run that is played in."""

from __future__ import annotations

from pathlib import Path

import pytest
from small import SMALL

from mbrl_lab import make_run


@pytest.fixture(scope="session")
def breakout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in MinAtar's Breakout with a fitted model of two members, and some episodes of training."""
    folder = tmp_path_factory.mktemp("runs") / "breakout"
    runner = make_run("mbpo", "minatar_breakout", *SMALL, "env.num=1", "dynamics.members=2", folder=folder)
    runner.run()
    runner.envs.close()
    return folder
