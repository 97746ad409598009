"""What every test stands on: one thread, no display, fixed seeds, and markers that know their hardware."""

from __future__ import annotations

import os
import shutil
import sys

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")

import random
import signal

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {
        "gpu": not torch.cuda.is_available() and "needs CUDA",
        "slurm": not shutil.which("sbatch") and "needs SLURM",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test's random numbers are the same alone, in any order, and on any worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
