"""The search: spaces are checked, trials report their results, and a study outlives its workers."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import optuna
import pytest
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from other_process import held
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from mbrl_lab.cli.tune import main
from mbrl_lab.config import CONF, ConfigError, check, compose_config
from mbrl_lab.config import composition as config
from mbrl_lab.tune.space import distribution, read_space
from mbrl_lab.tune.study import base_preset, best, end, open_study, report, under_way, write_preset
from mbrl_lab.tune.worker import Worker

SPACES = sorted(path.stem for path in (CONF / "tune").glob("*.yaml"))

SPACE = """
overrides: [algo=random, env=cartpole, debug=smoke, preset=none]
metric: eval/return
startup: 1
space:
  seed: {low: 0, high: 9}
"""

STUB = """
import json, os, pathlib, signal, sys, time
words = dict(w.split("=", 1) for w in sys.argv[1:])
folder, seed = pathlib.Path(words["hydra.run.dir"].strip("'")), int(words["seed"])
if seed == 8:
    sys.exit("error: out of memory")
if seed == 9:
    time.sleep(60)
for step in (100, 200, 300):
    value = None if seed == 7 else seed + step / 1000
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": step, "eval/return": value}) + "\\n")
    time.sleep(float(words.get("algo.pause", 0)))
"""
"""A script that looks like a run: its return is its seed, more or less."""


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    (tmp_path / "stub.py").write_text(STUB)
    (tmp_path / "mine.yaml").write_text(SPACE)
    return tmp_path / "mine.yaml"


def worker(space_file: Path, trials: int, *seeds: int) -> Worker:
    """One that tries these seeds first."""
    space = read_space(str(space_file))
    study = open_study(space_file.parent / "study", space, seed=0)
    for seed in seeds:
        study.enqueue_trial({"seed": seed})
    return Worker(study, space, space_file.parent / "study", space_file.with_name("stub.py"), trials, 2)


@pytest.mark.parametrize("name", SPACES)
def test_every_space_is_one_that_can_be_searched(name: str) -> None:
    space = read_space(name)
    for d in space.distributions.values():
        assert isinstance(d, CategoricalDistribution | FloatDistribution | IntDistribution)
    highest = {
        k: d.choices[-1] if isinstance(d, CategoricalDistribution) else d.high for k, d in space.distributions.items()
    }  # type: ignore[attr-defined]
    check(compose_config(space.words(highest)))
    assert base_preset(space) == [name]


def test_ranges() -> None:
    assert distribution("x", {"low": 1, "high": 9, "step": 2}) == IntDistribution(1, 9, step=2)
    assert distribution("x", {"low": 1e-4, "high": 1, "log": True}) == FloatDistribution(1e-4, 1, log=True)
    assert distribution("x", {"choices": [1, [1, 5]]}) == CategoricalDistribution([1, "[1,5]"])
    for wrong in ({"low": 2, "high": 1}, {"low": 1}, {"choices": []}, 3, {"low": 1, "high": 2, "hihg": 3}):
        with pytest.raises(ConfigError, match=r"space\.x is .*; it must be"):
            distribution("x", wrong)
    with pytest.raises(ConfigError, match=r"space\.x is .*low"):
        distribution("x", {"low": 0.0, "high": 1.0, "log": True})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: {", "sede: {", "did you mean seed"),
        ("metric: eval/return", "metrik: x", "must have metric, overrides, space, startup"),
        ("low: 0, high: 9", "low: -5, high: 9", "seed is -5"),
    ],
)
def test_a_space_that_cannot_be_is_one_line(
    old: str, new: str, said: str, space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space_file.write_text(SPACE.replace(old, new))
    assert main([str(space_file)], space_file) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and len(error.splitlines()) == 1
    assert main(["nowhere"], space_file) == 2 and "there are mpc_cartpole" in capsys.readouterr().err


def test_trials_fail_or_complete_and_the_search_continues(space_file: Path) -> None:
    work = worker(space_file, 4, 3, 8, 7, 5)
    work.run()
    trials = work.study.trials
    assert [t.state for t in trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert [t.value for t in trials] == [3.3, None, None, 5.3]
    assert trials[1].user_attrs["reason"] == "error: out of memory"
    assert "no finite value" in trials[2].user_attrs["reason"]
    assert trials[0].intermediate_values == {100: 3.1, 200: 3.2, 300: 3.3}
    work.run()
    assert len(work.study.trials) == 4, "there are enough"


def test_a_metric_that_no_run_logs_is_reported_at_the_first_trial(
    space_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space_file.write_text(SPACE.replace("eval/return", "eval/retrun"))
    work = worker(space_file, 1, 3)
    work.run()
    said = "its run logged no 'eval/retrun'; did you mean eval/return?"
    assert work.study.trials[0].user_attrs["reason"] == said and said in capsys.readouterr().out


def test_a_hopeless_trial_is_pruned(space_file: Path) -> None:
    work = worker(space_file, 1, 6)
    work.run()
    text = space_file.with_name("stub.py").read_text()
    space_file.with_name("stub.py").write_text(text.replace('float(words.get("algo.pause", 0))', "30"))
    began = time.monotonic()
    worker(space_file, 2, 1).run()
    assert time.monotonic() - began < 20, "it was not stopped"
    assert work.study.trials[1].state == TrialState.PRUNED and work.study.trials[1].intermediate_values == {100: 1.1}


def test_another_worker_resumes_the_trials_of_a_dead_one(space_file: Path) -> None:
    first = worker(space_file, 1, 9)

    def interrupt() -> None:
        while not first.attempts:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=interrupt)
    sender.start()
    with pytest.raises(SystemExit) as stop:
        first.run()
    sender.join()
    assert stop.value.code == 128 + signal.SIGTERM
    assert [t.state for t in first.study.trials] == [TrialState.RUNNING]
    space_file.with_name("stub.py").write_text(STUB.replace("seed == 9", "False"))
    second = worker(space_file, 1)
    second.run()
    assert [(t.state, t.value) for t in second.study.trials] == [(TrialState.COMPLETE, 9.3)]


def test_a_trial_in_another_workers_hands_is_left_alone(space_file: Path) -> None:
    path = space_file.parent / "study" / "trials" / "0000" / ".worker"
    path.parent.mkdir(parents=True)
    with held(path):
        work = worker(space_file, 1)
        work.study.ask(dict(work.space.distributions))
        assert [t.number for t in under_way(work.study)] == [0] and work.take_over() is None
        assert not work.fill()


def test_what_is_not_a_number_never_wins(space_file: Path) -> None:
    study = worker(space_file, 9).study
    for value, state in ((1.0, TrialState.COMPLETE), (math.nan, TrialState.FAIL), (math.inf, TrialState.FAIL)):
        trial = study.ask()
        assert not report(trial, math.nan, 1)
        assert end(study, trial, value) == state
    found = best(study)
    assert found is not None and found.number == 0


def test_a_study_of_another_space_is_rejected(space_file: Path) -> None:
    worker(space_file, 1)
    space_file.write_text(SPACE.replace("high: 9", "high: 8"))
    with pytest.raises(ConfigError, match=r"searches another space: seed was .*9.*, not .*8.*; choose another --study"):
        worker(space_file, 1)


def test_the_best_trial_is_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = read_space("mpc_cartpole")
    study = open_study(tmp_path, space)
    assert write_preset(study, space, tmp_path / "p.yaml") is None
    values = {"planner.horizon": 33, "planner.population": 64, "dynamics.optim.lr": 0.002, "dynamics.width": 64}
    for value in (5.0, 9.0, 7.0):
        study.enqueue_trial(values | {"planner.horizon": int(30 + value)})
        end(study, study.ask(dict(space.distributions)), value)
    written = write_preset(study, space, tmp_path / "p.yaml")
    assert written is not None and "eval/return 9 in trial 1 of 3" in written.read_text()
    kept = OmegaConf.load(written)
    assert kept["planner=mppi"].planner == {"horizon": 39, "population": 64}
    assert kept["dynamics=ensemble"].dynamics.optim.lr == 0.002
    shutil.copytree(CONF, tmp_path / "conf")
    shutil.copy(written, tmp_path / "conf" / "preset" / "found.yaml")
    monkeypatch.setattr(config, "CONF", tmp_path / "conf")
    cfg = compose_config(["preset=found"])
    plain = compose_config([])
    assert (cfg.planner.horizon, cfg.planner.population, cfg.dynamics.width) == (39, 64, 64)
    assert cfg.eval.every == plain.eval.every == 1500, "the pair's own preset lies below"
    assert compose_config(["preset=found", "planner=icem"]).planner.horizon == 40, "it was found for another planner"


def test_the_journal_serves_several_workers(space_file: Path) -> None:
    one, other = worker(space_file, 3, 1, 2, 3), worker(space_file, 3)
    end(one.study, one.study.ask(dict(one.space.distributions)), 1.0)
    assert [t.value for t in other.study.trials if t.state == TrialState.COMPLETE] == [1.0]
    assert isinstance(other.study, optuna.Study) and other.study.study_name == "mine"


def test_what_a_wandb_agent_calls_can_be() -> None:
    sweep = OmegaConf.to_container(OmegaConf.load(CONF / "wandb" / "sweep.yaml"), resolve=False)
    assert isinstance(sweep, dict)
    chosen = {
        key: {"value": p.get("value", p.get("values", [p.get("max")])[0] if "value" not in p else None)}
        for key, p in sweep["parameters"].items()
    }
    command = create_sweep_command(sweep["command"])
    arguments = create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    at = command.index("${program}")
    words = [w for part in command[at + 1 :] for w in (arguments if part == "${args_no_hyphens}" else [part])]
    cfg = compose_config(words)
    check(cfg)
    assert set(cfg.logger) == {"jsonl", "wandb"} and (cfg.planner.horizon, cfg.dynamics.optim.lr) == (50, 0.01)
    assert (CONF.parent / sweep["program"]).is_file()
