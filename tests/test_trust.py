"""A stranger's folder runs nothing: what its files ask for is rejected in a line, before anything of it is imported."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import optuna
import pytest
import torch
from hydra.errors import HydraException
from omegaconf import OmegaConf

from mbrl_lab import load_run, make_run
from mbrl_lab.cli import evaluate as evaluation
from mbrl_lab.cli import sweep as command
from mbrl_lab.cli.evaluate import main
from mbrl_lab.config import ConfigError, build
from mbrl_lab.sweep.jobs import Job, Sweep, read_sweep
from mbrl_lab.tracking.episodes import EpisodeLog
from mbrl_lab.tracking.folder import RunFolder, RunRefused
from mbrl_lab.trust import check_stored
from mbrl_lab.tune.space import read_space
from mbrl_lab.tune.study import write_preset

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
QUICK = {"steps": 60, "log_every": 30, "eval.every": 0, "eval.final_episodes": 1, "video.final": 0}

EVIL = "import pathlib\npathlib.Path(__file__).with_name('canary').write_text('imported')\ndef f(): pass\n"
OWN = """
import os
from subprocess import run

import gymnasium
from counting import Point

class Mine(Point):
    pass

gymnasium.register("Mine-v0", entry_point=Mine)
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 random steps in CartPole."""
    folder = tmp_path_factory.mktemp("runs") / "cartpole"
    runner = make_run("random", "cartpole", "runtime.device=cpu", folder=folder, **QUICK)
    runner.run()
    runner.envs.close()
    return folder


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path with a stranger's module, which leaves a canary when imported, and one of our own."""
    (tmp_path / "evil_module.py").write_text(EVIL)
    (tmp_path / "own_module.py").write_text(OWN)
    (tmp_path / "victim").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    gymnasium.registry.pop("Mine-v0", None)
    sys.modules.pop("own_module", None)
    sys.modules.pop("evil_module", None)


class Bomb:
    """Unpickled, it opens a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def touch(place: Path) -> dict[str, Any]:
    return {"_target_": "os.system", "command": f"touch {place / 'canary'}"}


def malicious(place: Path) -> dict[str, dict[str, Any]]:
    """What a stranger may have written, by dotted keys; each would leave a canary, remove `victim` or tell a secret."""
    canary = str(place / "canary")
    path = {"_target_": "pathlib.Path", "_args_": [canary]}
    make = {"_target_": "mbrl_lab.env.make_gym", "_partial_": True, "id": "CartPole-v1"}

    def at_make(target: str, *args: Any, **more: Any) -> dict[str, Any]:
        return {"env.make": {"_target_": target, "_args_": list(args), **more}}

    return {
        "torch.load": at_make("torch.load", str(place / "bomb.pt"), weights_only=False),
        "write_text": at_make("pathlib.Path.write_text", path, "x"),
        "a log file": at_make("logging.FileHandler", filename=canary),
        "a shell": {"env.make": touch(place)},
        "a process": at_make("subprocess.Popen", ["touch", canary]),
        "eval": at_make("builtins.eval", f"open({canary!r}, 'w')"),
        "exec": at_make("builtins.exec", f"open({canary!r}, 'w')"),
        "rmtree": at_make("shutil.rmtree", str(place / "victim")),
        "an import": at_make("importlib.import_module", "evil_module"),
        "a module's function": at_make("evil_module.f"),
        "instantiate": at_make("hydra.utils.instantiate", touch(place), _recursive_=False),
        "get_method": at_make("hydra.utils.get_method", "evil_module.f"),
        "our import of os": at_make("mbrl_lab.app.os.system", f"touch {canary}"),
        "our import of Path": at_make("mbrl_lab.env.cs285.Path.write_text", path, "x"),
        "our import of a class": at_make("mbrl_lab.env.cs285.Path", canary),
        "our import of get_object": at_make("mbrl_lab.config.parts.get_object", "evil_module.f"),
        "our build": at_make("mbrl_lab.config.parts.build", touch(place), _recursive_=False),
        "our file writer": at_make("mbrl_lab.tracking.atomic.write_text", path, "x"),
        "what our loggers import": at_make("mbrl_lab.tracking.loggers.AppendFile", path),
        "a method of a part": at_make("mbrl_lab.env.Envs.step"),
        "a private name of a part": at_make("mbrl_lab.env.gym._why", "x", "y"),
        "partial": at_make("functools.partial", {"_target_": "hydra.utils.get_method", "path": "os.system"}),
        "nested arguments": at_make("mbrl_lab.env.make_gym", touch(place), _partial_=True),
        "deep in lists": {"env.make": make | {"x": [[1, {"y": [touch(place)]}]]}},
        "not recursive": {"env.make": make | {"x": touch(place), "_recursive_": False}},
        "a logger": {"logger.mine": {"_target_": "logging.FileHandler", "filename": canary}},
        "behind an interpolation": {"env.make._target_": "${env.hidden}", "env.hidden": "os.system"},
        "a tree behind an interpolation": {"env.make": "${env.hidden}", "env.hidden": touch(place)},
        "a resolver": {"env.make.id": "${oc.env:HOME}"},
        "an escaped resolver": {"env.make.id": "\\${oc.env:HOME}"},
        "a target that is a tree": {"env.make._target_": touch(place)},
        "a target that is code": {"env.make._target_": "__import__('evil_module')"},
        "an id with a module": {"env.make.id": "evil_module:Env-v0"},
        "an id among the arguments": at_make("mbrl_lab.env.make_gym", "evil_module:Env-v0", _partial_=True),
        "an id beside a part": {"env.make_vector": make | {"id": "evil_module:Env-v0"}},
    }


CASES = list(malicious(Path()))


def stranger(finished: Path, place: Path, entries: dict[str, Any]) -> Path:
    """A copy of the run, with other entries in its config."""
    run = Path(shutil.copytree(finished, place / "run"))
    cfg = OmegaConf.load(run / "config.yaml")
    for key, value in entries.items():
        OmegaConf.update(cfg, key, value, merge=False)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    return run


def nothing_ran(place: Path) -> bool:
    return not (place / "canary").exists() and (place / "victim").is_dir() and "evil_module" not in sys.modules


@pytest.mark.parametrize("name", CASES)
def test_a_strangers_config_runs_nothing(
    name: str, finished: Path, modules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Bomb(modules / "canary"), modules / "bomb.pt")
    run = stranger(finished, modules, malicious(modules)[name])
    for words in ([], ["--model"], ["--episode", "train:0"], ["--trust", "own_module"]):
        assert main([str(run), *words]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1, said
        assert said.err.startswith(f"error: {run / 'config.yaml'}: ")
    with pytest.raises(ConfigError):
        load_run(run)
    assert nothing_ran(modules)


@pytest.mark.parametrize("name", ["torch.load", "write_text", "a log file", "a module's function"])
def test_without_the_list_it_would_have_run(name: str, modules: Path) -> None:
    """Or the test above could not fail."""
    torch.save(Bomb(modules / "canary"), modules / "bomb.pt")
    try:
        made = build(OmegaConf.create(malicious(modules)[name]["env.make"]))
    except HydraException:
        made = None
    if hasattr(made, "close"):
        made.close()
    assert not nothing_ran(modules)


def test_a_rejection_names_the_place_and_how_to_trust_it() -> None:
    with pytest.raises(ConfigError) as rejected:
        check_stored({"env": {"make": [{"_target_": "mine.env.Maze"}]}}, "run/config.yaml")
    assert str(rejected.value) == (
        "run/config.yaml: env.make.0._target_ names mine.env.Maze, which is not part of mbrl_lab; "
        "if you wrote mine yourself: --trust mine, from Python trust=['mine']"
    )
    with pytest.raises(ConfigError, match=r"env.id is 'mine:Maze-v0', which imports the module mine; if you wrote"):
        check_stored({"env": {"id": "mine:Maze-v0"}}, "run/config.yaml")
    with pytest.raises(
        ConfigError, match=r"mbrl_lab\.app\.run, which is not part of mbrl_lab; there are mbrl_lab\.env,"
    ):
        check_stored({"x": {"_target_": "mbrl_lab.app.run"}}, "run/config.yaml")
    for wrong in (["a b"], "mine", [""], ["../x"]):
        with pytest.raises(ConfigError, match=r"trust is .* it must be a list of modules' names"):
            check_stored({}, "run/config.yaml", wrong)


@pytest.mark.parametrize(
    "entry",
    [
        {"replay": {"device": "cuda:0"}, "runtime": {"device": "cuda:1"}, "name": "a:b", "init_from": "C:/runs/a"},
        {"launcher": {"setup": ["export A=${B}"]}},
        {"env": {"make": {"_target_": "mbrl_lab.env.make_gym", "id": "ALE/Pong-v5"}}},
        {"env": {"make": {"_target_": "mbrl_lab.env.gym.make_gym", "id": "CartPole"}}},
        {
            "algo": {
                "planner": {"_target_": "mbrl_lab.planner.cem.CEM"},
                "x": {"_target_": "mbrl_lab.nets.encoder.Grid"},
            }
        },
        {"logger": {"a": {"_target_": "mbrl_lab.tracking.loggers.Wandb"}}},
    ],
)
def test_what_is_ours_is_allowed(entry: dict[str, Any]) -> None:
    check_stored(entry, "config.yaml")


def test_an_id_that_another_package_registered_needs_trust(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gymnasium.registry, "Odd-v3", gymnasium.envs.registration.EnvSpec("Odd-v3", "odd.envs:Odd"))
    for id in ("Odd-v3", "Odd"):
        with pytest.raises(ConfigError, match=r"an environment of odd\.envs; if you wrote odd yourself: --trust odd,"):
            check_stored({"env": {"id": id}}, "config.yaml")
        check_stored({"env": {"id": id}}, "config.yaml", ["odd"])


def test_a_trusted_module_opens_no_other(modules: Path) -> None:
    for target, home in {"own_module.os.system": "posix|nt", "own_module.run": "subprocess"}.items():
        with pytest.raises(ConfigError, match=f"names {target}, which comes from ({home}); no part is made by"):
            check_stored({"x": {"_target_": target}}, "config.yaml", ["own_module"])
    with pytest.raises(ConfigError, match=r"own_module\.Nothing, which cannot be imported: "):
        check_stored({"x": {"_target_": "own_module.Nothing"}}, "config.yaml", ["own_module"])
    check_stored({"x": {"_target_": "own_module.Mine"}}, "config.yaml", ["own_module"])
    check_stored({"x": {"_target_": "counting.Point"}}, "config.yaml", ["counting"])


@pytest.mark.parametrize("name", ["os", "pathlib", "importlib.machinery"])
def test_pythons_own_modules_are_not_trusted(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^trust names {name}, one of Python's own modules; it must name"):
        check_stored({"x": {"_target_": f"{name}.anything"}}, "config.yaml", [name])


OWN_WORDS = {
    "a class": ["pendulum", "env.make._target_=own_module.Mine", "~env.make.id", "preset=none"],
    "an id": ["gym", "env.id='own_module:Mine-v0'", "family=continuous"],
}


@pytest.mark.parametrize("kind", OWN_WORDS)
def test_a_run_with_a_module_of_ones_own(
    kind: str, modules: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluation, "draw_report", lambda runner, name: [])
    folder = modules / "run"

    def train(**more: Any) -> None:
        runner = make_run("random", *OWN_WORDS[kind], "runtime.device=cpu", folder=folder, **QUICK | more)
        runner.run()
        runner.envs.close()

    train()
    with pytest.raises(ConfigError, match=r"if you wrote own_module yourself: --trust own_module, .*\['own_module'\]"):
        load_run(folder)
    runner = load_run(folder, trust=["own_module"])
    assert len(runner.evaluate(2)) == 2
    runner.envs.close()
    assert main([str(folder), "--episodes", "1"]) == 2
    assert "--trust own_module" in capsys.readouterr().err
    assert main([str(folder), "--episodes", "1", "--trust", "own_module"]) == 0
    train(steps=90)  # what one types oneself is one's own
    assert RunFolder(folder).status()["step"] == 90


def test_a_stored_config_is_only_compared_on_resume(finished: Path, modules: Path) -> None:
    run = stranger(finished, modules, {"env.make": touch(modules)})
    with pytest.raises(ValueError, match=r"has another config[^$]*env\.make\._target_: os\.system"):
        make_run("random", "cartpole", "runtime.device=cpu", folder=run, **QUICK | {"steps": 90})
    logger = {"x": {"_target_": "logging.FileHandler", "filename": str(modules / "canary")}}
    shutil.rmtree(run)
    run = stranger(finished, modules, {"logger": logger})  # a key that may differ
    make_run("random", "cartpole", "runtime.device=cpu", folder=run, **QUICK | {"steps": 90}).envs.close()
    assert nothing_ran(modules) and RunFolder(run).config()["logger"].keys() == {"jsonl"}


def test_comparing_runs_builds_nothing(finished: Path, modules: Path) -> None:
    from mbrl_lab.cli.compare import show

    run = stranger(finished, modules, malicious(modules)["write_text"] | {"env.make.id": "evil_module:Env-v0"})
    row = json.dumps({"step": 60, "eval/return": 9.0, "time/seconds": 1.0, "time/evaluation": 0.1})
    (run / "metrics.jsonl").write_text(f"{row}\n")
    show([run], modules / "compare.png", None)
    assert (modules / "compare.png").exists() and nothing_ran(modules)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the runs that a retry has started."""
    names: list[str] = []
    monkeypatch.setattr(command, "start", lambda sweep, jobs, skipped: names.extend(job.folder.name for job in jobs))
    return names


def sweep_of(place: Path, overrides: Sequence[str] = ("algo=random",), **changes: Any) -> Path:
    """A sweep of one run that is to be retried."""
    path = place / "sweep"
    job = Job(path / "0", tuple(overrides), tuple(changes.pop("flags", ())), changes.pop("threads", 1), "cpu")
    launcher = {"kind": "slurm", "minutes": 5, "partition": "gpu-a", "setup": [], "extra": {}, "qos": None}
    given = {"script": str(TRAIN), "cwd": str(place), "launcher": launcher} | changes
    Sweep(path, jobs={"0": job}, **given).write()
    return path


def retry(path: Path, *words: str) -> int:
    return command.main(["retry", str(path), *words], TRAIN)


SLURM = {"kind": "slurm", "minutes": 5}
FOREIGN: dict[str, dict[str, Any]] = {
    "script is": {"script": "/tmp/other.py"},
    "cwd is": {"cwd": "/"},
    "launcher.setup is": {"launcher": SLURM | {"setup": ["touch canary"]}},
    "launcher.extra is": {"launcher": SLURM | {"extra": {"wrap": "touch canary"}}},
    "launcher.partition is": {"launcher": SLURM | {"partition": "a\ntouch canary"}},
    "--config-dir": {"flags": ["--config-dir", "/tmp"]},
    "threads=": {"threads": "1; touch canary"},
    "-m": {"overrides": ["-m"]},
    "hydra.job_logging": {"overrides": ["hydra.job_logging.handlers.x.class=logging.FileHandler"]},
    "+hydra.callbacks": {"overrides": ["+hydra.callbacks.x={_target_: evil_module.f}"]},
    "@hydra": {"overrides": ["+experiment@hydra=rssm"]},
    "experiment=../": {"overrides": ["experiment=../../tmp/evil"]},
    "+../x": {"overrides": ["+../x=y"]},
    "experiment=/tmp": {"overrides": ["experiment=/tmp/evil"]},
    "${oc.env:HOME}": {"overrides": ["name=${oc.env:HOME}"]},
    "${${name}:HOME}": {"overrides": ["sweep_name=${${name}:HOME}", "name=oc.env"]},
    "names os.system": {"overrides": ["env.make._target_=os.system"]},
    "the module evil_module": {"overrides": ["env=gym", "algo=random", "env.id='evil_module:Env'"]},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_strangers_sweep_starts_nothing(
    what: str,
    modules: Path,
    started: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(modules)
    path = sweep_of(modules, **FOREIGN[what])
    assert retry(path) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {path / 'sweep.json'}: ") and said.err.count("\n") == 1
    assert what in said.err.replace("\\n", "\n")
    assert "--trust " in said.err or "Python's own modules" in said.err
    assert started == [] and nothing_ran(modules)
    assert retry(path, "--trust", "sweep.json") == 0 and started == ["0"]


def test_a_sweep_of_ones_own_is_retried(
    modules: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(modules)
    assert retry(sweep_of(modules, ["algo=random", "seed=3", "init_from=../b"])) == 0
    loud = sweep_of(modules, ["algo=random", "logger=[jsonl,wandb]"])
    assert retry(loud) == 2 and "would send its metrics to logger=wandb" in capsys.readouterr().err
    for target in ("evil_module.f", "mbrl_lab.tracking.loggers.Wandb"):
        disguised = sweep_of(modules, ["algo=random", f"logger.jsonl._target_={target}"])
        assert retry(disguised) == 2 and "would send its metrics to logger=jsonl" in capsys.readouterr().err
    own = sweep_of(modules, ["algo=random", "env=pendulum", "env.make._target_=own_module.Mine", "~env.make.id"])
    assert retry(own) == 2 and "--trust own_module" in capsys.readouterr().err
    assert retry(own, "--trust", "own_module") == 0 and started == ["0", "0"]


def test_a_sweep_with_another_folder_of_configs_is_retried_with_it(
    modules: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(modules)
    (modules / "my_conf" / "experiment").mkdir(parents=True)
    (modules / "my_conf" / "experiment" / "mine.yaml").write_text("# @package _global_\nsteps: 7\n")
    seen: list[str] = []
    monkeypatch.setattr(command, "start", lambda sweep, jobs, skipped: seen.extend(jobs[0].arguments()[:2]))
    flags = ["--config-dir", str(modules / "my_conf")]
    path = sweep_of(modules, ["algo=random", "experiment=mine"], flags=flags)
    assert retry(path) == 2 and "--config-dir" in capsys.readouterr().err
    assert retry(path, "--config-dir", "nowhere") == 2 and "it must be a folder" in capsys.readouterr().err
    assert retry(path, "--config-dir", "my_conf") == 0 and seen == flags


def test_runs_without_a_sweeps_file_are_checked_too(
    finished: Path, modules: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(modules)
    (modules / "many").mkdir()
    run = stranger(finished, modules / "many", {})
    RunFolder(run).mark("failed")
    (run / "overrides.txt").write_text("algo=random\n+hydra.callbacks.x._target_=evil_module.f\n")
    assert retry(modules / "many") == 2 and started == []
    (run / "overrides.txt").write_text("algo=random\n")
    assert retry(modules / "many") == 0 and started == ["run"]


def test_a_runs_name_is_no_resolver(
    modules: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(modules)
    path = sweep_of(modules)
    (path / "sweep.json").write_text((path / "sweep.json").read_text().replace('"0": {', '"${oc.env:HOME}": {'))
    assert retry(path) == 2 and "is not a valid name of a folder" in capsys.readouterr().err and started == []


def test_a_sweep_has_its_runs_in_its_folder(modules: Path) -> None:
    path = sweep_of(modules)
    for name in ("../elsewhere", "/tmp/elsewhere", "a/../../b"):
        text = (path / "sweep.json").read_text()
        (path / "sweep.json").write_text(text.replace('"0": {', f'"{name}": {{'))
        with pytest.raises(ConfigError, match="is outside of"):
            read_sweep(path)
        (path / "sweep.json").write_text(text)


@pytest.mark.parametrize("entry", [{"length": 10**15}, {"length": -1}, {"offset": -4}, {"offset": 10**9}])
def test_a_log_of_episodes_that_lies_about_sizes(finished: Path, tmp_path: Path, entry: dict[str, int]) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    row = json.loads((run / "episodes.jsonl").read_text().splitlines()[0])
    (run / "episodes.jsonl").write_text(json.dumps(row | entry) + "\n")
    with pytest.raises(ValueError, match=r"names .* actions at byte .* of .*actions\.bin"):
        EpisodeLog(RunFolder(run)).read("train", 0)


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json.x", "videos/a.mp4", "diagnostics/curves.png"])
def test_nothing_is_written_through_a_link(name: str, finished: Path, modules: Path) -> None:
    run = stranger(finished, modules, {})
    place = run / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(modules / "canary")  # is not there yet
    for work in (lambda: load_run(run), lambda: make_run("random", "cartpole", folder=run, **QUICK)):
        with pytest.raises(RunRefused, match=r"is a link to \S+canary, out of the run's folder: remove it"):
            work()
    place.unlink()
    (run / "here").symlink_to(run / "config.yaml")
    (run / "wandb").mkdir()
    (run / "wandb" / "debug.log").symlink_to(modules / "log")
    load_run(run).envs.close()
    assert nothing_ran(modules)


@pytest.mark.parametrize("text", ["a: ${", "[1]", "3", "{a: [", "a: !!python/object/apply:os.system ['touch canary']"])
def test_a_config_that_is_none_is_one_line(
    text: str, finished: Path, modules: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(modules)
    run = stranger(finished, modules, {})
    (run / "config.yaml").write_text(text)
    assert main([str(run)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {run / 'config.yaml'} is damaged: ") and said.count("\n") == 1
    assert nothing_ran(modules)


def test_a_checkpoint_with_code_is_not_opened(finished: Path, modules: Path) -> None:
    run = stranger(finished, modules, {})
    for path in (run / "checkpoints" / "last").glob("state*.pt"):
        torch.save(Bomb(modules / "canary"), path, pickle_module=pickle)
    with pytest.raises(ValueError, match="holds more than tensors and plain values, so it is rejected"):
        load_run(run)
    assert nothing_ran(modules)


def test_a_journal_of_a_study_sets_nothing_that_is_not_searched(tmp_path: Path) -> None:
    space = read_space("mpc_cartpole")
    evil = {"env.make._target_": optuna.distributions.CategoricalDistribution(["os.system"])}
    wider = dict.fromkeys(space.distributions, optuna.distributions.CategoricalDistribution(["x"]))
    for other in (wider, {**space.distributions, **evil}, {}):
        study = optuna.create_study(direction="maximize")
        trial = study.ask(other)
        with pytest.raises(ConfigError, match=r"trial 0 is not of the search mpc_cartpole: its \S+ is from .*, not "):
            space.check_trial(trial)
        study.tell(trial, 500.0)
        with pytest.raises(ConfigError, match="trial 0 is not of the search"):
            write_preset(study, space, tmp_path / "best.yaml")
    assert not (tmp_path / "best.yaml").exists()
    space.check_trial(optuna.create_study().ask(dict(space.distributions)))


def test_a_module_of_the_current_folder_is_found_only_where_it_is_trusted(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "mine_too.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    stored = {"x_target_": "mine_too.Foo", "launcher": {"_target_": "mine_too.Foo"}}
    check_stored(stored, "config.yaml")
    check_stored({"launcher": {"_target_": "mine_too.Foo"}}, "config.yaml")
    assert sys.path == before
    check_stored({}, "config.yaml", ["mine_too"])
    assert sys.path == [*before, str(tmp_path)]


def test_links_out_of_a_runs_folder_are_rejected_but_for_its_checkpoints(tmp_path: Path) -> None:
    run, other = RunFolder(tmp_path / "run"), tmp_path / "other"
    (run.path).mkdir()
    other.mkdir()
    (run.path / "checkpoints").symlink_to(other)
    run.check_links()
    (run.path / "videos").symlink_to(other)
    with pytest.raises(RunRefused, match="videos is a link to"):
        run.check_links()
