"""Loggers: strict JSON that can be cut back, readable TensorBoard events, and a wandb that cannot hurt a run."""

from __future__ import annotations

import json
import logging
import os
import runpy
import signal
import struct
import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mbrl_lab import make_run
from mbrl_lab.tracking import loggers, provenance
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.loggers import Jsonl, TensorBoard, Wandb, has_api_key
from mbrl_lab.tracking.tracker import Tracker

CONF = Path(__file__).parents[2] / "conf" / "logger"
SETTINGS: dict[str, Any] = {"project": "p", "entity": None, "group": None, "job_type": None, "tags": [], "mode": None}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr(provenance, "packages", dict)
    folder = RunFolder(tmp_path / "run")
    folder.open({"seed": 3, "algo": {"lr": 0.1}}, [])
    return folder


TRAIN = Path(__file__).parents[2] / "scripts" / "train.py"


@pytest.fixture
def no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def rows(path: Path) -> list[dict[str, Any]]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def test_rows_are_strict_json_and_on_disk_at_once(folder: RunFolder) -> None:
    log = Jsonl(folder)
    log.log({"step": 1, "loss": float("nan"), "x": float("-inf"), "y": torch.tensor(0.5)})
    assert rows(folder.metrics) == [{"step": 1, "loss": None, "x": None, "y": 0.5}]
    log.close(True)


class Upper(Jsonl):
    """Writes its names in capitals."""

    def log(self, row: dict[str, float]) -> None:
        super().log({key.upper(): value for key, value in row.items()})


def test_the_jsonl_logger_of_the_config_is_the_one_that_writes(folder: RunFolder) -> None:
    for makers, key in (({}, "step"), ({"jsonl": Jsonl}, "step"), ({"jsonl": Upper}, "STEP")):
        tracker = Tracker(folder, makers, lambda *_: None, 0)
        with tracker:
            tracker.restart()
            tracker.log({"step": 1})
        assert rows(folder.metrics) == [{key: 1}]
    with pytest.raises(ValueError, match=r"logger\.jsonl is a TensorBoard; it must be a Jsonl"):
        Tracker(folder, {"jsonl": TensorBoard}, lambda *_: None, 0)


def test_a_resumed_log_is_cut_back_to_its_checkpoint(folder: RunFolder) -> None:
    log = Jsonl(folder)
    assert log.position() == 0
    log.log({"step": 1})
    position = log.position()
    log.log({"step": 2})
    log.close(False)
    with folder.metrics.open("ab") as file:
        file.write(b'{"step": 3, "lo')
    resumed = Jsonl(folder)
    resumed.truncate(position)
    resumed.log({"step": 2})
    assert rows(folder.metrics) == [{"step": 1}, {"step": 2}]
    resumed.truncate(0)
    assert folder.metrics.stat().st_size == 0
    resumed.close(True)
    with pytest.raises(ValueError, match=r"metrics\.jsonl holds 0 bytes"):
        resumed.truncate(position)


def events(folder: RunFolder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder.path / "tensorboard"))
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def test_tensorboard_events_are_readable_and_purged_on_resume(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    log = TensorBoard(folder)
    for step in (10, 20, 30):
        log.log({"step": step, "eval/return": step / 10})
    log.close(False)
    assert events(folder) == {"eval/return": [(10, 1.0), (20, 2.0), (30, 3.0)]}
    resumed = TensorBoard(folder)
    resumed.log({"step": 20, "eval/return": 7.0})
    resumed.close(True)
    assert events(folder) == {"eval/return": [(10, 1.0), (20, 7.0)]}


def test_tensorboard_gets_the_settings_with_the_final_metrics(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    log = TensorBoard(folder)
    log.log({"step": 10, "eval/return": 1.0})
    log.close(True)
    directory = str(folder.path / "tensorboard")
    assert "hparams" not in EventAccumulator(directory).Reload().summary_metadata
    log = TensorBoard(folder)
    log.log({"step": 20, "final/return": 5.0, "final/length": 7.0})
    log.close(True)

    reader = EventAccumulator(directory).Reload()
    content = {
        tag: plugin_data_pb2.HParamsPluginData.FromString(data)
        for tag, data in reader.PluginTagToContent("hparams").items()
    }
    settings = content["_hparams_/session_start_info"].session_start_info.hparams
    assert {key: value.number_value for key, value in settings.items()} == {"seed": 3.0, "algo.lr": 0.1}
    metrics = content["_hparams_/experiment"].experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == {"final/return", "final/length"}
    assert events(folder)["final/return"] == [(20, 5.0)], "the values are those of the same folder"
    assert [path.is_file() for path in Path(directory).iterdir()] == [True] * len(list(Path(directory).iterdir()))


def test_settings_are_those_that_make_a_run() -> None:
    class Folder:
        def config(self) -> dict[str, Any]:
            return {
                "seed": 1,
                "steps": 9,
                "name": "x",
                "logger": {"jsonl": 1},
                "a": {"b": [1, 2], "c": None, "d": True},
            }

    assert loggers.settings_of(Folder()) == {"seed": 1, "steps": 9, "a.b": "[1, 2]", "a.c": "None", "a.d": True}


def test_wandb_gets_the_final_metrics_as_its_summary(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    summary: dict[str, float] = {}
    run = types.SimpleNamespace(summary=summary, log=lambda row: None, define_metric=lambda *_, **__: None)
    asked: dict[str, Any] = {}
    fake_wandb(monkeypatch, lambda **settings: asked.update(settings) or run)
    log = Wandb(folder, **SETTINGS)
    log.log({"step": 1, "eval/return": 9.0})
    assert summary == {}
    log.log({"step": 2, "final/return": 5.0, "eval/return": 8.0})
    assert summary == {"final/return": 5.0}
    assert asked["config"] == {"seed": 3, "algo.lr": 0.1}


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_missing_package_is_named_before_anything_starts(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"^logger\.{name} is not installed: pip install"):
        TensorBoard(folder) if name == "tensorboard" else Wandb(folder, **SETTINGS)


@pytest.mark.parametrize("name", ["jsonl", "tensorboard", "wandb"])
def test_the_yaml_builds_the_logger_from_a_folder(folder: RunFolder, name: str) -> None:
    if name == "tensorboard":
        pytest.importorskip("tensorboard")
    path = CONF / f"{name}.yaml"
    assert path.read_text().splitlines()[0] == f"# @package logger.{name}"
    settings = OmegaConf.load(path)
    if name == "wandb":
        settings.mode = "disabled"
    log = instantiate(settings)(folder)
    log.log({"step": 1, "frames": 1, "loss": 2.0})
    log.close(True)


def test_wandb_writes_offline_into_the_run_folder(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = Wandb(folder, **{**SETTINGS, "group": "g", "tags": ["t"]})
    assert log.run.id == folder.identity() and log.run.group == "g" and log.run.offline
    assert dict(log.run.config) == {"seed": 3, "algo.lr": 0.1}
    log.log({"step": 5, "loss": 1.5})
    assert log.run.summary["loss"] == 1.5
    log.close(True)
    (written,) = (folder.path / "wandb").glob(f"offline-run-*/run-{folder.identity()}.wandb")
    deadline = time.monotonic() + 10
    while b"algo.lr" not in written.read_bytes():
        assert time.monotonic() < deadline, "wandb's own process writes the file, a moment after finish()"
        time.sleep(0.02)


def recorded(path: Path) -> list[Any]:
    """What an offline run's file holds: LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, found, parts = path.read_bytes(), 7, [], b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last of its parts
            record = Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def seen_by_wandb(path: Path) -> tuple[str, str, str, dict[str, Any], list[str]]:
    """Run id, group, job type, config and the names of what was logged."""
    deadline = time.monotonic() + 10
    while not any(r.WhichOneof("record_type") == "exit" for r in recorded(path)) and time.monotonic() < deadline:
        time.sleep(0.02)  # wandb's own process writes the file, a moment after finish()
    records = recorded(path)
    runs = [r.run for r in records if r.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}
    logged = {item.nested_key[0] if item.nested_key else item.key for r in records for item in r.history.item}
    return runs[0].run_id, runs[0].run_group, runs[0].job_type, config, sorted(logged)


WORDS = ["algo=random", "debug=smoke", "steps=40", "log_every=20", "eval.every=0", "video.final=1"]


def test_three_seeds_are_three_runs_with_their_own_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    words = ["-m", "seed=3,4,5", "sweep_name=three", "logger=[jsonl,wandb]", *WORDS]
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    runpy.run_path(str(TRAIN), run_name="__main__")
    folders = [RunFolder(tmp_path / "outputs" / "sweeps" / "three" / k) for k in "012"]
    seen = [seen_by_wandb(path) for f in folders for path in f.path.glob("wandb/offline-run-*/run-*.wandb")]
    assert len(seen) == 3 and len({run for run, *_ in seen}) == 3
    assert [run for run, *_ in seen] == [f.identity() for f in folders]
    assert [(group, config["seed"]) for _, group, _, config, _ in seen] == [("three", 3), ("three", 4), ("three", 5)]
    assert all(config["algo._target_"] == "mbrl_lab.algo.Random" for *_, config, _ in seen)
    assert {kind for _, _, kind, *_ in seen} == {"algo=random debug=smoke log_every=20 eval.every=0"}
    assert all({"videos/final-0", "diagnostics/curves", "final/return"} <= set(logged) for *_, logged in seen)


def test_a_requeued_run_resumes_in_the_same_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = [*WORDS, "logger=[jsonl,wandb]", "video.final=0"]
    runner = make_run("random", "cartpole", *words, folder=tmp_path / "run")
    advance = runner.advance

    def with_a_signal() -> None:
        advance()
        if runner.steps == 30:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(runner, "advance", with_a_signal)
    with pytest.raises(SystemExit):
        runner.run()
    time.sleep(1.1)  # wandb names folders by the second
    again = make_run("random", "cartpole", *words, folder=tmp_path / "run")
    again.run()
    written = sorted((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb"))
    assert len(written) == 2 and {seen_by_wandb(path)[0] for path in written} == {again.folder.identity()}
    for each in (runner, again):
        each.envs.close()


class Broken:
    """A wandb run whose server has gone away."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def define_metric(self, *_: Any, **__: Any) -> None:
        self.calls.append("define")

    def log(self, row: dict[str, float]) -> None:
        self.calls.append("log")
        raise ConnectionError("gone")

    def finish(self, exit_code: int) -> None:
        self.calls.append(f"finish {exit_code}")


def fake_wandb(monkeypatch: pytest.MonkeyPatch, init: Any) -> None:
    fake = types.SimpleNamespace(init=init, Settings=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "wandb", fake)


def test_a_broken_wandb_is_one_warning(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = Broken()
    fake_wandb(monkeypatch, lambda **_: run)
    log = Wandb(folder, **SETTINGS)
    for step in range(3):
        log.log({"step": step})
    log.close(True)
    assert run.calls == ["define", "define", "log"]
    assert [(r.levelno, r.message) for r in caplog.records] == [
        (logging.WARNING, "wandb failed and is left out from here on: ConnectionError: gone")
    ]


def test_a_wandb_that_cannot_start_is_one_warning(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**_: Any) -> None:
        raise TimeoutError("no network")

    fake_wandb(monkeypatch, init)
    log = Wandb(folder, **SETTINGS)
    log.log({"step": 1})
    log.close(True)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_wandb_gets_the_exit_status_of_the_run(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, ok: bool, code: int
) -> None:
    run, asked = Broken(), {}
    fake_wandb(monkeypatch, lambda **settings: asked.update(settings) or run)
    Wandb(folder, **SETTINGS).close(ok)
    assert run.calls[-1] == f"finish {code}"
    assert asked["resume"] == "allow" and asked["id"] == folder.identity() and asked["dir"] == str(folder.path)


def test_wandb_is_offline_only_where_nobody_can_log_in(
    no_key: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loggers.default_mode() == "offline"
    (tmp_path / ".netrc").write_text("machine example.org login a password b\n")
    assert not has_api_key()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert has_api_key() and loggers.default_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_api_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_api_key()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert loggers.default_mode() == "disabled"


def test_an_unknown_wandb_mode_is_rejected(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match=r"logger\.wandb\.mode is 'off'"):
        Wandb(folder, **{**SETTINGS, "mode": "off"})
