"""Words of the command line: any path and any text arrive, whatever they are made of, and flags stand anywhere."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from mbrl_lab import make_run
from mbrl_lab.config import ConfigError, compose_config
from mbrl_lab.config.command_line import CommandLine, as_shell, override, parsed, quoted, readable
from mbrl_lab.config.messages import explain
from mbrl_lab.sweep.jobs import Job
from mbrl_lab.tracking.folder import RunFolder

ODD = [
    *("a=b", "a,b", "a#b", "a@b", "a b", " a ", "it's", 'say "x"', "a[b]", "[a]", "(a)", "f(x)", "{a}", "{a:1}", "é/ü"),
    *("日本", "a:b", "a;b&c|d", "a%b", "a$b", "$", "~x", "!", "\\", "a\\", "a\\'", "\\\\'", "C:\\runs\\x", "'q'", '"'),
    *("1", "1.5", "1e3", "true", "null", "nan", "", "-", "a\tb", "${", "}"),
]
"""Texts that mean something to Hydra, to a shell, or to neither."""

VALUES: list[Any] = [
    *(None, True, False, 0, -7, 10**18, 0.1, 1e-05, 1e16, float("inf"), [], {}, [1, "a,b", None, [True]]),
    *({"a": 1, "b": {"c": "x=y"}}, ["1", "true", "null", ""], *ODD),
]


def value_of(words: str) -> Any:
    read = parsed(words)
    assert read is not None and not read.is_sweep_override(), words
    return read.value()


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("quote", ["'", '"'])
def test_what_is_quoted_is_read_as_it_was(text: str, quote: str) -> None:
    assert value_of(f"k={quoted(text, quote)}") == text


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_of_python_arrives_as_it_is(value: Any) -> None:
    read = value_of(override("k", value))
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("value", "becomes"),
    [(Path("a=b/c"), "a=b/c"), ((1, "x"), [1, "x"]), (np.float32(0.5), 0.5), (np.int64(3), 3), ("cem", "cem")],
)
def test_what_is_like_them_too(value: Any, becomes: Any) -> None:
    read = value_of(override("k", value))
    assert read == becomes and type(read) is type(becomes)


@pytest.mark.parametrize("value", [object(), {1, 2}, {"a b=": 1}, [{"x": print}]])
def test_what_no_config_can_hold_is_rejected(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^algo\.x is "):
        override("algo.x", value)


def test_keywords_of_make_run_reach_the_config(tmp_path: Path) -> None:
    given = {
        "name": "a=b, 'c' #d",
        "stop.metric": None,
        "video.final": 0,
        "debug": "smoke",
        "logger": ["jsonl"],
        "eval.every": "${steps}",
        "+env.note": {"where": "x=[1, 2]", "list": [None, True, "1"]},
        "checkpoint.best": "eval/return",
    }
    runner = make_run("random", "cartpole", folder=tmp_path / "run", **given)
    runner.envs.close()
    cfg = OmegaConf.create(RunFolder(tmp_path / "run").config())
    assert cfg.name == "a=b, 'c' #d" and cfg.stop.metric is None and cfg.eval.every == cfg.steps
    assert cfg.env.note == {"where": "x=[1, 2]", "list": [None, True, "1"]} and cfg.checkpoint.best == "eval/return"
    again = compose_config((tmp_path / "run" / "overrides.txt").read_text(encoding="utf-8").splitlines())
    assert again.name == cfg.name and again.env.note == cfg.env.note
    with pytest.raises(ConfigError, match="there is no setting 'stepps'; did you mean steps"):
        make_run("random", "cartpole", folder=tmp_path / "other", stepps=3)
    with pytest.raises(ConfigError, match=r"^name is <object .*it must be None, a bool"):
        make_run("random", "cartpole", folder=tmp_path / "other", name=object())


@pytest.mark.parametrize("text", [t for t in ODD if t and t not in (" a ", "null", "'q'", '"') and "${" not in t])
def test_a_folder_on_the_command_line_is_one_text(text: str) -> None:
    assert str(value_of(readable(f"hydra.run.dir={text}"))) == text


@pytest.mark.parametrize("key", ["init_from", "init_checkpoint"])
@pytest.mark.parametrize("name", ["a b", "lr=0.1,a", "x=1", "a,b", "12", "it's #1"])
def test_a_path_to_another_runs_weights_needs_no_quotes(key: str, name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    assert readable(f"{key}=b c=d") == f"{key}='b c=d'", "no such folder, and Hydra cannot read it"
    assert readable(f"{key}=a,b") == f"{key}=a,b", "a sweep over two sources"
    place.mkdir()
    assert OmegaConf.select(compose_config([f"{key}={place}"]), key) == str(place)


def test_what_hydra_reads_is_left_to_it() -> None:
    for words in (
        "name=a,b",
        "name=run",
        "hydra.run.dir='q'",
        "hydra.run.dir=outputs/${name}",
        "steps=[1",
        "env.id=a#b",
    ):
        assert readable(words) == words
    assert readable("name=a=b") == "name='a=b'" and readable("hydra.run.dir=${name}=x") == "hydra.run.dir='${name}=x'"


def test_a_sweeps_job_finds_its_folder_again() -> None:
    folder = Path("/runs/a=b, 'c'/\\x/${y}/é")
    *_, last = Job(folder, ()).arguments()
    cfg = OmegaConf.create({"y": "WRONG", "dir": value_of(last)})
    assert cfg.dir == str(folder)


@pytest.mark.parametrize("text", [t for t in ODD if t])
def test_the_words_that_a_message_shows_work_in_a_shell(text: str) -> None:
    line = f"printf %s {as_shell(f'name={text}')}"
    typed = subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout.decode()
    assert value_of(typed) == text


@pytest.mark.parametrize("given", ["env.id=a#b", "steps=[1", "name=a,b"])
def test_messages_show_how_to_write_one_text(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose_config([given])
    (typed,) = shlex.split(str(caught.value).rpartition("it is written ")[2])
    assert value_of(typed) == given.partition("=")[2]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a=1", "-m", "b=1,2", "c=3"], ["a=1", "b=1,2", "c=3", "-m"]),
        (["--config-dir", "x", "a=1", "--cfg", "job", "b=2"], ["a=1", "b=2", "--config-dir", "x", "--cfg", "job"]),
        (["a=1", "--info"], ["a=1", "--info"]),
        (["-m", "name=é"], ["name='é'", "-m"]),
        ([], []),
    ],
)
def test_flags_stand_anywhere(argv: list[str], words: list[str]) -> None:
    line = CommandLine(argv)
    assert line.words() == words
    assert line.config_dir == ("x" if "x" in argv else None)


@pytest.mark.parametrize(
    ("argv", "said"), [(["a=1", "--foo"], "--foo"), (["-c"], "expected one argument"), (["=3"], "key=value")]
)
def test_flags_that_are_not_there(argv: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        CommandLine(argv)
    assert "\n" not in str(caught.value)


def test_a_message_includes_its_cause() -> None:
    error = ValueError("wrong")
    error.__cause__ = ValueError("since so\nand more")
    assert explain(error, [], [], []) == "wrong (since so)"
