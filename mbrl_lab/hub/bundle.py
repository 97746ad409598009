"""Bundle: the folder that is published, and that is loaded again.

README.md            the model card
config.yaml          the run's config, without loggers, launcher and places on this machine
model.safetensors    weights
results.json         the evaluation
command.txt          the command that trains it
constraints.txt      the versions of all packages
curve.png            returns of training and evaluations
replay.mp4           a video of an evaluation, if there is one
"""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mbrl_lab.config import ConfigError
from mbrl_lab.hub.card import Facts, card
from mbrl_lab.hub.results import results_of, write_results
from mbrl_lab.hub.weights import WEIGHTS, write_weights
from mbrl_lab.tracking.atomic import new_folder
from mbrl_lab.tracking.checkpoint import Checkpoint
from mbrl_lab.tracking.folder import RunFolder, no_run
from mbrl_lab.tracking.settings import algorithm_of

CARD, CONFIG, RESULTS = "README.md", "config.yaml", "results.json"
CURVE, VIDEO = "curve.png", "replay.mp4"

PRIVATE: dict[str, Any] = {"logger": {}, "launcher": None, "init_from": None, "init_checkpoint": "last"}
"""Settings that name places or accounts of whoever trained it."""


@dataclass(frozen=True)
class Agent:
    """A run's weights to be published."""

    folder: RunFolder
    checkpoint: str
    state: dict[str, Any]
    step: int
    results: dict[str, Any]

    @classmethod
    def of(cls, run: Path, checkpoint: str) -> Agent:
        """ConfigError if there is no run, no checkpoint, or no evaluation of it."""
        folder = RunFolder(run)
        if not folder.config():
            raise ConfigError(no_run(folder.path))
        folder.check_links()
        place = folder.checkpoint(checkpoint)
        loaded = Checkpoint(place).load()
        if loaded is None:
            raise ConfigError(f"{place} holds no checkpoint; --checkpoint can be last, best or a checkpoint's folder")
        step = int(loaded.state["step"])
        name = folder.checkpoint_name(checkpoint)
        return cls(folder, name, loaded.state["algo"], step, results_of(folder, name, step))


def write_bundle(agent: Agent, out: Path, repo: str | None = None, license: str | None = None) -> Facts:
    """Write the folder `out`, which must be missing or empty; after an error it is as before.

    Args:
        agent: what to publish.
        out: the folder.
        repo: USER/NAME where it will be published; None: the card names a folder.
        license: the Hub's name of a licence, e.g. mit; None: none is given.
    """
    with new_folder(out) as whole:
        return fill(agent, whole, repo, license)


def fill(agent: Agent, out: Path, repo: str | None, license: str | None) -> Facts:
    """Write every file."""
    from mbrl_lab.report.page.runs import open_run  # imports matplotlib, which takes a while

    folder, config, env = agent.folder, agent.folder.config(), agent.folder.env()
    environment = open_run(folder.path.name, folder.path).environment
    write_weights(agent.state, agent.step, out / WEIGHTS)
    OmegaConf.save(OmegaConf.create(public(config)), out / CONFIG)
    write_results(agent.results, out / RESULTS)

    command = command_of(folder)
    (out / "command.txt").write_text(command + "\n", encoding="utf-8")
    packages = env.get("packages", {})
    # A local version such as 2.13.0+cpu can be installed from nowhere but where it was built.
    pins = [f"{name}=={version.partition('+')[0]}\n" for name, version in packages.items() if name != "mbrl_lab"]
    (out / "constraints.txt").write_text("".join(pins), encoding="utf-8")
    add_pictures(folder, agent.checkpoint, out)

    hardware = env.get("hardware", {})
    facts = Facts(
        algo=algorithm_of(config),
        env=environment,
        command=command,
        results=agent.results,
        files=sorted(path.name for path in out.iterdir()),
        hardware=", ".join([str(hardware.get("cpu", "an unknown processor")), *hardware.get("gpus", [])]),
        commit=env.get("git", {}).get("commit"),
        python=str(env.get("python", "unknown")),
    )
    # Last, as it lists the other files.
    (out / CARD).write_text(card(facts, repo, license), encoding="utf-8")
    return facts


def public(config: dict[str, Any]) -> dict[str, Any]:
    """A config without what is private."""
    kept = {key: PRIVATE.get(key, value) for key, value in config.items() if key != "launcher"}
    return kept | {"replay": config.get("replay", {}) | {"init": None}}


def command_of(folder: RunFolder) -> str:
    """The command line that trained a run, without private words."""
    kept = [word for word in folder.overrides() if word.lstrip("+~").partition("=")[0].partition(".")[0] not in PRIVATE]
    return shlex.join(["mbrl-lab", "train", *kept])


def add_pictures(folder: RunFolder, checkpoint: str, out: Path) -> None:
    """The curve, and the newest video of this checkpoint, if there is one."""
    from mbrl_lab.report.curves import draw_return_curve

    draw_return_curve(folder, out / CURVE)
    names = [f"evaluation-{checkpoint}-*.mp4", *(["final-*.mp4"] if checkpoint == "last" else [])]
    # Videos of the final policy show the last weights, so they are not those of another checkpoint.
    videos = [path for name in names for path in folder.videos.glob(name)]
    if videos:
        shutil.copyfile(max(videos, key=lambda path: path.stat().st_mtime), out / VIDEO)


def run_of(results: Path) -> tuple[str, str]:
    """The run behind a results.json, and what it says of it; "" for a file of another kind."""
    try:
        read = json.loads(results.read_text(encoding="utf-8"))
        return str(read["run"]), f"{float(read['mean_reward']):.1f}"
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
