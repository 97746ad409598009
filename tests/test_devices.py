"""Every recipe on a simulated CUDA device: no tensor is on the wrong one, see tests/other_device.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mbrl_lab.app import make_run
from mbrl_lab.config import CONF
from mbrl_lab.config.parts import build
from mbrl_lab.dynamics.grid import GridNet
from mbrl_lab.env.cs285 import TASKS, simulated
from mbrl_lab.protocols import Policy
from mbrl_lab.replay import Replay
from mbrl_lab.runner import Runner
from mbrl_lab.types import EnvSpec, Step
from tests.other_device import OtherDevice
from tests.recipes import RECIPES, small

QUICK = {"ddqn_discrete", "sac_continuous", "ppo_discrete", "mpc_discrete", "mbpo_continuous", "mbpo_grid"}
QUICK |= {"mbpo_pixels", "dreamer_discrete", "dreamer_grid", "random_discrete", "tdmpc_continuous"}
"""One of each algorithm and kind of model; the others are slow."""

BRIEF = {"mpc": ["planner.horizon=2"], **{algo: ["steps=70"] for algo in ("ddqn", "sac", "ppo", "mbpo")}}
"""What makes a run brief: every kernel is looked at from Python. The warm-up is 50 steps, or 100 of mpc and dreamer."""


def started(recipe: str, folder: Path, *more: str) -> Runner:
    """A small run of a recipe whose networks are on the device."""
    algo, env, *others = small(recipe)
    words = [*others, "runtime.device=cuda", "steps=110", "eval.final_episodes=1", *more]
    words += ["env.make.max_episode_steps=15"] if any("max_episode_steps" in word for word in others) else []
    return make_run(algo.partition("=")[2], env.partition("=")[2], *words, folder=folder)


def tensors(runner: Runner) -> list[torch.Tensor]:
    """Parameters and buffers of the algorithm."""
    return [*runner.algo.parameters(), *runner.algo.buffers()]


@pytest.mark.parametrize("place", ["auto", "cpu"])
@pytest.mark.parametrize("recipe", [pytest.param(r, marks=[] if r in QUICK else pytest.mark.slow) for r in RECIPES])
def test_a_run_keeps_its_tensors_where_they_belong(recipe: str, place: str, tmp_path: Path) -> None:
    with OtherDevice():
        runner = started(recipe, tmp_path, f"replay.device={place}", *BRIEF.get(recipe.partition("_")[0], []))
        runner.run()
        assert all(x.device.type == "cuda" for x in tensors(runner))
        assert runner.replay.store.obs.is_cuda == (place == "auto")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("mbpo_continuous", ["policy=svg", "algo.real_ratio=0.5", "policy.horizon=2", "dynamics.regression.norm=true"]),
        ("sac_continuous", ["policy=crossq", "policy.critic.width=16"]),
        ("mpc_continuous", ["value=sac", "policy.normalise_obs=true"]),
    ],
    ids=["svg", "crossq", "value"],
)
def test_other_policies_keep_their_tensors_where_they_belong(recipe: str, words: list[str], tmp_path: Path) -> None:
    with OtherDevice():
        runner = started(recipe, tmp_path, *BRIEF[recipe.partition("_")[0]], *words)
        runner.run()
        assert all(x.device.type == "cuda" for x in tensors(runner))


def test_reads_of_steps_on_the_cpu_arrive_on_the_device() -> None:
    spec = EnvSpec((2,), torch.float32, 3, True)
    with OtherDevice():
        replay = Replay(spec, 20, 2, seed=0, device="cuda", storage="cpu")
        for t in range(10):
            no = torch.zeros(2, dtype=torch.bool)
            replay.add(Step(spec.zero_action(2), torch.full((2, 2), float(t)), torch.zeros(2), no, no | (t == 0)))
        indices = replay.transitions()
        found = [
            *replay.sample(4, 3),
            *replay.latest(2),
            *replay.read(indices, 2),
            *replay.rewards_and_terminals(indices),
            indices,
        ]
        found += [replay.terminal_windows(2), replay.windows(4, 2), *replay.sample_by_priority(4, 2)]
        assert all(x.is_cuda for x in found)
        assert not replay.store.obs.is_cuda and not replay.steps(0, 10).obs.is_cuda


def test_a_simulator_answers_where_it_was_asked() -> None:
    obs, _ = TASKS["cheetah"]().reset(seed=0)
    with OtherDevice():
        row = torch.as_tensor(obs, dtype=torch.float32, device="cuda")[None]
        assert simulated(row, torch.zeros(1, 6, device="cuda"), "cheetah").is_cuda


def test_imagining_grids_waits_for_no_value() -> None:
    """Numbers of indices that stay are read once; other weights bring other numbers."""
    spec = EnvSpec((1, 4, 4), torch.uint8, 2, True)
    frames = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    with OtherDevice() as gpu:
        net, other = (GridNet(spec, 1, 1, 4, 1).to("cuda") for _ in range(2))
        net.update_statistics(frames.to("cuda"))
        other.update_statistics((frames + 1).to("cuda"))
        state, action = torch.zeros(5, 1, 4, 4, dtype=torch.uint8, device="cuda"), torch.ones(5, 2, device="cuda")
        assert net.conserved() == [(0, 0)] and other.conserved() == [(0, 16)]
        gpu.waits.clear()
        net(state, action)
        assert not gpu.waits
        net.load_state_dict(other.state_dict())
        assert net.conserved() == [(0, 16)]


def made(name: str, spec: EnvSpec) -> Policy:
    """A policy with the settings of its file, on the device."""
    encoder = {"_target_": "mbrl_lab.nets.encoder.Vector", "_partial_": True}
    cfg = OmegaConf.create({"policy": OmegaConf.load(CONF / "policy" / f"{name}.yaml"), "encoder": encoder})
    if name == "ddqn":
        cfg.policy.merge_with({"target": {"every": 2}, "resets": {"every": 5, "anneal_updates": 4, "n_step_start": 2}})
    return build(cfg.policy)(spec).to("cuda")


@pytest.mark.parametrize("name", ["ddqn", "sac", "crossq"])
def test_an_update_waits_for_no_value(name: str) -> None:
    """Schedules by the count of updates, such as that of CrossQ's actor, are known without asking the device."""
    spec = EnvSpec((2,), torch.float32, 2, discrete=name == "ddqn")
    with OtherDevice() as gpu:
        policy = made(name, spec)
        steps, no = policy.window, torch.zeros(policy.window, 4, dtype=torch.bool, device="cuda")
        action = torch.stack([spec.sample(4, "cuda")] * steps)
        batch = Step(action, torch.randn(2, 4, 2, device="cuda"), torch.zeros(steps, 4, device="cuda"), no, no)
        policy.update(batch)
        gpu.waits.clear()
        for _ in range(3):
            policy.update(batch)
            policy.act(batch.obs[0], True)
        assert not gpu.waits


@pytest.mark.parametrize("name", ["latent", "rssm"])
def test_an_update_of_a_model_of_windows_waits_for_no_value(name: str) -> None:
    """The learning rate falls with the count of updates, which the device is not asked for."""
    spec = EnvSpec((2,), torch.float32, 2, discrete=True)
    encoder = {"_target_": "mbrl_lab.nets.encoder.Vector", "_partial_": True}
    cfg = OmegaConf.create({"dynamics": OmegaConf.load(CONF / "dynamics" / f"{name}.yaml"), "encoder": encoder})
    cfg.dynamics.pop("defaults", None)
    cfg.dynamics.merge_with({"width": 8, "optim": {"anneal_updates": 4}})
    with OtherDevice() as gpu:
        model = build(cfg.dynamics)(spec).to("cuda")
        no = torch.zeros(5, 4, dtype=torch.bool, device="cuda")
        obs = torch.randn(5, 4, 2, device="cuda")
        steps = Step(torch.stack([spec.sample(4, "cuda")] * 5), obs, torch.zeros(5, 4, device="cuda"), no, no)
        model.update(steps)
        gpu.waits.clear()
        for _ in range(3):
            model.update(steps)
        assert not gpu.waits


OPTIONS: dict[str, tuple[str, ...]] = {
    "ddqn_discrete": (
        "policy.head.atoms=11",
        "policy.head.dueling=true",
        "policy.target.n_step=3",
        "policy.resets.n_step_start=5",
        "policy.resets.gamma_start=0.9",
        "policy.resets.anneal_updates=20",
        "policy.resets.every=10",
        "policy.exploration.epsilon_eval=0.1",
        "policy.target.every=3",
        "algo.priority_exponent=0.5",
        "algo.reward_clip=1",
        "replay.device=cpu",
    ),
    "ddqn_pixels": (
        "encoder=impala",
        "policy.optim.random_shift=4",
        "policy.optim.random_intensity=0.05",
        "policy.optim.weight_decay=0.1",
        "policy.target.acts=true",
        "policy.head.norm=true",
        "policy.resets.every=10",
        "algo.priority_exponent=0.5",
        "preset=none",
    ),
    "sac_continuous": (
        "policy.critic.number=3",
        "policy.critic.target_subset=2",
        "policy.critic.norm=true",
        "policy.critic.dropout=0.1",
        "runtime.precision=bf16",
    ),
    "ppo_continuous": (
        "policy.normalise.obs=true",
        "policy.normalise.reward=true",
        "policy.objective.value_clip=0.2",
        "policy.optim.anneal_updates=10",
        "env.num=2",
        "runtime.precision=bf16",
    ),
    "mpc_discrete": (
        "dynamics.imagination.propagation=ts1",
        "dynamics.regression.gaussian=true",
        "dynamics.regression.noise=0.1",
        "dynamics.optim.weight_decay=0.1",
        "dynamics.optim.clip=1",
        "dynamics.termination.bounds=true",
        "dynamics.termination.hazard=0.5",
        "dynamics.trainer.bootstrap=true",
        "runtime.precision=bf16",
    ),
    "mpc_continuous": ("planner=icem", "planner.population=16", "planner.elites=4", "planner.horizon=5", "preset=none"),
    "mpc_grid": ("value=ddqn", "planner.horizon=2"),
    "mbpo_discrete": ("policy=ppo", "policy.optim.epochs=1", "policy.optim.minibatches=2", "preset=none"),
    "mbpo_continuous": ("algo.uncertainty.max=0.5", "algo.uncertainty.bonus=0.1", "runtime.precision=bf16"),
    "mbpo_grid": (
        "algo.rollouts.adaptive=true",
        "algo.uncertainty.max=0.5",
        "algo.uncertainty.bonus=0.1",
        "dynamics.history=6",
        "dynamics.unroll=2",
        "preset=none",
    ),
    "mbpo_pixels": ("dynamics.target=delta", "dynamics.history=6", "dynamics.unroll=2", "preset=none"),
    "dreamer_discrete": (
        "dynamics=rssm_xs",
        "policy=actor_critic_xs",
        "dynamics.trainer.latents=stored",
        "dynamics.trainer.terminal_fraction=0.3",
        "dynamics.trainer.accumulate=2",
        "algo.hybrid=2",
        "policy.optim.anneal_updates=50",
        "dynamics.optim.anneal_updates=50",
        "preset=none",
        "replay.device=cpu",
    ),
    "dreamer_continuous": (
        "policy.gradient=dynamics",
        "dynamics.state.gaussian=true",
        "dynamics.bins=11",
        "dynamics.decode=false",
        "preset=none",
    ),
}
"""Settings with code of their own, and bf16."""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OPTIONS)
def test_options_keep_their_tensors_where_they_belong(recipe: str, tmp_path: Path) -> None:
    with OtherDevice():
        started(recipe, tmp_path, *OPTIONS[recipe]).run()


def test_a_run_on_the_device_resumes_exactly(tmp_path: Path) -> None:
    """Its random numbers too, which evaluations leave alone."""

    def run(folder: Path, steps: int, every: int) -> Runner:
        with OtherDevice():
            runner = started("mpc_discrete", folder, f"steps={steps}", f"eval.every={every}", *BRIEF["mpc"])
            runner.run()
        return runner

    run(tmp_path / "halves", 108, 104)
    halves, whole = run(tmp_path / "halves", 118, 104), run(tmp_path / "whole", 118, 112)
    assert all(torch.equal(a, b) for a, b in zip(tensors(halves), tensors(whole), strict=True))
    assert torch.equal(halves.replay.store.action[:118], whole.replay.store.action[:118])
