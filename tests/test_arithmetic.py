"""Which precision a run takes, with the hardware's answer forced both ways, and that the run keeps it elsewhere."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from mbrl_lab import app, arithmetic, load_run, make_run
from mbrl_lab.arithmetic import choose_arithmetic
from mbrl_lab.cli import evaluate as evaluation
from mbrl_lab.cli import train as cli_train
from mbrl_lab.runner import Runner
from mbrl_lab.tracking.folder import RunFolder

CPU, GPU = torch.device("cpu"), torch.device("cuda")
LARGE, SMALL = nn.Linear(256, 256), nn.Linear(64, 64)
TINY = ("steps=20", "eval.every=0", "eval.final_episodes=1", "video.final=0", "log_every=10", "replay.capacity=1000")


def on_hardware(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(arithmetic, "supports_bf16", lambda device: bf16)
    monkeypatch.setattr(arithmetic, "slowdown", lambda device: 50.0)


@pytest.mark.parametrize(
    ("bf16", "asked", "began", "name", "why"),
    [
        (True, "auto", None, "bf16", "as this processor has native bf16"),
        (False, "auto", None, "fp32", "as this processor has no native bf16"),
        (True, "auto", "bf16", "bf16", "as the run began"),
        (True, "auto", "fp32", "fp32", "as the run began; a new run here would use bf16, as this processor"),
        (
            False,
            "auto",
            "bf16",
            "bf16",
            "as the run began; a new run here would use fp32, as this processor has no native bf16",
        ),
        (True, "fp32", None, "fp32", "as given"),
        (False, "bf16", None, "bf16", "as given"),
        (True, "fp32", "bf16", "fp32", "as given; until now this run was in bf16"),
    ],
)
def test_what_is_taken(
    bf16: bool, asked: str, began: str | None, name: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_hardware(monkeypatch, bf16)
    chosen = choose_arithmetic(asked, began, CPU, LARGE)
    assert chosen.name == name and chosen.why.startswith(why)
    assert chosen.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[name]
    assert (chosen.warning is not None) == (name == "bf16" and not bf16)


def test_small_networks_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    on_hardware(monkeypatch, True)
    assert choose_arithmetic("auto", None, CPU, SMALL).name == "fp32"
    assert choose_arithmetic("bf16", None, CPU, SMALL).name == "bf16"


def test_emulation_is_warned_of_in_one_line_with_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    on_hardware(monkeypatch, False)
    for device, what in ((CPU, "processor"), (GPU, "GPU")):
        warning = choose_arithmetic("bf16", None, device, LARGE).warning
        assert warning is not None and "\n" not in warning
        assert f"this {what} can only emulate" in warning and "50.0 times as long as in fp32" in warning


def run_in(folder: Path, *words: str) -> Runner:
    """SAC with layers large enough for bfloat16, on Pendulum."""
    return make_run("sac", "pendulum", *TINY, "algo.warmup=10", "algo.update.batch=8", *words, folder=folder)


def bits(folder: Path) -> list[float]:
    return [json.loads(line)["runtime/bits"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_keeps_what_it_began_with(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    on_hardware(monkeypatch, True)
    run_in(tmp_path).run()
    folder = RunFolder(tmp_path)
    assert folder.config()["runtime"]["precision"] == folder.env()["precision"] == "bf16"
    assert set(bits(tmp_path)) == {16} and not caplog.records

    on_hardware(monkeypatch, False)
    with caplog.at_level(logging.WARNING):
        resumed = run_in(tmp_path, "steps=30")
    assert resumed.precision == torch.bfloat16 and resumed.precision_why.startswith("as the run began; a new run here")
    assert [r.getMessage().partition(",")[0] for r in caplog.records] == ["runtime.precision is bf16"]
    resumed.run()
    assert set(bits(tmp_path)) == {16}

    monkeypatch.setattr(evaluation, "draw_report", lambda *_: [])  # they take seconds
    assert load_run(tmp_path).precision == torch.bfloat16
    assert evaluation.main([str(tmp_path), "--episodes", "1"]) == 0
    assert "precision bf16, as the run began; a new run here would use fp32" in capsys.readouterr().out

    changed = run_in(tmp_path, "steps=40", "runtime.precision=fp32")
    assert changed.precision_why == "as given; until now this run was in bf16"
    changed.run()
    assert bits(tmp_path)[-1] == 32 and load_run(tmp_path).precision == torch.float32

    resumed = run_in(tmp_path, "steps=50")
    assert resumed.precision == torch.float32
    assert resumed.precision_why == "as last given; the run began in bf16"
    resumed.envs.close()


def test_the_opening_lines_show_the_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_hardware(monkeypatch, True)
    words = ["algo=random", "env=pendulum", *TINY]
    cfg = app.compose_config(words)
    cli_train.run(cfg, tmp_path, words)
    assert "precision fp32, as networks this small are no faster in bf16\n" in capsys.readouterr().out
    assert OmegaConf.load(tmp_path / "config.yaml").runtime.precision == "fp32"
