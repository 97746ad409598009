"""Examines this machine: packages, hardware, rendering, environments and services, each in one row."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from mbrl_lab.app import env_makers
from mbrl_lab.config import CONF, compose_config, left_open
from mbrl_lab.env import Envs, make_gym
from mbrl_lab.replay import free_memory
from mbrl_lab.tracking.loggers import default_mode
from mbrl_lab.tracking.provenance import hardware
from mbrl_lab.tracking.video import frame_of, rendering, write_video
from mbrl_lab.types import EnvSpec

State = Literal["ok", "missing", "optional"]
SECONDS = 0.2  # for measuring the speed of each environment
ROOM = 2**30  # bytes that outputs/ should have free
NO_BF16 = "no hardware support in this processor: runtime.precision=auto chooses fp32"
OF_EXTRAS = {"dmc": "pip install 'mbrl_lab[dmc]'"}  # environments that need more packages
ROMS = ("breakout", "space_invaders")


class Finding(NamedTuple):
    """One row of the table; `optional` means missing, but not needed."""

    name: str
    finding: str
    state: State
    cure: str = ""


def findings() -> list[Finding]:
    """Every row."""
    # Rendering comes before anything else imports MuJoCo, which chooses its renderer at that moment.
    return [*packages(), *hardware_there(), *drawing(), *environments(), *roms(), *services()]


def examine(name: str, look: Callable[[], str], cure: str, otherwise: State = "missing") -> Finding:
    """The result of `look`, or the first line of its exception, so that every fault is reported."""
    try:
        return Finding(name, look(), "ok")
    except Exception as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return Finding(name, words[0], otherwise, cure)


def packages() -> list[Finding]:
    """Python and the requirements of pyproject.toml, with the versions that they allow."""
    try:
        wanted = importlib.metadata.metadata("mbrl_lab")
    except importlib.metadata.PackageNotFoundError:
        return [Finding("mbrl_lab", "not installed", "missing", "pip install -e . in the repository, or make setup")]
    allowed = SpecifierSet(wanted["Requires-Python"])
    here = platform.python_version()
    python = Finding("python", here, "ok" if here in allowed else "missing", f"use Python {allowed}, e.g. make setup")

    needed = [Requirement(line) for line in wanted.get_all("Requires-Dist") or []]
    extras = [x for x in wanted.get_all("Provides-Extra") or [] if x != "dev"]
    # Markers decide which requirements apply to this Python and system.
    found = {r.name: package(r, "missing") for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}

    # A package of an extra that is needed anyway is listed once.
    for extra in extras:
        chosen = (r for r in needed if r.name not in found and r.marker and r.marker.evaluate({"extra": extra}))
        found |= {r.name: package(r, "optional") for r in chosen}
    return [python, *found.values()]


def package(required: Requirement, otherwise: State) -> Finding:
    """Whether a distribution is installed in a version that is allowed."""
    cure = f"pip install '{required.name}{required.specifier}'"
    try:
        version = importlib.metadata.version(required.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(required.name, "not installed", otherwise, cure)
    if not required.specifier.contains(version, prereleases=True):
        return Finding(required.name, f"{version}, but {required.specifier} is needed", otherwise, cure)
    return Finding(required.name, version, "ok")


def hardware_there() -> list[Finding]:
    """Processor, memory, CUDA devices and disk space for runs."""
    h = hardware()
    free = free_memory(torch.device("cpu")) / 2**30

    return [
        Finding("processor", f"{h['cores']} cores, {h['cpu']}", "ok"),
        Finding(
            "bfloat16",
            "hardware support in this processor" if h["bf16"] else NO_BF16,
            "ok" if h["bf16"] else "optional",
        ),
        Finding("memory", f"{h['memory_gib']} GiB, {free:.1f} free", "ok"),
        cuda(h["gpus"]),
        examine("disk", disk, "free some space, or write elsewhere: hydra.run.dir=/large/disk/..."),
    ]


def cuda(names: Sequence[str]) -> Finding:
    """The devices by number, or the reason why there are none."""
    if names and torch.cuda.is_available():
        return Finding(
            "cuda", f"{torch.version.cuda}: " + ", ".join(f"cuda:{i} {n}" for i, n in enumerate(names)), "ok"
        )
    built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for the CPU only"
    return Finding("cuda", f"no device ({built}): runs use the CPU", "optional")


def disk() -> str:
    """Disk space for runs. Raises OSError if there is too little, or the folder cannot be written."""
    outputs = Path("outputs").absolute()
    there = next(path for path in (outputs, *outputs.parents) if path.is_dir())
    if not os.access(there, os.W_OK):
        raise OSError(f"{there} cannot be written")

    free = shutil.disk_usage(there).free
    if free < ROOM:
        raise OSError(f"only {free / 2**30:.1f} GiB free in {outputs}")
    return f"{free / 2**30:,.1f} GiB free in {outputs}"


def drawing() -> list[Finding]:
    """Rendering without a display, and writing videos."""
    cure = "runs have no videos until then"
    return [
        examine("drawing classic control", partial(render, "CartPole-v1"), cure, "optional"),
        examine("drawing MuJoCo", partial(render, "HalfCheetah-v5"), cure, "optional"),
        examine("writing videos", film, "pip install --force-reinstall imageio imageio-ffmpeg"),
    ]


def render(id: str) -> str:
    """The size of a frame, rendered as for videos."""
    with rendering(partial(make_gym, id)) as env:
        height, width, _ = frame_of(env).shape
    return f"{id}, {width}x{height}"


def film() -> str:
    """Write half a second of grey frames."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "grey.mp4"
        write_video(path, np.full((8, 64, 64, 3), 128, np.uint8), 16)
        return f"H.264, {path.stat().st_size:,} bytes for 8 frames"


def environments() -> list[Finding]:
    """Each file of conf/env: observations, actions and speed."""
    return [environment(path.stem) for path in sorted((CONF / "env").glob("*.yaml"))]


def environment(name: str) -> Finding:
    """One of them; an environment that an extra installs is optional."""
    cure = OF_EXTRAS.get(name, f"see conf/env/{name}.yaml")
    return examine(f"env={name}", partial(measure, name), cure, "optional" if name in OF_EXTRAS else "missing")


def measure(name: str) -> str:
    """Take random actions for a moment, in as many environments as a run would have."""
    cfg = compose_config([f"env={name}", "algo=random"])
    for key in left_open(cfg):
        return f"needs {key}=..."
    # As a run makes them, so that a fault shows here first.
    _, make_envs = env_makers(cfg)
    with closing(make_envs(cfg.env.num, 0)) as envs:
        return f"{describe(envs.spec)}, {pace(envs):,.0f} steps/s"


def pace(envs: Envs) -> float:
    """Steps per second, all environments together."""
    envs.reset()
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        envs.step(envs.spec.sample(envs.num))
    return envs.steps / (time.perf_counter() - began)


def describe(spec: EnvSpec) -> str:
    """`obs [4] float32, 2 actions`, or `obs [3] float32, actions [1]` if they are continuous."""
    dtype = str(spec.obs_dtype).removeprefix("torch.")
    actions = f"{spec.action_dim} actions" if spec.discrete else f"actions [{spec.action_dim}]"
    return f"obs {list(spec.obs_shape)} {dtype}, {actions}"


def roms() -> list[Finding]:
    """The Atari games that runs here use."""
    cure = "pip install --force-reinstall ale-py"
    return [examine(f"rom {name}", partial(rom, name), cure) for name in ROMS]


def rom(name: str) -> str:
    """The file of a game. Raises FileNotFoundError if it is missing."""
    from ale_py.roms import get_rom_path

    path = get_rom_path(name)
    if path is None:
        raise FileNotFoundError("not found")
    return path.name


def services() -> list[Finding]:
    """Services for metrics and for jobs."""
    return [
        examine("wandb", weights_and_biases, "pip install wandb"),
        examine("tensorboard", tensorboard, "pip install 'mbrl_lab[tensorboard]'", "optional"),
        examine("slurm", slurm, "only launcher=slurm needs it: run on a cluster's login node", "optional"),
    ]


def weights_and_biases() -> str:
    """How logger=wandb would log."""
    import wandb

    mode = default_mode()
    return f"{wandb.__version__}, {mode}" + ("" if mode == "online" else "; for online: wandb login")


def tensorboard() -> str:
    """Whether torch can write event files."""
    from torch.utils import tensorboard

    return f"{tensorboard.__name__} imports"


def slurm() -> str:
    """The controller's version. Raises FileNotFoundError if there is none."""
    if shutil.which("sinfo") is None:
        raise FileNotFoundError("no sinfo on the PATH")
    return subprocess.run(["sinfo", "--version"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
