"""Where episodes are kept: a folder of .npz files, one for each episode, or a Minari dataset."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np

from mbrl_lab.config import ConfigError
from mbrl_lab.data.episodes import Recorded
from mbrl_lab.tracking.atomic import new_folder

MINARI = "minari:"
"""Begins the name of a dataset of Minari."""

ABOUT = "data.json"


def write_npz(episodes: Sequence[Recorded], about: Mapping[str, Any], out: Path) -> None:
    """Write a new folder: episode-00000.npz ..., and data.json. After an error there is none."""
    with new_folder(out) as whole:
        for k, episode in enumerate(episodes):
            np.savez_compressed(whole / f"episode-{k:05d}.npz", **episode._asdict())
        (whole / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read_episodes(place: str) -> Iterator[Recorded]:
    """The episodes of a folder of .npz files, by their names, or of minari:NAME. ConfigError if there are none."""
    if place.startswith(MINARI):
        return read_minari(place.removeprefix(MINARI))
    files = sorted(Path(place).glob("*.npz"))
    if not files:
        what = "there is no such folder" if not Path(place).is_dir() else "it has no .npz file"
        raise ConfigError(f"replay.init is {place}; {what}")
    return map(read_npz, files)


def read_npz(path: Path) -> Recorded:
    """One file. No code from it is run."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Recorded.of({name: arrays[name] for name in arrays.files}, str(path))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise (
            error if isinstance(error, ConfigError) else ConfigError(f"{path} is no file of arrays: {error}")
        ) from error


def minari() -> ModuleType:
    """The library. ConfigError, one line, if it is not installed."""
    try:
        import_module("h5py")  # in which it stores
        return import_module("minari")
    except ModuleNotFoundError as error:
        raise ConfigError(f'{error.name} is not installed: pip install "mbrl_lab[minari]"') from error


def read_minari(name: str) -> Iterator[Recorded]:
    """The episodes of a dataset on this machine."""
    library = minari()
    try:
        dataset = library.load_dataset(name)
    except Exception as error:  # of several kinds, for a name without a version, an unknown one, a damaged file
        local = ", ".join(sorted(library.list_local_datasets())) or "none"
        raise ConfigError(
            f"replay.init is {MINARI}{name}, which cannot be read on this machine; its datasets: {local}; "
            f"`minari download {name}` fetches a public one"
        ) from error
    for episode in dataset.iterate_episodes():
        arrays = {field: getattr(episode, field) for field in Recorded._fields}
        yield Recorded.of(arrays, f"{MINARI}{name}, episode {episode.id}")


def write_minari(
    episodes: Sequence[Recorded], about: Mapping[str, Any], name: str, action_space: gymnasium.Space[Any]
) -> None:
    """Make a dataset on this machine, in MINARI_DATASETS_PATH. ConfigError if there is one of this name."""
    library, make = minari(), import_module("minari.data_collector").EpisodeBuffer
    if name in library.list_local_datasets():
        raise ConfigError(f"Minari has a dataset {name} already: choose another version, or `minari delete {name}`")
    first = episodes[0].observations
    low, high = (0, 255) if first.dtype == np.uint8 else (-np.inf, np.inf)
    space = gymnasium.spaces.Box(low, high, first.shape[1:], first.dtype.type)
    buffers = [
        make(
            id=k,
            observations=x.observations,
            actions=x.actions,
            rewards=list(x.rewards),
            terminations=list(x.terminations),
            truncations=list(x.truncations),
            infos={},
        )
        for k, x in enumerate(episodes)
    ]
    try:
        with warnings.catch_warnings():
            # It asks for an author, an address and a link to the code.
            warnings.simplefilter("ignore")
            library.create_dataset_from_buffers(
                name,
                buffers,
                observation_space=space,
                action_space=action_space,
                algorithm_name=str(about["algorithm"]),
                description=str(about["description"]),
                jpeg_encoding=False,  # it would change the images
            )
    except ValueError as error:
        raise ConfigError(f"--minari is {name}: {str(error).splitlines()[0]}") from error
