"""Layers: every file and override that gave a setting a value, in the order in which Hydra merges them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mbrl_lab.config import presets
from mbrl_lab.config.composition import compose_config, conf_folders, search_path
from mbrl_lab.config.messages import flat_keys, similar_setting
from mbrl_lab.config.options import pairs
from mbrl_lab.config.parts import ConfigError
from mbrl_lab.config.rules import RULES
from mbrl_lab.tracking.settings import ABSENT


class Layer(NamedTuple):
    """Where a setting got a value: `conf/planner/mppi.yaml:2`, or the command line."""

    value: Any
    place: str
    comment: str = ""  # behind the value in the file


class Source(NamedTuple):
    """A piece of a config file that Hydra merges."""

    file: Path
    section: str | None  # of a preset or a recipe: budget, policy=ddqn
    package: str  # under which key its content stands; "" is the root


def explain_key(key: str, overrides: Sequence[str], config_dir: Path | str | None = None) -> str:
    """Lines for a setting, or for each setting of a group: its value, the layers, the winner, the allowed values."""
    cfg = compose_config(overrides, config_dir)

    # Of a group only its leaves are explained: a group has no value of its own.
    keys = [k for k in flat_keys(plain_tree(cfg)) if k == key or k.startswith(f"{key}.")]
    leaves = [k for k in keys if not any(other.startswith(f"{k}.") for other in keys)]
    if not leaves:
        close = similar_setting(key, flat_keys(plain_tree(cfg)))
        raise ConfigError(f"--explain {key}: there is no such setting{close} `--cfg job` shows all of them")

    confs = conf_folders(config_dir)
    found = list(sources(overrides, confs))
    return "\n".join(line for leaf in leaves for line in explained(leaf, cfg, found, overrides))


def explained(key: str, cfg: DictConfig, found: Sequence[Source], overrides: Sequence[str]) -> Iterator[str]:
    """Lines about one setting."""
    layers = [*from_files(key, found), *from_words(key, overrides)]
    comment = layers[0].comment if layers else ""
    about = "; ".join(filter(None, (comment, RULES[key][1] if key in RULES else "")))
    yield f"{key} = {shown(OmegaConf.select(cfg, key))}" + (f"   # {about}" if about else "")

    # Layers are in the order of merging, so the last one wins.
    width = max((len(shown(layer.value)) for layer in layers), default=0)
    for layer in layers:
        yield f"  {shown(layer.value):>{width}}  {layer.place}" + ("  <- wins" if layer is layers[-1] else "")


def sources(overrides: Sequence[str], confs: Sequence[Path]) -> Iterator[Source]:
    """The pieces of files that these words compose, in the order of merging."""
    presets.FOLDERS[:] = confs[1:]
    files = presets.Files(confs[0])
    for config_path, package in defaults_list(overrides, confs):
        if view := files.view(config_path):
            yield from (Source(file, view.section, "") for file in view.files)
        elif place := next((c / f"{config_path}.yaml" for c in confs if (c / f"{config_path}.yaml").is_file()), None):
            yield Source(place, None, package)


def defaults_list(overrides: Sequence[str], confs: Sequence[Path]) -> list[tuple[str, str]]:
    """Hydra's own list of config paths and packages; its settings of itself are left out."""
    # There is no public function for it; `compose` itself uses this one.
    with initialize_config_dir(str(confs[0]), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = loader.compute_defaults_list("train", [*overrides, *search_path(confs)], RunMode.RUN)
    return [
        (str(d.config_path), d.package or "")
        for d in found.defaults
        if d.config_path and not d.config_path.startswith("hydra/")
    ]


def from_files(key: str, found: Sequence[Source]) -> Iterator[Layer]:
    """The layers of files that set this key, or a mapping that contains it, as one value."""
    for file, section, package in found:
        # The key as the file writes it: below the package under which Hydra merges the file.
        inner = key.removeprefix(f"{package}.") if package else key
        if package and inner == key:
            continue

        # Parsed to nodes, not values, which know their lines.
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if section is not None:
            roots = [node for name, node in pairs(root) if section in section_names(name)]
        else:
            roots = [root]
        for start in roots:
            if (node := descend(start, inner.split("."))) is not None:
                line = node.start_mark.line
                comment = text.splitlines()[line].partition(" # ")[2].strip()
                named = f"  ({section})" if section else ""
                yield Layer(value_of(text, node), f"{short(file)}:{line + 1}{named}", comment)


def section_names(key: str) -> set[str]:
    """`planner=cem|icem` -> planner=cem, planner=icem."""
    group, _, options = key.partition("=")
    return {f"{group}={option}" for option in options.split("|")} if options else {key}


def descend(node: yaml.Node | None, path: Sequence[str]) -> yaml.Node | None:
    """The node at a path in a file; None if there is none."""
    for part in path:
        node = dict(pairs(node)).get(part)
    return node


def value_of(text: str, node: yaml.Node) -> Any:
    """The value of a node as OmegaConf reads it; a mapping of several lines as it is written."""
    written = text[node.start_mark.index : node.end_mark.index]
    if "\n" in written:
        return " ".join(written.split())
    read = OmegaConf.create(f"x: {written}")
    assert isinstance(read, DictConfig)
    return plain_tree(read)["x"]


def from_words(key: str, overrides: Sequence[str]) -> Iterator[Layer]:
    """The layers of overrides that set this key, or a mapping that contains it."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        given = OmegaConf.create()
        if not override.is_delete():
            OmegaConf.update(given, override.key_or_group, override.value())
        if (value := OmegaConf.select(given, key, default=ABSENT)) is not ABSENT:
            yield Layer(value, f"command line: {override.input_line}")


def plain_tree(cfg: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(cfg)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def short(file: Path) -> str:
    """The path relative to the current folder, if the file is below it."""
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)
