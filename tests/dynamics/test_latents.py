"""States kept beside replay are those that the whole stream leads to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mbrl_lab import make_run
from mbrl_lab.dynamics.latents import Latents

WORDS = [
    "dynamics=rssm_xs",
    "preset=none",
    "debug=smoke",
    "dynamics.trainer.latents=stored",
    "video.final=0",
    "eval.every=0",
]
SMALL = [
    "dynamics.length=5",
    "dynamics.state.units=16",
    "dynamics.state.groups=4",
    "dynamics.state.classes=4",
    "dynamics.bins=41",
    "policy.bins=41",
]


def sharp(logp: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The likeliest classes, in place of draws."""
    return torch.nn.functional.one_hot(logp.argmax(-1), logp.shape[-1]) + 0 * logp


def still(algo: Any) -> None:
    """The model infers without chance, and no longer learns."""
    algo.model.sample = sharp
    algo.model.scale = None
    algo.model.opt.step = algo.policy.actor_opt.step = algo.policy.critic_opt.step = lambda: None


def test_what_is_stored_is_what_observing_everything_gives(tmp_path: Path) -> None:
    runner = make_run(
        "dreamer", "cartpole", *WORDS, *SMALL, "env.num=2", "replay.capacity=60", "algo.warmup=40", folder=tmp_path
    )
    algo: Any = runner.algo
    still(algo)
    state, truth = None, []
    with runner.tracker:
        runner.reset()
        for _ in range(80):
            with torch.no_grad():
                state = algo.model.observe(state, runner.newest)
            truth.append(state)
            runner.advance()
    assert algo.ready and runner.replay.added == 81 and runner.replay.slots == 30
    for row in range(51, 80):
        kept = algo.model.trainer.latents.read(torch.tensor([2 * row, 2 * row + 1]))
        for key, x in kept.items():
            torch.testing.assert_close(x, truth[row][key], msg=f"{key} of row {row}")
    runner.envs.close()


def test_newer_states_replace_older_ones_but_not_at_first_steps(tmp_path: Path) -> None:
    runner = make_run("dreamer", "cartpole", *WORDS, *SMALL, folder=tmp_path)
    model: Any = runner.algo.model
    latents = Latents(model, runner.replay)
    latents.put(7, model.initial_state(1, torch.device("cpu")))
    states = {"deter": torch.ones(3 * 2, 16), "stoch": torch.zeros(6, 4, 4)}
    states["stoch"][..., 2] = 1
    latents.refresh(torch.tensor([6, 20]), states)
    assert latents.rings["deter"][:30].sum(-1).nonzero().flatten().tolist() == [7, 8, 21, 22]
    assert latents.rings["classes"][7].tolist() == [2] * 4 and latents.rings["classes"][6].tolist() == [0] * 4
    assert torch.equal(latents.read(torch.tensor([8]))["stoch"], states["stoch"][:1])
    runner.envs.close()


def test_only_a_memory_can_be_stored() -> None:
    with pytest.raises(
        ValueError,
        match=r"dynamics.trainer.latents is 'stored'; it must be recomputed with dynamics=latent, which is not",
    ):
        make_run("dreamer", "cartpole", "dynamics.trainer.latents=stored", folder="/nowhere")
