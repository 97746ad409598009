"""--explain KEY shows every layer that set a value, and the one that won."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mbrl_lab.cli import doctor
from mbrl_lab.cli import train as cli_train
from mbrl_lab.config import CONF, ConfigError, compose_config
from mbrl_lab.config.layers import explain_key, from_words


def place(file: str, text: str) -> str:
    """conf/FILE:LINE of a line that begins with a text."""
    lines = (CONF / file).read_text().splitlines()
    return f"conf/{file}:{next(n for n, line in enumerate(lines, 1) if line.strip().startswith(text))}"


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are shown from the current folder on."""
    monkeypatch.chdir(CONF.parent)


def test_every_layer_with_its_line_and_the_winner() -> None:
    lines = explain_key("planner.horizon", ["planner.horizon=20"]).splitlines()
    assert lines[0].startswith("planner.horizon = 20")
    assert lines[1:] == [
        f"  15  {place('planner/mppi.yaml', 'horizon')}",
        f"  40  {place('preset/mpc_cartpole.yaml', 'horizon')}  (planner=mppi)",
        "  20  command line: planner.horizon=20  <- wins",
    ]


@pytest.mark.parametrize(
    ("key", "words", "value", "files"),
    [
        ("steps", ["debug=smoke"], "300", ["train", "preset/mpc_cartpole", "debug/smoke"]),
        ("steps", ["preset=none"], "2500", ["train", "preset/mpc_cartpole"]),
        ("env.num", ["algo=ppo", "env=breakout"], "8", ["env/atari", "preset/ppo_atari"]),
        ("planner.horizon", ["experiment=planet_cartpole"], "12", ["planner/cem", "experiment/planet_cartpole"]),
    ],
)
def test_layers_of_files(key: str, words: list[str], value: str, files: list[str]) -> None:
    first, *lines = explain_key(key, words).splitlines()
    assert first.startswith(f"{key} = {value}")
    assert [line.split()[1] for line in lines] == [
        place(f"{file}.yaml", f"{key.rpartition('.')[2]}:") for file in files
    ]
    assert [line.endswith("<- wins") for line in lines] == [False] * (len(lines) - 1) + [True]


def test_a_group_of_settings_and_what_they_are() -> None:
    """The comment is that of the file that declares it; a value that points elsewhere is shown as it stands."""
    lines = explain_key("runtime", []).splitlines()
    shown = [line.partition(" = ")[0] for line in lines if not line.startswith(" ")]
    assert shown == [f"runtime.{key}" for key in compose_config([]).runtime]
    assert lines[4].startswith("runtime.precision = auto   # auto | fp32 | bf16")
    assert "  ${policy}  conf/algo/ddqn.yaml" in explain_key("algo.policy", ["algo=ddqn"])


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "preset").mkdir()
    (tmp_path / "preset" / "mine.yaml").write_text("defaults: [mpc_cartpole]\nbudget:\n  steps: 7\n")
    last = explain_key("steps", ["preset=mine"], tmp_path).splitlines()[-1].split()
    assert last == ["7", f"{tmp_path}/preset/mine.yaml:3", "(budget)", "<-", "wins"]


def test_words_may_set_a_mapping() -> None:
    words = ["algo.x={a: 1, b: 2}", "algo.y=3", "~algo.x.b"]
    assert [layer.value for layer in from_words("algo.x.b", words)] == [2]


def test_an_unknown_key() -> None:
    with pytest.raises(ConfigError, match=r"^--explain planner\.horizn: .*did you mean planner\.horizon\?"):
        explain_key("planner.horizn", [])


def test_both_commands_take_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    expected = explain_key("seed", ["seed=4"]) + "\n"
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=4", "--explain", "seed"])
    cli_train.main()
    assert capsys.readouterr().out == expected
    assert doctor.main(["seed=4", "--explain=seed"]) == 0
    assert capsys.readouterr().out == expected
    assert doctor.main(["--explain=sead"]) == 2


def test_help_names_it_and_lists_budgets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--help"])
    with pytest.raises(SystemExit) as left:
        cli_train.main()
    assert not left.value.code
    shown = capsys.readouterr().out
    assert "--explain KEY prints" in shown and "Powered by" not in shown
    (budgets,) = (line for line in shown.splitlines() if line.startswith("budget: "))
    assert "none" in budgets and "mpc_cartpole" in budgets and "sac_cheetah" in budgets
