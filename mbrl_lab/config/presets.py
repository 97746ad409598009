"""Presets, recipes and shrinks: one readable file each, of which Hydra merges the sections for the chosen parts.

In addition to plain settings, a file of conf/preset, conf/recipe or conf/shrink may have sections:

    budget:                 # how long and how often: kept by preset=none, and when a part is swapped
      steps: 5_000
    policy=ddqn:            # settings that were tuned for one part; they apply when that part is chosen
      policy: {n_step: 3}
      algo: {batch: 64}
    planner=cem|icem:       # or for several
      planner: {horizon: 20}

`Files` presents each section to Hydra, through the plugin in hydra_plugins, as a separate file:
`preset/NAME` and `recipe/NAME` without sections, `budget/NAME`, and `sections/preset/GROUP/NAME/OPTION`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

FOLDERS: list[Path] = []
"""Folders that are searched after our own: that of `--config-dir`."""

GROUPS = ("recipe", "preset", "shrink")
PARTS = ("dynamics", "planner", "policy")
"""Groups that may have sections. Recipes choose their options, and the command line can choose others."""

SECTION = re.compile(rf"({'|'.join(PARTS)})=([\w|]+)")


class View(NamedTuple):
    """The content of a config path: the files it is read from, the oldest ancestor first, and a section."""

    files: list[Path]
    section: str | None  # None: the last file without its sections


class Files:
    """The presets and recipes of a folder of configs, and of those in FOLDERS."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def find(self, group: str, name: str) -> Path | None:
        """The file of a preset or a recipe, in our own folder or another."""
        places = (folder / group / f"{name}.yaml" for folder in (self.home, *FOLDERS))
        return next((path for path in places if path.is_file()), None)

    def view(self, config_path: str) -> View | None:
        """The view of a config path; None if it is not one of ours or does not exist."""
        head, *rest = config_path.removesuffix(".yaml").split("/")
        if head in GROUPS and len(rest) == 1:
            path = self.find(head, rest[0])
            return View([path], None) if path else None
        if head == "budget":
            # Of PAIR/PRESET the preset's own, otherwise the pair's: so `preset=none` keeps the length of a run.
            found = (self.section("preset", name, "budget") for name in reversed(rest))
            return next(filter(None, found), None)
        if head == "sections" and len(rest) == 4:
            group, part, name, option = rest
            return self.section(group, name, f"{part}={option}")
        return None

    def section(self, group: str, name: str, section: str) -> View | None:
        """A section of a file or of its ancestors; None if none of them has it."""
        files = list(self.ancestors(group, name))
        return View(files, section) if any(section in sections(read(path)) for path in files) else None

    def ancestors(self, group: str, name: str) -> Iterator[Path]:
        """The file of this name, after those that its defaults list names."""
        path = self.find(group, name)
        if path is None:
            return
        for entry in read(path).get("defaults", []):
            if isinstance(entry, str) and entry != "_self_":
                yield from self.ancestors(group, entry)
        yield path

    def load(self, view: View) -> DictConfig:
        """The settings of a view."""
        if view.section is not None:
            found = [sections(read(path)).get(view.section, {}) for path in view.files]
            merged = OmegaConf.merge(*found)
            assert isinstance(merged, DictConfig), merged
            return merged

        # The file itself, without its sections: each of these is a view of its own.
        cfg = read(view.files[-1])
        for key in [key for key in cfg if key == "budget" or SECTION.fullmatch(str(key))]:
            del cfg[key]
        if view.files[-1].parent.name == "recipe":
            cfg = with_sections(cfg)
        return cfg


def read(path: Path) -> DictConfig:
    """A file without any merging."""
    cfg = OmegaConf.load(path)
    return cfg if isinstance(cfg, DictConfig) else OmegaConf.create({})


def sections(cfg: DictConfig) -> dict[str, Any]:
    """The sections of a file: `budget`, `policy=ddqn`, ..., one for each option that `a|b` names."""
    found: dict[str, Any] = {}
    for key in cfg:
        if key == "budget":
            found[key] = cfg[key]
        elif match := SECTION.fullmatch(str(key)):
            for name in (f"{match[1]}={option}" for option in match[2].split("|")):
                found[name] = OmegaConf.merge(found.get(name, {}), cfg[key])
    return found


def with_sections(recipe: DictConfig) -> DictConfig:
    """A recipe that merges the budget first, and last the sections for the parts it chooses: its own, the preset's.

    The sections are entries of its defaults list, since only there Hydra can interpolate the chosen parts.
    """
    own = list(OmegaConf.to_container(recipe).get("defaults", []))  # type: ignore[union-attr]
    groups = [str(key).strip("/") for entry in own if isinstance(entry, dict) for key in entry]
    defaults = [{"optional /budget": "${algo}_${env}/${preset}"}, *own, *([] if "_self_" in own else ["_self_"])]

    # A section that does not exist is left out (`optional`); the preset's come after the recipe's and win.
    names = {"recipe": "${recipe}", "preset": "${preset}", "shrink": "${debug}_${algo}"}
    for file in GROUPS:
        chosen = (group for group in PARTS if group in groups)
        defaults += [{f"optional /sections/{file}/{group}": f"{names[file]}/${{{group}}}"} for group in chosen]
    rest = {key: value for key, value in recipe.items_ex(resolve=False) if key != "defaults"}
    return OmegaConf.create({"defaults": defaults, **rest})
