"""One console command: mbrl-lab COMMAND, beside the scripts."""

from __future__ import annotations

import inspect
import runpy
import signal
import sys
import tomllib
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from other_process import forked

from mbrl_lab.cli import doctor
from mbrl_lab.cli.__main__ import COMMANDS, load
from mbrl_lab.cli.__main__ import main as console
from mbrl_lab.sweep.jobs import SCRIPT

ROOT = Path(__file__).parents[1]


def test_the_package_declares_it() -> None:
    (script,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items()
    assert EntryPoint(*script, "console_scripts").load() is console and script[0] == "mbrl-lab"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_file_and_a_script(name: str) -> None:
    main = import_module(f"mbrl_lab.cli.{name}").main
    required = [p for p in inspect.signature(main).parameters.values() if p.default is p.empty]
    assert len(required) <= 1, "it is called with the words alone"
    assert f'load("{name}")' in (ROOT / "scripts" / f"{name}.py").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_torch_is_imported_is_quiet(name: str, tmp_path: Path) -> None:
    class Interrupted:
        """Ctrl-C comes with torch, from a terminal; and somebody who imports it catches all that may be raised."""

        def find_spec(self, imported: str, path: object, target: object = None) -> None:
            if imported == "torch":
                try:
                    signal.raise_signal(signal.SIGINT)
                except BaseException as error:
                    raise ImportError from error

    def start() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for module in [module for module in sys.modules if module.partition(".")[0] in ("mbrl_lab", "torch")]:
            del sys.modules[module]
        sys.meta_path.insert(0, Interrupted())  # type: ignore[arg-type]
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")

    process = forked(start, tmp_path)
    process.join()
    assert (process.exitcode, (tmp_path / "err").read_text()) == (130, "")


def test_its_first_word_chooses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[object] = []
    monkeypatch.setattr(doctor, "main", lambda argv: given.extend([list(argv), sys.argv]) or 1)
    monkeypatch.setattr(sys, "argv", ["/bin/mbrl-lab", "doctor", "env=pendulum"])
    assert console() == 1
    assert given == [["env=pendulum"], ["mbrl-lab doctor", "env=pendulum"]]

    monkeypatch.setattr(sys, "argv", ["/bin/mbrl-lab", "trian"])
    assert console() == 2
    assert capsys.readouterr().err == f"error: mbrl-lab has no command 'trian'; it has {', '.join(COMMANDS)}\n"
    monkeypatch.setattr(sys, "argv", ["/bin/mbrl-lab"])
    assert console() == 0 and all(name in capsys.readouterr().out for name in [*COMMANDS][:1])


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_a_wrong_option_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        load(name)(["--nonsense"])
    line = capsys.readouterr().err
    assert stop.value.code == 2 and line.startswith("error: ") and line.count("\n") == 1
    assert line.endswith(f"python {Path('scripts', f'{name}.py')} --help shows the options\n")


def test_train_by_the_console(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    quick = ["algo=random", "debug=smoke", "steps=20", "eval.final_episodes=1", "video.final=0"]
    monkeypatch.setattr(sys, "argv", ["mbrl-lab", "train", *quick, f"hydra.run.dir={tmp_path / 'run'}"])
    assert console() == 0
    assert (tmp_path / "run" / "overrides.txt").read_text().split() == quick
    assert SCRIPT.is_file(), "what starts the runs of a sweep then"
