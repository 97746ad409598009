"""scripts/doctor.py: what is there, what is missing with its cure, and the parts of a job."""

from __future__ import annotations

import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import gymnasium
import pytest
from imageio.v3 import imread
from other_process import forked
from packaging.requirements import Requirement

from mbrl_lab.cli import doctor as command
from mbrl_lab.cli.doctor import main, quiet, table
from mbrl_lab.config import CONF, compose_config
from mbrl_lab.doctor import job, machine, sight
from mbrl_lab.doctor.machine import Finding, examine, package
from mbrl_lab.env import Envs, MinAtar, MinAtarVector, make_gym
from mbrl_lab.tracking.folder import RunFolder


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are measured for a moment only, and drawing is left to its own tests."""
    monkeypatch.setattr(machine, "SECONDS", 0.005)
    monkeypatch.setattr(machine, "drawing", lambda: [])


def test_every_environment_and_package_has_its_row(hasty: None, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capfd.readouterr()
    rows = {line.split()[0]: line for line in said.out.splitlines()}
    envs = {f"env={path.stem}" for path in (CONF / "env").glob("*.yaml")}
    assert envs | {"python", "torch", "mujoco", "processor", "memory", "cuda", "disk", "rom", "wandb", "slurm"} <= {
        *rows
    }
    assert "obs [4] float32, 2 actions" in rows["env=cartpole"] and rows["env=cartpole"].endswith("ok")
    assert "obs [3] float32, actions [1]" in rows["env=pendulum"]
    assert importlib.metadata.version("gymnasium") in rows["gymnasium"]
    assert said.err == ""


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("optional", 0), ("missing", 1)])
def test_only_what_is_missing_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: machine.State, code: int
) -> None:
    found = [Finding("python", "3.11", "ok"), Finding("x", "not installed", state, "pip install x")]
    monkeypatch.setattr(command, "findings", lambda: found)
    assert main([]) == code
    assert (f"{state}: x: pip install x" in capsys.readouterr().out) == (state != "ok")


def test_a_broken_environment_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(name: str) -> str:
        if name == "pendulum":
            raise RuntimeError("\nno such library\nand much more")
        return "fine"

    monkeypatch.setattr(machine, "measure", measure)
    found = {f.name: f for f in machine.environments()}
    assert found["env=pendulum"] == Finding("env=pendulum", "no such library", "missing", "see conf/env/pendulum.yaml")
    assert found["env=cartpole"] == Finding("env=cartpole", "fine", "ok")


def test_an_environment_that_asks_for_more_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = compose_config(["algo=random"])
    cfg.env.make.id = "???"
    monkeypatch.setattr(machine, "compose_config", lambda _: cfg)
    assert machine.measure("cartpole") == "needs env.make.id=..."


@pytest.mark.parametrize(
    ("asked", "finding", "state"),
    [
        ("numpy>=1", importlib.metadata.version("numpy"), "ok"),
        ("numpy>=999", f"{importlib.metadata.version('numpy')}, but >=999 is needed", "missing"),
        ("no-such-distribution>=2", "not installed", "missing"),
    ],
)
def test_a_package_in_its_version(asked: str, finding: str, state: str) -> None:
    found = package(Requirement(asked), "missing")
    assert (found.finding, found.state) == (finding, state)
    assert found.cure == ("" if state == "ok" else f"pip install '{asked}'")


def test_a_fault_without_words_is_named() -> None:
    def look() -> str:
        raise NotImplementedError

    assert examine("x", look, "cure", "optional") == Finding("x", "NotImplementedError", "optional", "cure")


def test_what_draws_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.render("CartPole-v1") == "CartPole-v1, 600x400"
    assert machine.film().startswith("H.264, ")

    def blind(id: str) -> str:
        raise RuntimeError("cannot render without a display")

    monkeypatch.setattr(machine, "render", blind)
    classic, mujoco, writing = machine.drawing()
    assert (classic.state, mujoco.state, writing.state) == ("optional", "optional", "ok")


def test_roms(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.state for f in machine.roms()] == ["ok", "ok"]
    monkeypatch.setattr("ale_py.roms.get_rom_path", lambda name: None)
    assert {(f.finding, f.state) for f in machine.roms()} == {("not found", "missing")}


def test_slurm_is_asked_for_its_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no sinfo"):
        machine.slurm()
    sinfo = tmp_path / "sinfo"
    sinfo.write_text(f"#!{sys.executable}\nprint('slurm 24.05.1')\n")
    sinfo.chmod(0o755)
    assert machine.slurm() == "slurm 24.05.1"


def test_a_full_disk_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert machine.disk().endswith(f"GiB free in {tmp_path / 'outputs'}")
    monkeypatch.setattr(machine, "ROOM", 2**70)
    with pytest.raises(OSError, match="GiB free in"):
        machine.disk()


def test_quiet_keeps_print_warnings_and_c_and_children_to_itself(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("print")
        print("error", file=sys.stderr)
        os.write(1, b"from C")
        subprocess.run(["echo", "child"], check=True)
        warnings.warn("warning", stacklevel=1)
    print("after")
    assert capfd.readouterr() == ("after\n", "")


def test_columns_are_aligned() -> None:
    rows = table([Finding("a", "long finding", "ok"), Finding("longer", "b", "optional")]).splitlines()
    assert rows == ["a       long finding  ok", "longer  b             optional"]
    long = table([Finding("a", "word " * 20, "ok")]).splitlines()
    assert [len(line) for line in long] == [86, 22] and long[1] == "  " + " word" * 4


def test_the_parts_of_a_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places: list[str] = []
    monkeypatch.setattr(job, "RunFolder", lambda place: places.append(place) or RunFolder(place))
    overrides = ["algo=mpc", "env=pendulum", "dynamics.members=2", "dynamics.imagination.elites=2", "dynamics.width=8"]
    assert main([*overrides, "dynamics.depth=1", "planner.horizon=7", "runtime.device=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines}
    assert "1 x obs [3] float32, actions [1]" in rows["env"]
    assert rows["replay"] == "replay    100,000 steps, 2.2 MB on cpu"
    assert rows["planner"].split()[1] == "CEM:" and "horizon=7" in rows["planner"]
    assert "dynamics" in rows and "width=8" in " ".join(lines) and "gaussian=false" in " ".join(lines)
    parameters = 2 * ((4 * 8 + 8) + (8 * 4 + 4))
    net = next(line.split() for line in lines if line.split()[0] == "net")
    assert net == ["net", "EnsembleMLP", str(parameters)]
    assert next(line for line in lines if "[2, 4, 8]" in line).split()[:2] == ["weights", "ParameterList"]
    assert not Path(places[0]).exists()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tmp_path / "outputs" / "doctor" / "pendulum.png"], "nothing but the picture is left"
    assert rows["picture"] == "picture   outputs/doctor/pendulum.png"
    assert rows["actions"] == "actions   in [-1, 1]" and "steps/s of 1" in rows["speed"]


def test_what_an_agent_meets_in_a_grid(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["env=minatar_spaceinvaders", "env.make.minimal_actions=true", "runtime.device=cpu"]
    assert main(["algo=random", *words]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["env"] == "env       1 x obs [6, 10, 10] uint8, 4 actions, frame skip 1"
    assert rows["actions"] == "actions   0=noop 1=left 2=right 3=fire"
    assert rows["picture"].endswith("outputs/doctor/minatar_spaceinvaders.png")
    assert imread(tmp_path / "outputs/doctor/minatar_spaceinvaders.png").shape[1] > 900, "four channels side by side"


def test_an_environment_by_its_id_has_a_picture_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["algo=random", "env=gym", "env.id=MountainCar-v0", "runtime.device=cpu"]) == 0
    assert "picture   outputs/doctor/gym-MountainCar-v0.png" in capsys.readouterr().out.splitlines()


def test_a_machine_that_cannot_draw_gives_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def blind(*_: object) -> None:
        raise RuntimeError("cannot render without a display\nand more")

    monkeypatch.setattr(sight, "rendered", blind)
    make = partial(make_gym, "CartPole-v1")
    assert sight.sight(Envs(make, 1, 0), make, tmp_path / "x.png") == "none: cannot render without a display"


def test_actions_are_named_where_the_environment_names_them() -> None:
    class WithMeanings(gymnasium.Env):  # type: ignore[type-arg]
        observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)

        def get_action_meanings(self) -> list[str]:
            return ["NOOP", "FIRE"]

    assert sight.meanings(Envs(WithMeanings, 1, 0)) == ["NOOP", "FIRE"]
    assert sight.meanings(Envs(partial(make_gym, "CartPole-v1"), 1, 0)) == []


def test_a_picture_is_taken_in_the_middle_of_an_episode() -> None:
    known = {"game": "spaceinvaders", "sticky": 0.0, "minimal_actions": False, "max_steps": 0}
    obs = sight.observed(Envs(partial(MinAtar, **known), 1, 0, make_vector=partial(MinAtarVector, **known)))[0]
    assert obs[1].any() and not obs[1, 0, 7], "the aliens have moved one to the left"


def test_a_job_without_parts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["algo=random", "runtime.device=cpu"]) == 0
    assert "planner" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env=pendulumm", "env=pendulumm does not exist; did you mean pendulum?"),
        ("planner.horizonn=3", "planner.horizonn=3: there is no setting"),
        ("dynamics.width=0", "dynamics.width is 0; it must be"),
        ("planner.horizon=0", "planner.horizon is 0"),
    ],
)
def test_a_job_that_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], override: str, words: str) -> None:
    assert main([override]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"error: {words}") and said.err.count("\n") == 1


def test_a_missing_package_is_one_line_and_not_a_traceback(tmp_path: Path) -> None:
    def start_without_hydra() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("mbrl_lab", "hydra")]:
            del sys.modules[name]
        sys.modules["hydra"] = None  # type: ignore[assignment]
        runpy.run_path(str(CONF.parent / "scripts" / "doctor.py"), run_name="__main__")

    process = forked(start_without_hydra, tmp_path)
    process.join()
    assert (process.exitcode, (tmp_path / "out").read_text()) == (1, "")
    line = r"missing: hydra\.\w+ is not installed: make setup, or pip install -e \.\n"
    assert re.fullmatch(line, (tmp_path / "err").read_text())


def test_output_that_was_closed_from_the_start_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with quiet():
        pass
