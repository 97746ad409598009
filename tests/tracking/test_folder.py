"""A run's folder: who may start in it, what it says of itself, and what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from other_process import forked

from mbrl_lab.tracking import provenance as provenance_module
from mbrl_lab.tracking.folder import AlreadyRunning, ConfigMismatch, RunFolder, headline, no_run
from mbrl_lab.tracking.provenance import alive, born, git, shell_command
from mbrl_lab.tracking.settings import differences, flatten, plain

CONFIG = {"seed": 0, "steps": 100, "algo": {"_target_": "a.B", "lr": 1e-4, "sizes": [64, 64]}, "logger": {"jsonl": {}}}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares tests that start many runs the half second that looking at git and all packages takes."""
    monkeypatch.setattr(provenance_module, "packages", dict)
    monkeypatch.setattr(provenance_module, "git", lambda directory: {})


def with_(**changes: object) -> dict[str, object]:
    return {**CONFIG, **changes}


def test_commands_are_called_as_they_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert shell_command("evaluate") == "python scripts/evaluate.py"
    # Another project's scripts are not this one's.
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "evaluate.py").touch()
    monkeypatch.chdir(tmp_path)
    assert shell_command("evaluate") == "mbrl-lab evaluate"


def test_a_fresh_folder_holds_config_provenance_and_status(folder: RunFolder) -> None:
    assert folder.open(CONFIG, ["seed=0", "algo.lr=1e-4"]) == "fresh"
    assert folder.config() == CONFIG
    assert (folder.path / "overrides.txt").read_text() == "seed=0\nalgo.lr=1e-4\n"
    env, status = folder.env(), folder.status()
    assert set(env) == {"started", "git", "python", "packages", "hardware", "precision"}
    assert env["packages"]["torch"].startswith("2.") and env["hardware"]["cores"] >= 1
    assert env["hardware"]["memory_gib"] > 0 and env["hardware"]["cpu"]
    assert (status["state"], status["step"], status["attempt"], status["pid"]) == ("running", 0, 1, os.getpid())
    assert [p.name for p in folder.path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.usefixtures("quick")
def test_a_config_is_parsed_once_until_it_is_written_again(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.open(CONFIG, [])
    parsed: list[object] = []
    load = OmegaConf.load
    monkeypatch.setattr(OmegaConf, "load", lambda path: parsed.append(path) or load(path))
    folder.config()["algo"]["lr"] = "what a caller does with it is his own"
    assert folder.config() == folder.config() == CONFIG and len(parsed) == 1
    RunFolder(folder.path)._describe(with_(steps=200), [])
    assert folder.config()["steps"] == 200 and len(parsed) == 2


@pytest.mark.usefixtures("quick")
def test_an_unfinished_run_resumes_and_counts_its_attempts(folder: RunFolder) -> None:
    folder.open(CONFIG, [])
    env = folder.env()
    folder.mark("failed", step=40, error="Traceback: boom")
    assert folder.status()["error"] == "Traceback: boom"
    assert folder.open(CONFIG, []) == "resume"
    status = folder.status()
    assert (status["state"], status["step"], status["attempt"], status["error"]) == ("running", 40, 2, None)
    assert folder.env() == env


@pytest.mark.usefixtures("quick")
def test_another_config_is_rejected_with_every_difference(folder: RunFolder) -> None:
    folder.open(CONFIG, [])
    folder.mark("preempted")
    other = with_(seed=1, algo={"_target_": "a.B", "lr": 3e-4, "sizes": [64, 64], "tau": 0.5}, steps=7)
    with pytest.raises(ConfigMismatch) as refusal:
        folder.open(other, [])
    lines = str(refusal.value).splitlines()
    assert str(folder.path) in lines[0]
    assert lines[1:] == ["  seed: 0 -> 1", "  algo.lr: 0.0001 -> 0.0003", "  algo.tau: (absent) -> 0.5"]
    assert folder.config() == CONFIG and folder.status()["state"] == "preempted"


@pytest.mark.parametrize("key", ["steps", "runtime", "logger", "video", "checkpoint", "launcher", "name"])
@pytest.mark.usefixtures("quick")
def test_what_does_not_change_the_learning_may_differ_and_is_noted(folder: RunFolder, key: str) -> None:
    folder.open(CONFIG, [])
    folder.mark("failed")
    assert folder.open(with_(**{key: {"new": 1}} if key != "steps" else {"steps": 200}), [key]) == "resume"
    assert folder.config()[key] == ({"new": 1} if key != "steps" else 200)
    assert (folder.path / "overrides.txt").read_text() == f"{key}\n"


@pytest.mark.usefixtures("quick")
def test_a_done_run_stays_done_until_more_steps_are_asked_for(folder: RunFolder) -> None:
    folder.open(CONFIG, [])
    folder.mark("done", step=100)
    before = (folder.path / "status.json").read_bytes()
    assert folder.open(CONFIG, []) == "done"
    assert folder.open(with_(steps=50), []) == "done"
    assert (folder.path / "status.json").read_bytes() == before
    assert folder.open(with_(steps=150), []) == "resume"
    folder.mark("done", step=150)
    assert folder.open(with_(steps=150), []) == "done"


def test_a_live_run_is_not_started_twice_and_a_killed_one_resumes(folder: RunFolder, tmp_path: Path) -> None:
    opened = multiprocessing.get_context("fork").Event()

    def open_and_stay() -> None:
        RunFolder(folder.path).open(CONFIG, [])
        opened.set()
        time.sleep(60)

    other = forked(open_and_stay, tmp_path)
    try:
        assert opened.wait(60)
        with pytest.raises(AlreadyRunning, match=f"already running as pid {other.pid}"):
            folder.open(CONFIG, [])
        os.kill(other.pid, signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert folder.status()["state"] == "running"
        assert folder.open(CONFIG, []) == "resume", "a zombie is dead"
        assert folder.status()["attempt"] == 2
    finally:
        other.kill()
        other.join()


def test_a_process_number_used_again_is_another_process() -> None:
    assert alive(os.getpid(), born(os.getpid()))
    assert not alive(os.getpid(), "1")
    assert not alive(2**22 + 1, "1")


def test_a_folder_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run"
    with pytest.raises(OSError, match=f"^cannot write the run folder {path}: Not a directory$"):
        RunFolder(path).open(CONFIG, [])


@pytest.mark.usefixtures("quick")
def test_a_stop_while_writing_leaves_the_old_status(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.open(CONFIG, [])

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        folder.mark("done")
    assert folder.status()["state"] == "running"
    assert [p.name for p in folder.path.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.usefixtures("quick")
def test_a_damaged_status_is_named(folder: RunFolder) -> None:
    folder.open(CONFIG, [])
    (folder.path / "status.json").write_text('{"state": "run')
    with pytest.raises(ValueError, match=r"status\.json is damaged"):
        folder.open(CONFIG, [])


@pytest.mark.usefixtures("quick")
def test_the_identity_lasts_for_a_run_and_is_no_other_runs(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "a"), RunFolder(tmp_path / "b")
    first.open(CONFIG, [])
    second.open(CONFIG, [])
    was = first.identity()
    first.mark("failed")
    first.open(CONFIG, [])
    assert RunFolder(tmp_path / "a").identity() == was != second.identity()
    for path in first.path.iterdir():
        path.unlink()
    first.open(CONFIG, [])
    assert first.identity() != was, "a new run in an old place"


def test_configs_are_compared_by_value() -> None:
    nan = float("nan")
    assert differences({"a": {"b": nan, "c": 1}}, {"a": {"b": nan, "c": 1.0}}) == []
    assert differences({"a": True}, {"a": 1}) == ["a: true -> 1"]
    default = {"b": None, "algo.b": None, "c": 1}.get
    assert differences({}, {"b": None, "algo": {"b": None}}, default) == []
    assert differences({}, {"b": 2, "c": True}, default) == ["b: (absent) -> 2", "c: (absent) -> true"]
    assert differences({"b": 1}, {"b": None}, default) == ["b: 1 -> null"], "it was there"
    assert differences({"a": None, "b": {}}, {"a": "None", "b": {"c": 1}}) == [
        "a: null -> None",
        "b: {} -> (absent)",
        "b.c: (absent) -> 1",
    ]
    assert flatten({"a": {"b": {"c": 1}, "d": [{"e": 2}]}}) == {"a.b.c": 1, "a.d": [{"e": 2}]}


@pytest.mark.usefixtures("quick")
def test_strings_that_look_like_numbers_survive_the_yaml(folder: RunFolder) -> None:
    config = {"steps": 1, "a": "1e5", "b": "null", "c": 1e-5, "d": "off", "e": float("inf"), "f": (1, 2)}
    folder.open(config, [])
    folder.mark("failed")
    assert folder.config() == {**config, "f": [1, 2]}
    assert folder.open(config, []) == "resume"


def test_git_knows_nothing_of_an_untracked_folder(tmp_path: Path) -> None:
    def run(*args: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *args], cwd=tmp_path, check=True)

    run("init", "-q")
    (tmp_path / "__init__.py").write_text("")
    assert git(tmp_path) == {"commit": None, "dirty": None}
    run("add", ".")
    run("commit", "-q", "-m", "x")
    clean = git(tmp_path)
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "__init__.py").write_text("x = 1")
    assert git(tmp_path) == {"commit": clean["commit"], "dirty": True}


@pytest.mark.usefixtures("quick")
def test_the_job_is_noted(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    folder.open(CONFIG, [])
    assert folder.status()["job"] == "4711" and folder.status()["host"] == "node7"


def test_of_many_differences_the_first_are_shown(tmp_path: Path) -> None:
    RunFolder(tmp_path).open({"algo": {f"old{k}": k for k in range(20)}, "seed": 0}, [])
    with pytest.raises(ConfigMismatch) as caught:
        RunFolder(tmp_path).open({"algo": {f"new{k}": k for k in range(20)}, "seed": 1}, [])
    _, first, *rest = str(caught.value).splitlines()
    assert first == "  seed: 0 -> 1"
    assert len(rest) == 12 and rest[-1] == "  ... and 29 more"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("a: 1 -> 2\n  more of it", "a: 1 -> 2"),
        ("Traceback (most recent call last):\n  File x\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("\n", ""),
    ],
)
def test_the_most_telling_line_of_an_error(error: str, line: str) -> None:
    assert headline(error) == line


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe", b"- 1\n", b"5\n"])
def test_a_damaged_config_is_named_in_a_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml is damaged: ") as caught:
        RunFolder(tmp_path).config()
    assert "\n" not in str(caught.value)


def test_plain_values_hold_no_node_of_omegaconf() -> None:
    """Hydra hands a launcher its settings as plain values, but for lists and mappings in them."""
    given = {"kind": "slurm", "setup": OmegaConf.create(["a"]), "extra": OmegaConf.create({"exclude": "node7"})}
    assert json.dumps(plain(given)) == '{"kind": "slurm", "setup": ["a"], "extra": {"exclude": "node7"}}'


def test_a_folder_without_a_run_leads_to_the_sweep_of_its_name(tmp_path: Path) -> None:
    assert no_run(tmp_path / "mine").endswith("there is no such folder; name a run's folder, e.g. one in outputs/")
    (tmp_path / "mine").mkdir()
    (tmp_path / "sweeps" / "mine").mkdir(parents=True)
    lead = f"the runs of this sweep are in {tmp_path / 'sweeps' / 'mine'}"
    assert no_run(tmp_path / "mine") == f"{tmp_path / 'mine'} holds no run: there is no config.yaml in it; {lead}"
