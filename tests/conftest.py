"""What every test stands on: its threads, no display, fixed seeds, and markers that know their hardware."""

from __future__ import annotations

import os
import shutil
import sys

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")  # no processor has bf16, unless a test says so
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")

import gc
import pickle
import random
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra._internal import defaults_list
from omegaconf import OmegaConf

from mbrl_lab.config import composition as config
from mbrl_lab.tracking import provenance

yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # hundreds of configs are read
THREADS = int(os.environ.get("TEST_THREADS", "1"))
"""Of torch, in runs too that are made from Python. `make test-processors` has them be two once."""
torch.set_num_threads(THREADS)
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


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: no collection of garbage has to look at it again."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed-offset", type=int, default=0, help="other random numbers, see benchmarks/bounds.py")


def pytest_configure(config: pytest.Config) -> None:
    """Whatever seeds torch, a run or a test, does it with another number."""
    seed, offset = torch.manual_seed, config.getoption("--seed-offset")
    if offset:
        torch.manual_seed = lambda number: seed(int(number) + 1000 * offset)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """A test's random numbers are the same alone, in any order, and on any worker."""
    torch.set_num_threads(THREADS)  # a run that came before may have changed it
    random.seed(request.config.getoption("--seed-offset"))
    np.random.seed(request.config.getoption("--seed-offset"))
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """The same words compose the same config, and the same text is the same file, so Hydra reads each once.

    Hydra also prepares what a defaults list may interpolate, for every file; here only for those that interpolate. And
    git is asked once.
    """
    compose, load, git = config.compose, OmegaConf.load, provenance.git
    choices = defaults_list._create_interpolation_map
    threads = [] if THREADS == 1 else [f"runtime.threads={THREADS}"]
    composed = cache(lambda conf, name, words, **how: pickle.dumps(compose(name, [*threads, *words], **how)))
    loaded: dict[str, bytes] = {}

    def compose_once(name: str, words: list[str], **how: Any) -> Any:
        return pickle.loads(composed(config.CONF, name, tuple(words), **how))

    def load_once(file: Any) -> Any:
        text = file.read() if hasattr(file, "read") else Path(file).read_text()
        if text not in loaded:
            if hasattr(file, "read"):
                file.seek(0)
            loaded[text] = pickle.dumps(load(file))
        return pickle.loads(loaded[text])

    def choices_if_asked(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        return choices(overrides, defaults, self_added) if any(d.is_interpolation() for d in defaults) else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "compose", compose_once)
        patch.setattr(OmegaConf, "load", load_once)
        patch.setattr(defaults_list, "_create_interpolation_map", choices_if_asked)
        patch.setattr(provenance, "git", cache(git))
        yield
