"""Options: every setting that a file of conf/ declares, with its default, its meaning and the allowed values.

The YAML file of a group has the defaults and meanings, rules.py the allowed values; `--explain`, docs/options.md and
benchmarks/options.py read all three from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from mbrl_lab.config.rules import RULES

GROUPS = ("algo", "dynamics", "planner", "policy", "encoder", "value", "env", "runtime", "logger", "launcher")
"""Config groups whose files declare settings; the files of other groups change the values of these."""


class Option(NamedTuple):
    """A setting where it is declared."""

    key: str  # dotted, as on the command line
    default: str  # as it is written
    meaning: str  # the comment behind it
    allowed: str  # in words; "" if nothing is checked, or if its class checks it
    file: str  # below conf/
    line: int


def declared(conf: Path) -> Iterator[Option]:
    """The settings of conf/train.yaml, then those of each group's files; Hydra's own settings are left out."""
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

    # The node tree keeps line numbers, by which the comment behind a value is found.
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
    """Dotted keys of a file and their values. A mapping in braces, such as `{_target_: ...}`, is one value."""
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

These tables list every setting, its default, its meaning and the allowed values. They are made by `python
benchmarks/options.py --write` from the comments in [conf](../conf) and from [rules.py](../mbrl_lab/config/rules.py).
Presets, recipes and experiments change defaults: `python scripts/train.py ... --explain KEY` prints every file that set
a value."""
