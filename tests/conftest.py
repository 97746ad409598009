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
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import omegaconf
import pytest
import torch
import yaml
from hydra._internal import config_loader_impl, defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import OmegaConf

from mbrl_lab.config import composition as config
from mbrl_lab.config import presets
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

    Our own files are merged once for each choice of groups, since values that the words give come after that. Hydra
    also prepares what a defaults list may interpolate, for every file; here only for those that interpolate. The same
    interpolation is parsed once, and git is asked once.
    """
    compose, load, git = config.compose, OmegaConf.load, provenance.git
    choices = defaults_list._create_interpolation_map
    threads = [] if THREADS == 1 else [f"runtime.threads={THREADS}"]
    composed = cache(lambda conf, name, words, **how: pickle.dumps(compose(name, [*threads, *words], **how)))
    loaded: dict[str, bytes] = {}
    create, merge = config_loader_impl.create_defaults_list, ConfigLoaderImpl._compose_config_from_defaults_list
    own = str(config.CONF)
    created: dict[tuple[Any, ...], Any] = {}
    merged: dict[str, bytes] = {}

    def only_ours(repo: Any) -> bool:
        """Whether all files that it reads are Hydra's and those of our conf/, which no test writes to."""
        paths = (str(source.path) for source in repo.get_sources() if source.scheme() in ("file", "preset"))
        return not presets.FOLDERS and all(path == own for path in paths)

    def create_once(repo: Any, config_name: Any, overrides_list: list[Any], **how: Any) -> Any:
        if not only_ours(repo):
            return create(repo, config_name, overrides_list, **how)
        values = defaults_list.Overrides(repo, overrides_list).config_overrides
        choices = [word for word in overrides_list if not any(word is value for value in values)]
        key = (config_name, *(word.input_line for word in choices), *sorted(how.items()))
        if key not in created:
            created[key] = create(repo, config_name, choices, **how)
        return replace(created[key], config_overrides=values)

    def merge_once(loader: Any, defaults: list[Any], repo: Any) -> Any:
        if not only_ours(repo):
            return merge(loader, defaults, repo)
        if (key := repr(defaults)) not in merged:
            merged[key] = pickle.dumps(merge(loader, defaults, repo))
        return pickle.loads(merged[key])

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
        for module in (omegaconf.base, omegaconf._utils):
            patch.setattr(module, "parse", cache(omegaconf.grammar_parser.parse))
        patch.setattr(config, "compose", compose_once)
        patch.setattr(OmegaConf, "load", load_once)
        patch.setattr(defaults_list, "_create_interpolation_map", choices_if_asked)
        patch.setattr(config_loader_impl, "create_defaults_list", create_once)
        patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)
        patch.setattr(provenance, "git", cache(git))
        yield
