"""Sweeps: each job a process of its own, nothing lost when some are killed, and what one can see of it afterwards."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from other_process import held

from mbrl_lab.cli.sweep import main, to_retry
from mbrl_lab.config import ConfigError
from mbrl_lab.sweep import parallel
from mbrl_lab.sweep.jobs import Job, Sweep, names, read_sweep
from mbrl_lab.sweep.launch import hydra_flags
from mbrl_lab.sweep.parallel import choose_places, run_parallel
from mbrl_lab.sweep.start import LOCK, SweepFailed, start
from mbrl_lab.sweep.table import run_state, run_states, speed, table
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.provenance import born

TRAIN = Path(__file__).parents[1] / "scripts" / "train.py"
STATUS = {"state": "running", "step": 5, "attempt": 1, "pid": 1, "born": "", "host": "elsewhere", "error": None}

STUB = """
import json, os, pathlib, signal, sys, time
words = dict(w.split("=", 1) for w in sys.argv[1:])
folder = pathlib.Path(words["hydra.run.dir"].strip("'"))
def write(state):
    content = {"state": state, "step": 1, "attempt": 1, "pid": os.getpid(), "born": None, "host": os.uname().nodename}
    (folder / "status.json").write_text(json.dumps(content | {"error": None}))
def stop(*_):
    write("preempted")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
write("running")
seen = {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
(folder / "seen.json").write_text(json.dumps(seen | {"began": time.monotonic()}))
if words["do"] == "sleep":
    time.sleep(60)
if words["do"] == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if words["do"] == "refuse":
    (folder / "status.json").unlink()
    print("error: steps is many")
    sys.exit(2)
time.sleep(0.2)
write("done")
"""
"""A script that looks like a run from outside and starts in an instant."""

TRUSTED = ["--trust", "sweep.json"]
"""It is another script than scripts/train.py, started elsewhere."""


def sweep_of(tmp_path: Path, *deeds: str, threads: int = 1, device: str = "cpu") -> Sweep:
    (tmp_path / "stub.py").write_text(STUB)
    path = tmp_path / "sweep"
    jobs = [Job(path / str(k), (f"do={deed}",), (), threads, device) for k, deed in enumerate(deeds)]
    settings = {"kind": "parallel", "workers": 2, "per_gpu": 1}
    return Sweep(path, str(tmp_path / "stub.py"), str(tmp_path), settings, names(jobs, path))


def states(sweep: Sweep) -> list[str]:
    return [seen.state for seen in run_states(sweep)]


def test_a_killed_job_does_not_stop_the_others_and_its_folder_has_the_reason(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, "die", "work", "refuse", "work")
    with pytest.raises(SweepFailed, match=r"2 of 4 runs are not done \(0, 2\): python scripts/sweep.py status"):
        start(sweep, list(sweep.jobs.values()))
    assert states(sweep) == ["failed", "done", "failed", "done"]
    said = [RunFolder(job.folder).status()["error"] for job in sweep.jobs.values()]
    assert said[0].startswith("killed by SIGKILL") and said[2] == "error: steps is many"
    assert said[1] is said[3] is None


def test_places_are_dealt_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    jobs = list(sweep_of(tmp_path, "work", "work", device="auto").jobs.values())
    monkeypatch.setattr(parallel, "visible_gpus", lambda: ["4", "7"])
    assert [place.gpu for place in choose_places(jobs, None, 2)] == ["4", "7", "4", "7"]
    assert [place.gpu for place in choose_places(jobs, 3, 1)] == ["4", "7", "4"]
    on_cpu = [replace(job, device="cpu", threads=2) for job in jobs]
    monkeypatch.setattr(parallel, "cores", lambda: 5)
    assert [place.gpu for place in choose_places(on_cpu, None, 2)] == [None, None]


def test_jobs_share_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two at once, each with its run's threads and one of the GPUs."""
    monkeypatch.setattr(parallel, "visible_gpus", lambda: ["4", "7"])
    sweep = sweep_of(tmp_path, "work", "work", "work", threads=3, device="cuda")
    run_parallel(sweep, list(sweep.jobs.values()), workers=2, per_gpu=1)
    seen = [json.loads((job.folder / "seen.json").read_text()) for job in sweep.jobs.values()]
    assert [x["OMP_NUM_THREADS"] for x in seen] == ["3"] * 3
    assert {seen[0]["CUDA_VISIBLE_DEVICES"], seen[1]["CUDA_VISIBLE_DEVICES"]} == {"4", "7"}
    assert max(seen[0]["began"], seen[1]["began"]) < seen[2]["began"], "the third began before a place was free"


def wait_for(happened: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def interrupt(when: Callable[[], bool], *numbers: signal.Signals) -> threading.Thread:
    """Send ourselves signals once something has happened."""

    def send() -> None:
        wait_for(when)
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_is_passed_on_so_that_all_save(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = sweep_of(tmp_path, "sleep", "sleep", "sleep")
    sender = interrupt(lambda: all((sweep.path / k / "seen.json").exists() for k in "01"), number)
    with pytest.raises(SystemExit) as stop:
        start(sweep, list(sweep.jobs.values()))
    sender.join()
    said = capsys.readouterr()
    assert stop.value.code == 128 + number and f"{number.name}: 2 runs save and stop" in said.out
    assert f"sweep.py retry {sweep.path} resumes them" in said.err
    assert states(sweep) == ["preempted", "preempted", "waiting"]


def test_a_second_interrupt_kills(tmp_path: Path) -> None:
    sweep = replace(sweep_of(tmp_path, "sleep"), script=str(tmp_path / "deaf.py"))
    deaf = STUB.replace("signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    (tmp_path / "deaf.py").write_text(deaf)
    sender = interrupt((sweep.path / "0" / "seen.json").exists, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        start(sweep, list(sweep.jobs.values()))
    sender.join()
    assert states(sweep) == ["failed"]
    assert str(RunFolder(sweep.path / "0").status()["error"]).startswith("killed by SIGKILL")


def write_status(folder: Path, **status: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.json").write_text(json.dumps(STATUS | status))


def put(folder: Path, rows: Sequence[dict[str, float]], steps: int) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(f"steps: {steps}\n")


ROWS = [
    {"step": 10, "time/seconds": 1.0, "train/return": 2.0},
    {"step": 30, "time/seconds": 2.0, "eval/return": 7.0, "train/return": 3.0},
    {"step": 40, "time/seconds": 4.0, "train/return": 4.0},
]


def test_the_state_of_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    here = {"host": os.uname().nodename, "pid": os.getpid(), "born": born(os.getpid())}
    write_status(tmp_path / "a", **here)
    put(tmp_path / "a", ROWS, 100)
    seen = run_state("a", tmp_path / "a", False)
    assert (seen.state, seen.step, seen.total, seen.ret, seen.speed, seen.left) == ("running", 40, 100, 4.0, 5.0, 12.0)
    write_status(tmp_path / "b", state="failed", error="Traceback\n  ...\nKeyError: 'x'\n")
    assert run_state("b", tmp_path / "b", False).error == "Traceback\n  ...\nKeyError: 'x'\n"
    assert run_state("b", tmp_path / "b", True).state == "queued"
    write_status(tmp_path / "c")
    assert run_state("c", tmp_path / "c", False).state == "killed", "nobody holds its lock"
    assert run_state("d", tmp_path / "d", False)[1:6] == ("waiting", 0, None, None, None)
    said = table([run_state(n, tmp_path / n, False) for n in "abcd"]).splitlines()
    assert said[1].split() == ["a", "running", "40", "100", "4.0", "5.0", "0:00:12"]
    assert said[2].endswith("KeyError: 'x'") and said[-1] == "1 running, 1 failed, 1 killed, 1 waiting"
    assert speed(ROWS[:1]) is None


def test_what_is_retried(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, *["work"] * 6)
    alive = {"host": os.uname().nodename, "pid": os.getpid(), "born": born(os.getpid())}
    for name, status in {
        "0": {"state": "done"},
        "1": {"state": "failed", "error": "x"},
        "2": {"state": "preempted"},
        "3": alive,
        "4": {},
    }.items():
        write_status(sweep.path / name, **status)
    assert [job.folder.name for job in to_retry(sweep, [])] == ["1", "2", "4", "5"]
    assert [job.folder.name for job in to_retry(sweep, ["2"])] == ["2"]
    for name, why in {"3": "run 3 is running", "0": "run 0 is done", "9": "the sweep has no run '9'"}.items():
        with pytest.raises(ConfigError, match=why):
            to_retry(sweep, [name])


def test_the_script_retries_and_collects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_of(tmp_path, "work", "work")
    sweep.write()
    write_status(sweep.path / "0", state="failed", error="x")
    put(sweep.path / "0", ROWS[:2], 30)
    assert main(["retry", str(sweep.path), "0", "--workers", "1", *TRUSTED], TRAIN) == 0
    assert states(sweep) == ["done", "waiting"]
    assert main(["collect", str(sweep.path)], TRAIN) == 0
    rows = list(csv.DictReader((sweep.path / "results.csv").read_text().splitlines()))
    assert [(r["run"], r["do"], r["step"], r["eval/return"]) for r in rows] == [
        ("0", "work", "10", ""),
        ("0", "work", "30", "7.0"),
    ]
    capsys.readouterr()
    assert main(["status", str(sweep.path)], TRAIN) == 0
    assert "1 done, 1 waiting" in capsys.readouterr().out


def test_one_command_at_a_time_starts_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = sweep_of(tmp_path, "work")
    sweep.write()
    with held(sweep.path / LOCK):
        assert main(["retry", str(sweep.path), *TRUSTED], TRAIN) == 2
        assert "another command is still starting the runs of" in capsys.readouterr().err
        assert states(sweep) == ["waiting"]
    assert main(["retry", str(sweep.path), *TRUSTED], TRAIN) == 0
    assert states(sweep) == ["done"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["status", "nowhere"], "there is no sweep nowhere"),
        (["status", "empty"], "holds no sweep: there are no runs in it"),
        (["retry", "some", "--workers", "0"], "--workers is 0"),
        (["collect", "some"], "has no results yet"),
    ],
)
def test_errors_are_one_line(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_status(tmp_path / "some" / "0", state="failed")
    assert main(argv, TRAIN) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and len(error.splitlines()) == 1


def test_a_sweep_is_written_down_and_only_grows(tmp_path: Path) -> None:
    sweep = replace(sweep_of(tmp_path, "a", "b"), submitted={"0": "7_0"})
    sweep.write()
    assert read_sweep(sweep.path) == sweep and read_sweep(tmp_path) is None
    more = replace(sweep_of(tmp_path, "a", "b", "c"), submitted={}).including(sweep)
    assert list(more.jobs) == ["0", "1", "2"] and more.submitted == {"0": "7_0"}
    fewer = sweep_of(tmp_path, "a").including(sweep)
    assert list(fewer.jobs) == ["0", "1"]
    with pytest.raises(ConfigError, match="its run 1 is 'do=b', not 'do=x'; choose another sweep_name"):
        sweep_of(tmp_path, "a", "x").including(sweep)
    job = Job(tmp_path / "a'b", ("seed=1", "launcher.workers=3", "name=x", "+env.make.y=2"))
    assert job.kind() == ["+env.make.y=2", "seed=1"]
    assert job.arguments()[-1] == f"hydra.run.dir='{tmp_path}/a\\'b'"
    with pytest.raises(ConfigError, match="two runs of the sweep have the same folder"):
        names([job, job], tmp_path)


QUICK = ["algo=random", "debug=smoke", "steps=60", "log_every=20", "video.final=0", "eval.every=0", "seed=0,1"]


def test_the_same_command_resumes_a_sweep_and_another_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def train(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", "launcher=parallel", "sweep_name=mine", *QUICK, *words])
        try:
            code: object = runpy.run_path(str(TRAIN), run_name="__main__") and 0
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    code, _, error = train()
    path = tmp_path / "outputs" / "sweeps" / "mine"
    assert code == 0, error
    assert [RunFolder(path / k).status()["state"] for k in "01"] == ["done", "done"]
    assert [RunFolder(path / k).config()["seed"] for k in "01"] == [0, 1]
    code, said, _ = train()
    assert code == 0 and "0 to run, 2 skipped" in said
    code, _, error = train("seed=0,2")
    assert code == 2 and "seed: 1 -> 2: choose another sweep_name" in error and len(error.splitlines()) == 1
    code, _, error = train("sweep_name=new", "seed=0,-1")
    assert code == 2 and "seed is -1" in error
    code, _, error = train("sweep_name=new", "preset=mpc_cartpol")
    assert code == 2 and "did you mean mpc_cartpole?" in error
    assert not (path.with_name("new") / "0").exists(), "no run begins before all can be"
    assert RunFolder(path / "0").status()["attempt"] == 1


def test_other_flags_of_the_command_line_reach_every_job() -> None:
    sources = [{"provider": "main", "path": "/conf"}, {"provider": "command-line", "path": "/my conf"}]
    own = ["hydra.mode=MULTIRUN", "hydra.sweep.dir=x", "hydra.verbose=true", "hydra/launcher=parallel"]
    cfg = OmegaConf.create({"hydra": {"runtime": {"config_sources": sources}, "overrides": {"hydra": own}}})
    assert hydra_flags(cfg) == ["--config-dir", "/my conf", "hydra.verbose=true"]
