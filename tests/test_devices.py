"""Every recipe on a make-believe CUDA device: no tensor is on the wrong one, see tests/other_device.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mbrl_lab.app import make_run
from mbrl_lab.env.cs285 import simulated
from mbrl_lab.replay import Replay
from mbrl_lab.runner import Runner
from mbrl_lab.types import EnvSpec, Step
from tests.other_device import OtherDevice
from tests.recipes import RECIPES, small

QUICK = {"ddqn_discrete", "sac_continuous", "ppo_discrete", "mpc_discrete", "mbpo_continuous", "mbpo_grid"}
QUICK |= {"mbpo_pixels", "dreamer_discrete", "dreamer_grid", "random_discrete"}
"""One of each algorithm and kind of model; the others are slow."""


def started(recipe: str, folder: Path, *more: str) -> Runner:
    """A small run of a recipe whose networks are on the device."""
    algo, env, *others = small(recipe)
    words = [*others, "runtime.device=cuda", "steps=120", *more]
    return make_run(algo.partition("=")[2], env.partition("=")[2], *words, folder=folder)


@pytest.mark.parametrize("place", ["auto", "cpu"])
@pytest.mark.parametrize("recipe", [pytest.param(r, marks=[] if r in QUICK else pytest.mark.slow) for r in RECIPES])
def test_a_run_keeps_its_tensors_where_they_belong(recipe: str, place: str, tmp_path: Path) -> None:
    with OtherDevice():
        runner = started(recipe, tmp_path, f"replay.device={place}")
        runner.run()
        assert all(x.device.type == "cuda" for x in runner.algo.state_dict().values())
        assert runner.replay.store.obs.is_cuda == (place == "auto")


def test_reads_of_rows_on_the_cpu_arrive_on_the_device() -> None:
    spec = EnvSpec((2,), torch.float32, 3, True)
    with OtherDevice():
        replay = Replay(spec, 20, 2, seed=0, device="cuda", storage="cpu")
        for t in range(10):
            no = torch.zeros(2, dtype=torch.bool)
            replay.add(Step(spec.no_action(2), torch.full((2, 2), float(t)), torch.zeros(2), no, no | (t == 0)))
        cells = replay.transitions()
        found = [*replay.sample(4, 3), *replay.latest(2), *replay.read(cells, 2), *replay.outcomes(cells), cells]
        found += [replay.endings(2), replay.windows(4, 2), *replay.draw(4, 2)]
        assert all(x.is_cuda for x in found)
        assert not replay.store.obs.is_cuda and not replay.rows(0, 10).obs.is_cuda


def test_a_simulator_answers_where_it_was_asked(tmp_path: Path) -> None:
    with OtherDevice():
        envs = started("mpc_continuous", tmp_path, "env=cheetah_cs285", "preset=none").envs
        obs, action = envs.reset().obs.to("cuda"), envs.spec.random(envs.num, "cuda")
        assert simulated(obs, action, "cheetah").is_cuda
