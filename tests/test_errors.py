"""What a user can get wrong: a line or two that say which setting and what is allowed, and never a traceback."""

from __future__ import annotations

import io
import json
import logging
import os
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra.core.utils import configure_log

from mbrl_lab import load_run, make_run
from mbrl_lab.algo import Random
from mbrl_lab.cli import terminal
from mbrl_lab.cli import train as cli_train
from mbrl_lab.cli.compare import main as compare_main
from mbrl_lab.config import CONF, ConfigError, check, choose_device, compose_config
from mbrl_lab.config import composition as config
from mbrl_lab.config.parts import locate
from mbrl_lab.doctor.job import parts
from mbrl_lab.tracking.folder import ConfigMismatch, RunFolder
from mbrl_lab.tracking.provenance import born

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
SMALL = ["debug=smoke", "video.final=0"]
QUICK = ["algo=random", "debug=smoke", "steps=20", "video.final=0", "eval.every=0"]


class Said(NamedTuple):
    """How the script ended."""

    code: int
    out: str
    err: str


Train = Callable[..., Said]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Train:
    """scripts/train.py in this process, its run in tmp_path/run unless the words name another folder.

    Hydra composes once more to find hydra.mode before it composes to run; None is its answer where that fails, and the
    command line decides.
    """
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: None)

    def call(*words: str) -> Said:
        where = [] if any(w.startswith("hydra.run.dir=") for w in words) else [f"hydra.run.dir={tmp_path / 'run'}"]
        monkeypatch.setattr(sys, "argv", ["train.py", *words, *where])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # as some have it in their shell
        code = 0
        try:
            runpy.run_path(str(TRAIN), run_name="__main__")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call


def rejected(said: Said) -> str:
    """The message, once it is clear that there is nothing but one."""
    assert said.code not in (0, None)
    lines = [line for line in said.err.splitlines() if "steps/s" not in line]
    assert "Traceback" not in said.err and 1 <= len(lines) <= 2, said.err
    assert lines[0].startswith("error: "), said.err
    return "\n".join(lines)


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "group value": (["env=cartpol"], ["env=cartpol does not exist", "did you mean cartpole?", "pendulum"]),
    "algo": (["algo=mcp"], ["algo=mcp does not exist", "did you mean mpc?"]),
    "planner": (["planner=cme"], ["planner=cme does not exist", "did you mean cem?", "icem"]),
    "preset": (["preset=mpc_cartpol"], ["preset=mpc_cartpol does not exist", "did you mean mpc_cartpole?"]),
    "group": (["plannr=cem"], ["plannr=cem", "did you mean planner?"]),
    "key": (["planner.horizn=3"], ["planner.horizn=3", "did you mean planner.horizon?"]),
    "a key in another group": (["dynamics.elite=3"], ["dynamics.elite=3", "did you mean dynamics.imagination.elites?"]),
    "a key like one of Hydra's": (["planner.target=3"], ["there is no setting 'planner.target'. `--cfg job`"]),
    "a key like one of Hydra's in a group": (["dynamics.trainer.tarket=3"], ["setting 'dynamics.trainer.tarket'. `"]),
    "key without a like": (["zzz.qqq=3"], ["zzz.qqq=3", "--cfg job"]),
    "a key without its part": (["device=cuda"], ["device=cuda", "did you mean replay.device or runtime.device?"]),
    "an old name in a part nobody uses": (["policy.epsilon_end=0"], ["policy.epsilon_end=0: algo=mpc uses no policy"]),
    "a new name in a part nobody uses": (
        ["algo=ddqn", "algo.fit.batch=2"],
        ["algo.fit.batch=2: algo=ddqn uses no dynamics"],
    ),
    "root key": (["step=100"], ["step=100", "did you mean steps?"]),
    "grammar": (["steps=[1"], ["steps=[1", "written 'steps=\"[1\"'"]),
    "a word": (["cartpole"], ["cartpole", "key=value"]),
    "a float in a plan": (["planner.horizon=2.5"], ["planner.horizon is 2.5", "a whole number"]),
    "a word in a plan": (["planner.discount=abc"], ["planner.discount is 'abc'", "a number in (0, 1]"]),
    "a part left out": (["planner=null"], ["planner=null", "planner can be: cem"]),
    "one of a list": (["logger=[jsonl,nope]"], ["logger=nope does not exist", "tensorboard"]),
    "a sweep": (["env=cartpole,pendulum"], ["env=cartpole,pendulum", "add -m"]),
    "horizon": (["planner.horizon=-3"], ["planner.horizon is -3", "at least 1"]),
    "elites": (["planner=cem", "planner.elites=5000"], ["planner.elites is 5000", "planner.population, "]),
    "a group nobody uses": (["algo=random", "planner=cem"], ["planner=cem", "algo=random uses no planner"]),
    "a setting nobody uses": (
        ["algo=random", "planner.horizon=3"],
        ["planner.horizon=3", "algo=random uses no planner"],
    ),
    "a float": (["steps=1e30"], ["steps is 1e+30", "a whole number from 1"]),
    "too much": (["steps=99999999999999999999"], ["steps is 99999999999999999999", str(2**63 - 1)]),
    "a word for a number": (["steps=many"], ["steps is 'many'", "a whole number"]),
    "negative": (["seed=-1"], ["seed is -1", "from 0"]),
    "members": (["dynamics.imagination.elites=9"], ["dynamics.imagination.elites is 9", "dynamics.members, 5"]),
    "propagation": (
        ["dynamics.imagination.propagation=ts2"],
        ["dynamics.imagination.propagation is 'ts2'", "ts_inf | ts1 | expectation"],
    ),
    "off": (["env.asynchronous=off"], ["env.asynchronous is 'off'", "true | false"]),
    "warmup": (["replay.capacity=50"], ["algo.warmup is 100", "replay.capacity, 50"]),
    "warmup longer than the run": (["steps=99"], ["algo.warmup is 100", "steps, 99"]),
    "batch": (
        ["algo=ddqn", "algo.update.batch=60", "replay.capacity=50"],
        ["algo.update.batch is 60", "replay.capacity, 50"],
    ),
    "no batch": (["algo=ddqn", "algo.update.batch=0"], ["algo.update.batch is 0", "from 1"]),
    "no environments": (["env.num=0"], ["env.num is 0", "from 1"]),
    "environments": (["env.num=60", "replay.capacity=100"], ["env.num is 60", "at most 50"]),
    "environments and windows": (
        ["algo=ddqn", "policy.target.n_step=9", "env.num=20", "replay.capacity=199", "algo.warmup=20"],
        ["env.num is 20", "10 steps for each", "at most 19"],
    ),
    "windows": (
        [
            *["algo=ddqn", "policy.target.n_step=99", "policy.resets.n_step_start=1"],
            *["replay.capacity=60", "algo.warmup=20"],
        ],
        ["env.num is 1", "100 steps for each", "replay.capacity must be larger"],
    ),
    "a past longer than the replay": (
        [
            *["algo=mbpo", "env=minatar_breakout", "preset=none", "dynamics.history=60", "replay.capacity=50"],
            *["algo.update.batch=8", "algo.warmup=20"],
        ],
        ["env.num is 1", "61 steps for each", "replay.capacity must be larger"],
    ),
    "target": (["algo=mbpo", "env=breakout", "dynamics.target=blur"], ["dynamics.target is 'blur'", "levels | delta"]),
    "half a score": (["+env.score={random: 1.7}"], ["env.score is {'random': 1.7}", "of random and of human"]),
    "a score of nothing": (["+env.score={random: 1, human: 1}"], ["two different returns"]),
    "a target of nothing": (["stop.target=9"], ["stop.target is 9", "stop.metric=eval/return"]),
    "no target": (["stop.metric=eval/return"], ["stop.target is None", "a number"]),
    "a target in words": (["stop.metric=eval/return", "stop.target=high"], ["stop.target is 'high'", "a number"]),
    "no window": (["stop.window=0"], ["stop.window is 0", "from 1"]),
    "a metric's spelling": (["stop.metric=eval/retrun", "stop.target=9"], ["'eval/retrun'", "eval/return, "]),
    "no metric": (["stop.metric=return", "stop.target=9"], ["stop.metric is 'return'", "eval/return or train/return"]),
    "a metric of the end": (["stop.metric=final/return", "stop.target=9"], ["'final/return'", "that training logs"]),
    "a metric that never comes": (
        ["stop.metric=eval/return", "stop.target=9", "eval.every=0"],
        ["stop.metric is eval/return", "eval.every=0", "logged 0 times"],
    ),
    "a metric too rarely": (
        ["stop.metric=eval/return", "stop.target=9", "stop.window=2"],
        ["eval.every=200", "steps=300", "logged 1 times", "stop.window, 2"],
    ),
    "device": (["runtime.device=foo"], ["runtime.device is 'foo'", "auto, cpu, cuda or cuda:N"]),
    "replay's device": (["replay.device=foo"], ["replay.device is 'foo'", "auto, cpu, cuda or cuda:N"]),
    "missing": (["steps=???"], ["steps must be given"]),
    "memory": (["replay.capacity=1000000000000000"], ["replay.capacity=1000000000000000 needs", "at most"]),
    "minibatches": (
        ["algo=ppo", "policy.optim.minibatches=9999"],
        ["policy.optim.minibatches is 9999", "algo.horizon=25", "at most 25"],
    ),
    "game": (["algo=ppo", "env=atari", "env.game=brekout"], ["env.game is 'brekout'", "did you mean breakout?"]),
    "protocol": (["algo=ppo", "env=breakout", "env.protocol=x"], ["env.protocol is 'x'", "100k or machado"]),
    "shift": (
        ["algo=ddqn", "env=breakout", "policy.optim.random_shift=50"],
        ["policy.optim.random_shift is 50", "at most 41"],
    ),
    "encoder": (["algo=ddqn", "encoder=nature"], ["encoder=nature reads uint8 images", "try encoder=vector"]),
    "encoder of vectors": (
        ["experiment=atari_100k", "encoder=vector"],
        ["encoder=vector reads vectors, not (4, 84, 84)", "try encoder=nature or impala"],
    ),
    "encoder of larger images": (
        ["experiment=atari_100k", "env=minatar_breakout", "encoder=der"],
        ["encoder=der needs images of at least 25 x 25, these are 10 x 10", "try encoder=grid"],
    ),
    "intensity": (
        ["algo=ddqn", "policy.optim.random_intensity=0.05"],
        ["policy.optim.random_intensity is 0.05", "must be 0 where observations are no images"],
    ),
    "family": (["env=pendulum", "family=discrete"], ["family is discrete", "continuous", "family=continuous"]),
    "family of images": (["env=minatar_breakout", "family=discrete", "algo=random"], ["images", "family=pixels"]),
    "family of vectors": (["env=cartpole", "family=grid", "algo=random"], ["vectors", "family=discrete"]),
    "family of the generic one": (
        ["env=gym", "env.id=Pendulum-v1", "family=discrete"],
        ["family is discrete", "family=continuous"],
    ),
    "id": (["env=gym"], ["env.id must be given"]),
    "id's spelling": (["env=gym", "env.id=Acrobat-v1"], ["env.id", "'Acrobat-v1'", "did you mean Acrobot-v1?"]),
    "environment": (["env.make.id=CartPoleX-v1"], ["env.make.id is 'CartPoleX-v1'", "did you mean CartPole-v1?"]),
    "frames": (
        ["env=gym", "env.id=Blackjack-v1", "env.max_steps=9", "family=discrete"],
        ["observations must be arrays"],
    ),
    "a shrinking schedule": (
        ["algo=mbpo", "algo.rollouts.length=[5,1,20,150]"],
        ["algo.rollouts.length is [5, 1, 20, 150]", "from <= to"],
    ),
    "a schedule before the warm-up": (
        ["algo=mbpo", "algo.rollouts.length=[1,5,-2,10]"],
        ["algo.rollouts.length is [1, 5, -2, 10]", "after the warm-up"],
    ),
    "real rows": (["algo=mbpo", "algo.real_ratio=1.5"], ["algo.real_ratio is 1.5", "from 0 to 1"]),
    "more elites": (
        ["algo=mbpo", "dynamics.imagination.elites=8"],
        ["dynamics.imagination.elites is 8", "dynamics.members, 5"],
    ),
    "decay": (
        ["algo=mbpo", "dynamics.optim.weight_decay=[0.1,0.2]"],
        ["dynamics.optim.weight_decay is", "one for each layer"],
    ),
    "rollouts": (
        ["algo=mbpo", "algo.rollouts.starts=1000000000000"],
        ["algo.rollouts.starts=1000000000000", "are free"],
    ),
    "another policy": (
        ["experiment=mbpo_latent", "policy=ppo"],
        ["policy.optim.actor_lr is ", "but policy=ppo has no such setting"],
    ),
    "a model's setting": (
        ["+dynamics.history=3"],
        ["dynamics.history is 3, but dynamics=ensemble has no such setting"],
    ),
    "a group's setting": (
        ["algo=sac", "env=pendulum", "+policy.critic.gain=3"],
        ["policy.critic.gain is 3, but policy=sac has no such setting"],
    ),
    "an encoder's setting": (
        ["algo=ddqn", "env=minatar_breakout", "+encoder.scale=3"],
        ["encoder.scale is 3, but encoder=grid has no such setting"],
    ),
    "a value beside a policy": (
        ["algo=mbpo", "env=pendulum", "value=sac"],
        ["value=sac: algo=mbpo has a policy, whose value it learns", "value= is for algo=mpc", "leave it out"],
    ),
    "a value beside the same policy": (
        ["algo=ddqn", "value=ddqn"],
        ["value=ddqn: algo=ddqn has a policy, whose value it learns", "leave it out"],
    ),
    "no images": (["dynamics=frames"], ["dynamics=frames predicts uint8 images", "try dynamics=ensemble"]),
    "no such model": (["dynamics=framemodel"], ["dynamics=framemodel does not exist; did you mean frames?"]),
    "stored latents": (
        ["dynamics=latent", "dynamics.trainer.latents=stored"],
        ["dynamics.trainer.latents is 'stored'", "with dynamics=latent, which is not recurrent"],
    ),
    "a recipe": (["recipe=mpc_discrete"], ["recipe follows from algo", "choose parts instead"]),
    "physics": (["dynamics=analytic", "env=acrobot"], ["dynamics=analytic", "equations", "dynamics=ensemble"]),
    "a setting taken away": (["algo=random", "~steps"], ["steps is missing"]),
    "no loggers": (["algo=random", "logger=[]"], ["logger is missing"]),
    "a setting added twice": (["+steps=3"], ["steps is a setting already", "without the +"]),
    "no maker": (["env.make=null"], ["env.make is None", "_target_"]),
    "a launcher's setting": (["launcher.workers=3"], ["launcher=local has no settings", "launcher=parallel"]),
    "a file in a file": (["env=cartpole/x"], ["env=cartpole/x does not exist", "pendulum"]),
    "a module": (["env.make._target_=nowhere.make"], ["no module 'nowhere' in ", "PYTHONPATH"]),
    "an id's module": (["env=gym", "env.id=nowhere:E-v0"], ["no module 'nowhere' in ", "PYTHONPATH"]),
    "a class": (["algo=mpc", "planner._target_=mbrl_lab.planner.Nix"], ["mbrl_lab.planner.Nix", "cannot be loaded"]),
    "a function": (["algo=random", "env.make._target_=mbrl_lab.env.nix"], ["mbrl_lab.env.nix", "cannot be loaded"]),
}


WHEN_BUILT = (
    *("device", "replay's device", "memory", "id's spelling", "environment", "frames"),
    *("no images", "stored latents", "game", "protocol", "shift", "encoder", "decay", "rollouts", "a function"),
    *("encoder of vectors", "encoder of larger images", "intensity"),
)
"""Seen only when a part is built."""

AS_ATTRIBUTES = ("a setting taken away", "no loggers")
"""Seen only when a setting is asked for."""


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_a_line_or_two(name: str, train: Train, tmp_path: Path) -> None:
    words, expected = WRONG[name]
    message = rejected(train(*SMALL, *words))
    for part in expected:
        assert part in message, message
    assert not (tmp_path / "run").exists(), "a run that cannot be leaves nothing behind"


@pytest.mark.parametrize(
    "name", [n for n in WRONG if n not in (*WHEN_BUILT, *AS_ATTRIBUTES) and not n.startswith("family")]
)
def test_in_python_it_is_a_config_error(name: str) -> None:
    words, expected = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        check(compose_config([*SMALL, *words]))
    assert all(part in str(caught.value) for part in expected), str(caught.value)


def test_an_algo_without_a_recipe_lists_its_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(config.CONF, tmp_path / "conf")
    (tmp_path / "conf" / "recipe" / "mpc_continuous.yaml").unlink()
    monkeypatch.setattr(config, "CONF", tmp_path / "conf")
    compose_config(["env=cartpole"])
    with pytest.raises(ConfigError) as caught:
        compose_config(["env=pendulum"])
    said = str(caught.value)
    assert "algo=mpc has no recipe for environments of family continuous" in said and "discrete" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_where_there_is_none(train: Train) -> None:
    message = rejected(train("runtime.device=cuda"))
    assert "runtime.device is cuda" in message and "0 CUDA devices: use auto or cpu" in message


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match=r"runtime\.device is cuda:2, but this machine has 2"):
        choose_device("cuda:2")


@pytest.mark.parametrize("place", ["file/run", "/proc/run"])
def test_a_folder_that_cannot_be_written(place: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = rejected(train(*QUICK, f"hydra.run.dir={tmp_path / place}"))
    assert str(tmp_path / place) in message


def test_another_config_in_the_same_folder_is_rejected_with_the_difference(train: Train, tmp_path: Path) -> None:
    assert train(*QUICK).code == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    said = train(*QUICK, "seed=7", "steps=40", "runtime.threads=1")
    assert said.code == 2 and "Traceback" not in said.err
    assert "another config" in said.err and "seed: 0 -> 7" in said.err and "steps" not in said.err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    with pytest.raises(ConfigMismatch, match="seed: 0 -> 7"):
        make_run("random", "cartpole", *QUICK[1:], "seed=7", folder=tmp_path / "run")


def test_a_done_run_says_so_and_resumes_when_asked_for_more(train: Train, tmp_path: Path) -> None:
    first = train(*QUICK)
    assert first.code == 0 and str(tmp_path / "run") in first.out and "is done" not in first.out
    again = train(*QUICK)
    assert again.code == 0 and "this run is done" in again.out and "steps=40" in again.out and not again.err
    more = train(*QUICK, "steps=40")
    assert more.code == 0 and RunFolder(tmp_path / "run").status()["step"] == 40


def test_a_run_of_another_process_is_left_alone(train: Train, tmp_path: Path) -> None:
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        train(*QUICK)
        folder = RunFolder(tmp_path / "run")
        status = folder.status() | {"state": "running", "pid": sleeper.pid, "born": born(sleeper.pid)}
        (tmp_path / "run" / "status.json").write_text(json.dumps(status))
        assert f"already running as pid {sleeper.pid}" in rejected(train(*QUICK))
    finally:
        sleeper.kill()
        sleeper.wait()


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail] can't allocate memory: 9"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory_lists_the_settings_to_reduce(
    error: BaseException, train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Random, "act", raising(error))
    message = rejected(train(*QUICK))
    assert "out of memory" in message and "planner.population" in message and "replay.capacity" in message
    status = RunFolder(tmp_path / "run").status()
    assert status["state"] == "failed" and "out of memory" in status["error"]


def test_a_loss_that_is_not_finite_stops_with_its_name(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Random, "learn", lambda *_: {"model/train/loss": torch.tensor(float("nan"))})
    message = rejected(train(*QUICK, "log_every=10"))
    assert "model/train/loss is nan at step 10" in message
    assert RunFolder(tmp_path / "run").status()["state"] == "failed"


@pytest.mark.parametrize("words", [["checkpoint.every=10"], ["eval.every=10"], []], ids=["saved", "evaluated", "done"])
def test_a_folder_removed_while_it_trains_is_a_line(
    words: list[str], train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Random, "learn", lambda *_: shutil.rmtree(tmp_path / "run", ignore_errors=True) or {})
    message = rejected(train(*QUICK, *words))
    assert message.endswith("run or its status.json was removed while the run was training: start it again")
    assert not (tmp_path / "run").exists()


def test_a_fault_of_the_program_keeps_its_traceback(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Random, "act", raising(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        train(*QUICK)
    status = RunFolder(tmp_path / "run").status()
    assert status["state"] == "failed" and "Traceback" in status["error"] and "a bug" in status["error"]
    assert terminal.message_of_error(KeyError("a bug")) is None


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    words = ["env=cartpol", f"hydra.run.dir={tmp_path / 'run'}"]
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    done = subprocess.run(
        [sys.executable, str(TRAIN), *words], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert "did you mean cartpole?" in rejected(Said(done.returncode, done.stdout, done.stderr))


FOLDER = "runs/a=b, #1 @é '(x)' [y] {z}"


def test_any_folder_is_trained_in_and_resumed(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    said = train("algo=random", "-m", *QUICK[1:], f"hydra.sweep.dir={FOLDER}", "name=x=y é")
    assert said.code == 0, said
    run = tmp_path / FOLDER / "0"
    assert RunFolder(run).status()["state"] == "done" and RunFolder(run).config()["name"] == "x=y é"
    again = train(*QUICK, "name=x=y é", "steps=40", f"hydra.run.dir={FOLDER}/0")
    assert again.code == 0 and RunFolder(run).status()["step"] == 40
    (line,) = (line for line in again.out.splitlines() if line.startswith("evaluate"))
    assert shlex.split(line)[1:] == ["mbrl-lab", "evaluate", str(run)]


def test_both_lines_of_an_error_in_a_sweep_are_shown(train: Train, tmp_path: Path) -> None:
    said = train("-m", *QUICK, "seed=0,1", f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=same")
    assert said.code == 2 and "another config" in said.err and "seed: 0 -> 1" in said.err


MODULE = """
import gymnasium
from mbrl_lab.env import make_gym
gymnasium.registry.pop("Near-v0", None)
gymnasium.register("Near-v0", "gymnasium.envs.classic_control:CartPoleEnv", max_episode_steps=9)

def make(**kwargs):
    return make_gym("Near-v0", render_mode=kwargs.get("render_mode"))
"""


@pytest.mark.parametrize("words", [["env=gym", "env.id=near_{}:Near-v0"], ["env.make._target_=near_{}.make"]])
def test_a_module_of_the_current_folder_is_found(
    words: list[str], train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "id" if words[0] == "env=gym" else "target"
    (tmp_path / f"near_{name}.py").write_text(MODULE)
    (tmp_path / "wandb.py").write_text("raise AssertionError('a file that lies here by chance')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    said = train(*QUICK, *(word.format(name) for word in words))
    assert said.code == 0, said
    assert sys.path[-1] == str(tmp_path)
    assert said.out.rstrip().endswith(f"--trust near_{name}"), "evaluate.py as it is printed works"
    runner = load_run(tmp_path / "run", trust=[f"near_{name}"])
    assert [e.length for e in runner.evaluate(1)] == [9]
    runner.envs.close()


def test_nothing_of_the_current_folder_is_found_unasked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "near.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    check(compose_config([]))
    assert sys.path == before


PRESET = "# @package _global_\nsteps: 30\n"


def test_another_folder_of_configs(train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "c=d é,'[x]"
    (other / "preset").mkdir(parents=True)
    (other / "preset" / "mine.yaml").write_text(PRESET)
    monkeypatch.chdir(tmp_path)
    quick = [word for word in QUICK if not word.startswith(("steps", "debug"))]
    assert train("preset=mine", "--config-dir", other.name, *quick, "eval.final_episodes=1").code == 0
    assert RunFolder(tmp_path / "run").status()["step"] == 30
    message = rejected(train("preset=mne", f"--config-dir={other}", *QUICK))
    assert "did you mean mine?" in message and "mpc_cartpole" in message and "mine, " in message
    assert "--config-dir is 'nowhere'" in rejected(train("--config-dir", "nowhere", *QUICK))
    assert "preset=mine does not exist" in rejected(train("preset=mine", *QUICK))

    runner = make_run("random", "cartpole", folder=tmp_path / "python", config_dir=other, preset="mine")
    runner.envs.close()
    assert runner.schedule.steps == 30
    assert compose_config(["preset=mine"], other).steps == 30
    assert parts(["preset=mine", "algo=random"], other)[0].startswith("run       30 steps")
    assert compare_main(["--env", "nix", "--config-dir", "nowhere"]) == 2


def test_where_nobody_reads_on_a_script_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda new, old: ends.append(old))
    assert terminal.attempt(raising(BrokenPipeError())) == 141 and ends == [1]


def test_letters_that_the_terminal_lacks_stop_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    assert terminal.attempt(lambda: print("1 ± 0 in é", flush=True)) == 0
    assert screen.buffer.getvalue() == b"1 \\xb1 0 in \\xe9\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [1\n", "a config file cannot be read: while parsing a flow sequence in"),
        ("defaults:\n  - nix\n", "env=nix does not exist"),
        ("# @package _global_\nenv:\n  num: 1\n", "env names no family"),
    ],
)
def test_another_folders_files_are_wrong(content: str, said: str, train: Train, tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "mine.yaml").write_text(content)
    assert said in rejected(train("env=mine", "--config-dir", str(tmp_path), *QUICK))
    with pytest.raises(ConfigError, match=said):
        compose_config(["env=mine"], tmp_path)


class Unread(io.StringIO):
    """A stream that somebody has stopped to read."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        return 77


def test_a_run_continues_with_a_broken_pipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hushed: list[int] = []
    monkeypatch.setattr(os, "dup2", lambda new, old: hushed.append(old))
    monkeypatch.setattr(sys, "stdout", Unread())
    monkeypatch.setattr(sys, "stderr", Unread())
    words = [*QUICK, "eval.final_episodes=1"]
    cli_train.run(compose_config(words), tmp_path, words)
    assert RunFolder(tmp_path).status()["state"] == "done" and {1, 77} <= set(hushed)


def test_warnings_look_the_same_with_and_without_hydra(capsys: pytest.CaptureFixture[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", return_hydra_config=True)
    root, own = logging.getLogger(), logging.getLogger("hydra")
    before = root.handlers[:], root.level, own.handlers[:], own.level, own.propagate
    try:
        configure_log(cfg.hydra.hydra_logging)
        configure_log(cfg.hydra.job_logging)
        logging.getLogger("mbrl_lab").warning("no video")
        logging.getLogger("mbrl_lab").info("not shown")
        logging.getLogger("hydra.core").info("Launching 2 jobs")
        with pytest.raises(ConfigError, match="cannot be loaded"):  # which hydra.utils would log, in three lines
            locate("mbrl_lab.nothing.Part")
    finally:
        root.handlers[:], root.level, own.handlers[:], own.level, own.propagate = before
    said = capsys.readouterr()
    assert said.err == "no video\n"
    assert said.out.endswith("][HYDRA] Launching 2 jobs\n") and said.out.count("\n") == 1
