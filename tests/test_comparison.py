"""scripts/compare.py: what is trained, that it is not trained twice, what is drawn, and errors in one line."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from runs import put_run

from mbrl_lab.cli import compare as comparison
from mbrl_lab.cli.compare import algos_of, main, parser, words
from mbrl_lab.config import CONF, check, compose_config
from mbrl_lab.config.composition import composed
from mbrl_lab.report.compare import Curve, environment_name, threshold_of
from mbrl_lab.tracking.settings import flatten, plain

SMALL = ["debug=smoke", "eval.every=100", "steps=120", "+env.make.max_episode_steps=30"]
SWEEPS = sorted(path.stem for path in CONF.glob("sweep/*.yaml"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs go below the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_algorithms_are_trained_once_and_drawn(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["--env", "pendulum", "--seeds", "2", "--algos", "random,sac", "random:eval.every=60", "--threshold", "-9"]
    assert main([*line, *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    home = here / "outputs" / "compare" / "pendulum"
    assert sorted(x.name for x in home.iterdir() if x.is_dir()) == [
        f"{a}-seed{k}" for a in ("random", "sac") for k in "01"
    ]
    assert [x.split()[:2] for x in lines[-4:-2]] == [["random", "2"], ["sac", "2"]]
    rows = list(csv.DictReader((home / "compare.csv").read_text().splitlines()))
    assert [(row["of"], row["seed"], row["steps"]) for row in rows] == [
        (a, k, n) for a, n in (("random", "120"), ("sac", "100")) for k in "01"
    ]
    assert (home / "compare.png").stat().st_size > 0

    def never(*_: Any) -> None:
        raise AssertionError("these are done")

    monkeypatch.setattr(comparison, "run", never)
    assert main([*line, *SMALL]) == 0
    assert main([str(home), "--out", str(here / "again.png")]) == 0
    assert (here / "again.png").stat().st_size > 0 and (here / "again.csv").exists()
    with pytest.raises(AssertionError, match="done"):
        main([*line, *SMALL, "eval.episodes=2"])
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert main([*line, *SMALL, "eval.episodes=2"]) == 2
    assert capsys.readouterr().err.endswith("eval.episodes: 1 -> 2\n--into chooses another folder here\n")


ERRORS = [
    ([], "give either --env, to train, or folders of runs, e.g. outputs/compare/pendulum"),
    (["--env", "pendulum", "some"], "give either --env, to train, or folders of runs, e.g. outputs/compare/pendulum"),
    (["--env", "pendulum", "--seeds", "0"], "--seeds is 0; it must be a whole number from 1"),
    (["nowhere"], "nowhere holds no run: there is no such folder; name a run's folder, e.g. one in outputs/"),
    (["nowhere", "seed=1"], "seed=1 is a setting; existing runs have their own: leave it out"),
    (["--env", "pendulum", "log_every=0"], "log_every is 0; it must be a whole number from 1"),
]


@pytest.mark.parametrize(("argv", "said"), ERRORS)
def test_errors_are_one_line(argv: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not (here / "outputs").exists(), "nothing ran"


@pytest.mark.parametrize(
    ("env", "free"), [("pendulum", "sac"), ("cartpole", "ddqn"), ("cheetah", "sac"), ("acrobot", "ddqn")]
)
def test_the_model_free_one_suits_the_actions(env: str, free: str) -> None:
    algos = algos_of(parser().parse_args(["--env", env]))
    assert algos[0] == "mpc" and algos[-1] == free
    assert algos_of(parser().parse_args(["--env", env, "--algos", "ppo,sac"])) == ("ppo", "sac")


def test_settings_reach_all_or_the_one_they_name() -> None:
    given = ["log_every=9", "mpc:planner=icem", "sac:policy.width=7", "name=a:b"]
    assert words("mpc", "pendulum", 3, 50, given)[2:] == [
        "seed=3",
        "name=mpc",
        "video.final=0",
        "steps=50",
        "log_every=9",
        "name=a:b",
        "planner=icem",
    ]


@pytest.mark.parametrize(
    ("env", "expected"), [("pendulum", -200), ("cartpole", 475), ("inverted_pendulum", 950), ("minatar_breakout", None)]
)
def test_what_counts_as_solved(env: str, expected: float | None) -> None:
    assert threshold_of(flatten(plain(compose_config(["algo=random", f"env={env}"]).env), "env.")) == expected


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_a_sweep_composes(name: str) -> None:
    node = OmegaConf.load(CONF / "sweep" / f"{name}.yaml")
    params = OmegaConf.to_container(node.hydra.sweeper.params, resolve=False)
    assert isinstance(params, dict) and node.hydra.mode == "MULTIRUN"
    algo = "mpc" if name == "ablation_members" else "mbpo"
    if not (CONF / "algo" / f"{algo}.yaml").exists():
        pytest.skip(f"there is no {algo}")
    swept = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items() if k != "seed"])
    choices = [[f"{x.key_or_group}={v}" for v in x.sweep_string_iterator()] for x in swept]
    assert all(len(x) >= 2 for x in choices)
    for combination in itertools.product(*choices):
        check(compose_config([f"algo={algo}", "env=pendulum", f"sweep={name}", *combination]))


ABLATIONS = [name for name in SWEEPS if not name.startswith("seeds")]


@pytest.mark.parametrize(("env", "label"), [(["env=pendulum"], "pendulum"), (["env=dmc", "env.task=a-b"], "a-b")])
@pytest.mark.parametrize("name", ABLATIONS)
def test_the_folder_of_an_ablation(name: str, env: list[str], label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = composed(["algo=mbpo", *env, f"sweep={name}"], [CONF], return_hydra_config=True)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # Hydra's sweeper asks before it is set
    assert cfg.hydra.sweep.dir == f"outputs/{name}/mbpo-{label}"


@pytest.mark.parametrize(
    ("env", "overrides", "said"),
    [
        ({"make": {"id": "Pendulum-v1"}}, {"env": "pendulum"}, "Pendulum-v1"),
        ({"make": {}, "game": "pong"}, {"env": "atari"}, "pong"),
        ({"make": {}, "task": "hopper-stand"}, {"env": "dmc"}, "hopper-stand"),
        ({"make": {"task": "reacher"}}, {"env": "reacher_cs285"}, "reacher_cs285"),
        ({"make": {}}, {}, "home"),
        ({"make": {}, "game": "pong", "protocol": "100k"}, {}, "pong (100k)"),
    ],
)
def test_a_figure_is_called_after_its_environment(env: dict[str, Any], overrides: dict[str, str], said: str) -> None:
    none = np.zeros(0)
    run = Curve(Path("home/run"), 0, flatten({"env": env}), overrides, none, none, none)
    assert environment_name(run) == said


def test_environments_and_protocols_have_a_table_and_a_picture_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pong = {"make": {}, "game": "pong", "protocol": "dqn"}
    put_run(tmp_path / "a", [1.0, 2.0], algo="sac")
    put_run(tmp_path / "b", [5.0, 6.0], algo="mbpo")
    put_run(tmp_path / "c", [-21.0], algo="sac", env=pong)
    put_run(tmp_path / "d", [-20.0], algo="sac", env=pong | {"protocol": "100k"})
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "note      runs of 3 environments: a table and a picture of each"
    titles = ["Pendulum-v1", "pong (dqn)", "pong (100k)"]
    assert [line for line in lines if line in titles] == titles
    first = lines[lines.index(titles[0]) : lines.index(titles[1])]
    assert [line.split()[0] for line in first[2:4]] == ["sac", "mbpo"] and len(first) == 5, "only its own runs"
    names = ["compare-Pendulum-v1.png", "compare-pong-100k.png", "compare-pong-dqn.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == names
    rows = list(csv.DictReader((tmp_path / "compare.csv").read_text().splitlines()))
    assert [(row["environment"], row["of"]) for row in rows[:2]] == [("Pendulum-v1", "sac"), ("Pendulum-v1", "mbpo")]
    assert [row["environment"] for row in rows[2:]] == titles[1:]


def test_runs_without_a_curve_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = put_run(tmp_path / "b", [], final=1.0)
    assert main([str(alone)]) == 2
    assert capsys.readouterr().err.startswith(f"error: nothing was evaluated during training in {alone}: a curve needs")
    put_run(tmp_path / "a", [1.0, 2.0])
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"note      {alone} was not evaluated during training: it has no curve\n")
    assert said.count("note") == 1


def test_a_folder_may_have_an_equals_sign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lr=0.1").mkdir()
    assert main([str(tmp_path / "lr=0.1")]) == 2
    assert "holds no run" in capsys.readouterr().err
