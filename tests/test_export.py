"""mbrl-lab export: files that act as the run's policy does, without this package."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from recipes import small
from torch import Tensor

from mbrl_lab import make_run
from mbrl_lab.cli.export import main
from mbrl_lab.env import make_gym
from mbrl_lab.export import acting, export, formats, write
from mbrl_lab.export.parity import Parity, compare, parity, play
from mbrl_lab.protocols import Policy
from mbrl_lab.runner import FINAL, Runner

ROOT = Path(__file__).parents[1]


def runner_of(recipe: str, folder: Path, *words: str) -> Runner:
    """A run that has not begun. Its weights and statistics are moved, as those of a new one are often 0 or 1."""
    algo, env, *rest = small(recipe)
    runner = make_run(algo.removeprefix("algo="), env.removeprefix("env="), *rest, *words, folder=folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in [*runner.algo.named_parameters(), *runner.algo.named_buffers()]:
            if x.is_floating_point() and not name.endswith("atoms") and not name.endswith("bins"):
                x += 0.03 * torch.rand(x.shape, generator=generator, dtype=x.dtype)
    return runner


POLICIES = {
    "ddqn": ("ddqn_discrete", ["policy.exploration.epsilon_eval=0"]),
    "ddqn of images": ("mbpo_pixels", ["policy.exploration.epsilon_eval=0"]),
    "sac": ("sac_continuous", ["policy.normalise_obs=true"]),
    "sac of grids": ("sac_grid", []),
    "crossq": ("sac_continuous", ["policy=crossq"]),
    "svg": ("mbpo_continuous", ["policy=svg", "algo.real_ratio=1"]),
    "ppo": ("ppo_continuous", []),
    "ppo of images": ("ppo_pixels", []),
    "dreamer": ("dreamer_grid", []),
    "dreamer without recurrence": ("dreamer_continuous", ["dynamics=latent"]),
}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Runner]:
    """A policy of CartPole."""
    runner = runner_of("ddqn_discrete", tmp_path / "run")
    yield runner
    runner.envs.close()


@torch.no_grad()
def acted(runner: Runner, steps: int) -> list[Tensor]:
    """Actions of the algorithm itself in the episodes that an export plays, with the same noise."""
    noise, actions, carry = torch.Generator().manual_seed(runner.seed), [], None
    with closing(runner.make_envs(1, FINAL)) as envs, pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand_like", lambda x: torch.rand(x.shape, generator=noise))
        step = envs.reset()
        for _ in range(steps):
            action, carry = runner.algo.act(step, carry, explore=False)
            actions.append(action)
            step = envs.step(action)
    return actions


QUICK = ("ddqn", "sac", "crossq", "ppo", "dreamer")
"""The others are read by the same code, and take longer."""


@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in POLICIES])
def test_the_files_act_as_the_run_does(name: str, tmp_path: Path) -> None:
    recipe, words = POLICIES[name]
    runner = runner_of(recipe, tmp_path / "run", *words)
    with closing(runner.envs):
        module = acting(runner)
        played = play(runner, module, 40)
        torch.testing.assert_close(torch.cat([x[0] for x in played.outputs]), torch.cat(acted(runner, 40)))
    scores = torch.cat([x[1] for x in played.outputs])
    assert scores.std(0).max() > 1e-3, "the observations matter"

    program = formats.traced(module)
    formats.write_torch(program, tmp_path / "policy.pt2")
    assert (found := parity(formats.run_torch(tmp_path / "policy.pt2"), played)).holds, found
    if name == "dreamer" or name not in QUICK:
        pytest.importorskip("onnxscript")
        assert formats.write_onnx(program, module.signature, tmp_path / "policy.onnx") is None
        assert (found := parity(formats.run_onnx(tmp_path / "policy.onnx", module.signature), played)).holds, found


def export_cartpole(runner: Runner, out: Path) -> Any:
    return export(runner, lambda: make_gym("CartPole-v1"), out, "last", 20)


def test_the_files_hold_what_acts_and_nothing_else(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "ONNX", ("no_such_package",))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "policy.onnx").write_text("an older one")
    done = export_cartpole(run, tmp_path / "out")
    assert done.note == 'no_such_package is not installed: pip install "mbrl_lab[export]"'
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["policy.json", "policy.pt2"]
    program = torch.export.load(tmp_path / "out" / "policy.pt2")
    assert {name.split(".")[1] for name in program.state_dict} == {"online"}, "no target network"
    assert str(ROOT).encode() not in (tmp_path / "out" / "policy.pt2").read_bytes()

    sheet = json.loads((tmp_path / "out" / "policy.json").read_text())
    assert sheet["inputs"] == [{"name": "obs", "dtype": "float32", "shape": [4]}]
    assert [x["name"] for x in sheet["outputs"]] == ["action", "scores"]
    assert sheet["action"] == {"discrete": True, "start": 0}
    assert sheet["environment"]["id"] == "CartPole-v1"
    assert sheet["differences"]["policy.pt2"] <= 1e-5


def test_a_file_that_acts_in_another_way_is_not_written(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "ONNX", ("no_such_package",))
    load = write.run_torch

    def wrong(path: Path) -> formats.Call:
        call = load(path)
        return lambda *inputs: [call(*inputs)[0], call(*inputs)[1] + 1e-3]

    monkeypatch.setattr(write, "run_torch", wrong)
    with pytest.raises(ValueError, match=r"policy\.pt2 does not act as .* 20 real .* nothing was written"):
        export_cartpole(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_counts_as_another_action() -> None:
    def outputs(action: int, *scores: float) -> list[Tensor]:
        return [torch.tensor([action]), torch.tensor([scores])]

    assert compare(outputs(1, 0.0, 1.0), outputs(1, 0.0, 1.0)) == Parity(0, 0)
    assert compare(outputs(0, 0.0, 1.0), outputs(1, 0.0, 1.0)).other_actions == 1
    assert compare(outputs(0, 1.0, 1.0), outputs(1, 1.0, 1.0 + 1e-6)).holds, "a tie"
    assert compare(outputs(1, 0.0, 1000.001), outputs(1, 0.0, 1000.0)).holds, "relative to large numbers"
    assert not compare(outputs(1, 0.0, 1.001), outputs(1, 0.0, 1.0)).holds
    assert not compare(outputs(1, 0.0, float("nan")), outputs(1, 0.0, 1.0)).holds


def test_a_recurrent_state_that_is_lost_is_found(tmp_path: Path) -> None:
    runner = runner_of("dreamer_grid", tmp_path / "run")
    with closing(runner.envs):
        module = acting(runner)
        played = play(runner, module, 10)

    def forgetful(*inputs: Tensor) -> tuple[Tensor, ...]:
        return module(*inputs[:4], *(torch.zeros_like(x) for x in inputs[4:]))

    assert parity(module, played).holds
    assert not parity(forgetful, played).holds


@pytest.mark.parametrize(
    ("make", "bounds"),
    [
        (lambda: make_gym("Pendulum-v1"), {"low": [-2.0], "high": [2.0]}),
        (lambda: make_gym("CartPole-v1"), {"start": 0}),
        (lambda: make_gym("FromOne"), {"start": 1}),
    ],
)
def test_bounds_of_actions(make: Any, bounds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class FromOne(CartPoleEnv):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = gymnasium.spaces.Discrete(2, start=1)

    registry = dict(gymnasium.registry)
    gymnasium.register("FromOne", FromOne, max_episode_steps=10)
    try:
        assert write.action_bounds(make) == bounds
    finally:
        gymnasium.registry.clear()
        gymnasium.registry.update(registry)


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        ("mpc_continuous", [], "a run of algo=mpc, without a policy to export: it plans each action in its model"),
        ("mpc_continuous", ["value=sac"], "a run of algo=mpc, without a policy to export: it plans each action"),
        ("tdmpc_continuous", [], "a run of algo=tdmpc, without a policy to export: it plans each action in its model"),
        ("random_discrete", [], "a run of algo=random, without a policy to export: none of its networks acts"),
    ],
)
def test_runs_without_a_policy(recipe: str, words: list[str], message: str, tmp_path: Path) -> None:
    runner = runner_of(recipe, tmp_path / "run", *words)
    with closing(runner.envs), pytest.raises(ValueError, match=message):
        acting(runner)


def test_a_policy_without_scores_is_named(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(run.algo.policy), "scores", Policy.scores)
    with pytest.raises(ValueError, match="DDQN has no method `scores`"):
        acting(run)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of DDQN in CartPole."""
    algo, env, *rest = small("ddqn_discrete")
    rest = [word for word in rest if not word.startswith("+env.make.max_episode_steps")]
    folder = tmp_path_factory.mktemp("runs") / "mine"
    runner = make_run(algo[5:], env[4:], *rest, "steps=60", "eval.every=0", "eval.final_episodes=1", folder=folder)
    runner.run()
    runner.envs.close()
    return folder


def test_the_command_and_the_example_without_this_package(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    assert main([str(trained), "--steps", "30"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "policy    DDQN, last, step 60",
        "inputs    obs float32 [batch, 4]",
        "outputs   action int64 [batch], scores float32 [batch, 2]",
    ]
    assert [line.split()[0] for line in lines[4:7]] == ["mbrl_lab", "policy.pt2", "policy.onnx"]
    assert [float(line.split()[-1]) <= 1e-5 for line in lines[5:7]] == [True, True]
    assert lines[-3:] == [f"export    {trained}/export/policy.{end}" for end in ("pt2", "onnx", "json")]

    text = (ROOT / "docs" / "export.md").read_text()
    (example,) = re.findall(r"```python\n(import gymnasium.*?)```", text, re.S)
    assert len([line for line in example.splitlines() if line and not line.startswith("import")]) <= 10
    monkeypatch.chdir(trained.parent)
    Path("outputs").symlink_to(trained.parent)
    monkeypatch.setitem(sys.modules, "mbrl_lab", None)
    exec(compile(example, "docs/export.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) <= 500


def test_errors_are_one_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    said = "holds no run: there is no such folder; name a run's folder, e.g. one in outputs/"
    assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'} {said}\n"
    assert main([str(trained), "--checkpoint", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
