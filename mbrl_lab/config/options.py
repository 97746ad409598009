"""Options: every setting that a file of conf/ declares, with its default, what it means and what it may be.

A default and its meaning stand in the YAML file of its group, what is allowed in rules.py; `--explain`, docs/options.md
and benchmarks/options.py take all three from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from mbrl_lab.config.rules import RULES

GROUPS = ("algo", "dynamics", "planner", "policy", "encoder", "value", "env", "runtime", "logger", "launcher")
"""Config groups whose files declare settings; what other groups hold are values for these."""


class Option(NamedTuple):
    """A setting where it is declared."""

    key: str  # dotted, as on the command line
    default: str  # as it is written
    meaning: str  # the comment behind it
    allowed: str  # in words; "" where nothing is checked, or its class checks
    file: str  # below conf/
    line: int


def declared(conf: Path) -> Iterator[Option]:
    """The settings of conf/train.yaml, then those of each group's files; what Hydra reads is left out."""
    yield from options_of(conf, conf / "train.yaml")
    for group in GROUPS:
        for file in sorted((conf / group).glob("*.yaml")):
            yield from options_of(conf, file)


def options_of(conf: Path, file: Path) -> Iterator[Option]:
    """The settings of one file, in its order; not those that only pass another one on, nor functions."""
    text = file.read_text(encoding="utf-8")
    package = re.match(r"# @package (\S+)", text)
    home = package[1] if package else file.parent.name
    whole = file.parent == conf or home == "_global_"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines = text.splitlines()
    for key, node in leaves(root, "" if whole else f"{home}."):
        default = text[node.start_mark.index : node.end_mark.index]
        if key.startswith("hydra.") or key.split(".")[-1].startswith(("_", "defaults")):
            continue
        if default.startswith(("${", "{")):  # points to another setting, or names a function
            continue
        line = node.start_mark.line
        meaning = lines[line].partition(" # ")[2].strip()
        yield Option(
            key, default, meaning, RULES[key][1] if key in RULES else "", str(file.relative_to(conf)), line + 1
        )


def leaves(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    """Dotted keys of a file, and the values at the end of them. What has a `_target_` in braces is one value."""
    for key, value in pairs(node):
        nested = isinstance(value, yaml.MappingNode) and value.value and not value.flow_style
        if nested:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def pairs(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """The keys of a mapping, and what they hold."""
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)


def table(conf: Path) -> str:
    """docs/options.md: a table for each file that declares settings."""
    files: dict[str, list[Option]] = {}
    for option in declared(conf):
        files.setdefault(option.file, []).append(option)
    parts = [INTRODUCTION]
    for file, options in files.items():
        title = file.removesuffix(".yaml").replace("/", "=") if "/" in file else "Every run"
        parts.append(f"## {title}\n\n[conf/{file}](../conf/{file})\n\n{HEADER}")
        parts[-1] += "\n".join(row(f"`{o.key}`", f"`{o.default}`", o.meaning, o.allowed) for o in options)
    return "\n\n".join(parts) + "\n"


def row(*cells: str) -> str:
    """A row of a table, in which `|` has to be escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


HEADER = "| setting | default | meaning | allowed |\n| --- | --- | --- | --- |\n"

INTRODUCTION = """# Options

Every setting, its default, what it means, and what is allowed. Made by `python benchmarks/options.py --write` from the
comments in [conf](../conf) and from [rules.py](../mbrl_lab/config/rules.py). Presets, recipes and experiments change
defaults: `python scripts/train.py ... --explain KEY` prints who set a value."""
