"""What was run: the parts of each algorithm, their pseudo-code, and their settings."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any, NamedTuple

from mbrl_lab.paper.document import Block, Cite, Code, Heading, Listing, Span, Tabular, Todo, paragraph
from mbrl_lab.paper.literature import PARTS
from mbrl_lab.paper.numbers import Numbers
from mbrl_lab.report.compare import Group, keys_of, value
from mbrl_lab.report.page.content import differing
from mbrl_lab.report.page.groups import Environment
from mbrl_lab.report.page.runs import Run
from mbrl_lab.tracking.settings import algorithm_of

GROUPS = ("algo", "policy", "planner", "dynamics", "value", "encoder")
"""Config groups of an algorithm's parts, in the order in which they are described; an encoder has settings only."""

AUTHOR_AND_YEAR = re.compile(r" \([^()]*\b\d{4}\b[^()]*\)")
"""A citation in a description, such as (Janner et al. 2019, alg. 2)."""

Member = tuple[Environment, Group, list[Run]]
"""A group of runs and its environment."""


class Method(NamedTuple):
    """An algorithm with its policy, and the groups of runs of it, which differ in settings."""

    name: str
    members: list[Member]

    @property
    def config(self) -> dict[str, Any]:
        """The config of the first run."""
        return self.members[0][2][0].folder.config()

    @property
    def learns_a_model(self) -> bool:
        return "dynamics" in self.config.get("algo", {})

    def label(self, member: Member) -> str:
        """A group's name, and its environment's if there are several."""
        several = len({environment.name for environment, _, _ in self.members}) > 1
        return f"{member[1].label} on {member[0].name}" if several else member[1].label


def methods_of(members: Sequence[Member]) -> list[Method]:
    """The algorithms, in the order of their appearance."""
    methods: dict[str, Method] = {}
    for environment, group, runs in members:
        name = algorithm_of(runs[0].folder.config())
        methods.setdefault(name, Method(name, [])).members.append((environment, group, runs))
    return list(methods.values())


def parts_of(config: Mapping[str, Any]) -> Iterator[tuple[str, type | None]]:
    """The class name of each part, and the class if it is one of this package; nothing else is imported."""
    for group in GROUPS[:-1]:
        target = str((config.get(group) or {}).get("_target_", ""))
        # A part may be chosen that the algorithm does not use, as `value` is null.
        if not target or not isinstance(config.get("algo", {}).get(group, {}), Mapping):
            continue
        found: Any = None
        if target.startswith("mbrl_lab."):
            with suppress(ImportError, AttributeError, ValueError):  # of another version
                found = pkgutil.resolve_name(target)
        yield target.rpartition(".")[2], found if inspect.isclass(found) else None


def described(methods: Sequence[Method]) -> list[Block]:
    """A section for each algorithm: what its parts are, as the code describes them, each once."""
    blocks: list[Block] = []
    seen: set[str] = set()
    for method in methods:
        blocks.append(Heading(2, method.name))
        for name, part in parts_of(method.config):
            if name in seen:
                blocks.append(paragraph(Code(name), " is described above."))
                continue
            seen.add(name)
            blocks += describe(name, part)
    return blocks


def describe(name: str, part: type | None) -> list[Block]:
    """What a part is, in the words of its file or its class, its papers, and its pseudo-code."""
    if part is None:
        return [paragraph(Code(name), ". ", Todo(f"what {name} is, and the paper that it is from"))]
    file, own = sys.modules[part.__module__], inspect.getdoc(part) or ""
    alone = part.__module__.rpartition(".")[2].replace("_", "") == name.lower()
    # The top of a file describes the class that it is named after, or that refers to it.
    by_file = alone or own.startswith("See the top of this file")
    text = (inspect.getdoc(file) or "") if by_file else own.partition("\n\n")[0]
    first, _, rest = text.partition("\n\n")
    keys = PARTS.get(name)
    cite: list[Span] = [" ", Cite(keys)] if keys else [] if keys == () else [" ", Todo(f"the paper of {name}")]
    sentence = " ".join(first.split()).removeprefix(f"{name}: ").removesuffix(".")
    if keys:  # cited once, at the end
        sentence = AUTHOR_AND_YEAR.sub("", sentence)
    blocks: list[Block] = [paragraph(Code(name), f": {sentence}", *cite, ".")]
    return [*blocks, Listing(rest)] if rest else blocks


def settings_tables(methods: Sequence[Method], numbers: Numbers) -> list[Block]:
    """A table for each algorithm: every setting of its parts, and what other groups of it have instead."""
    tables: list[Block] = []
    for method in methods:
        trees = [settings_of(group) for _, group, _ in method.members]
        rows: list[list[Span]] = []
        for key in keys_of(trees):
            first, *others = (
                (shown(value(tree, key)), member) for tree, member in zip(trees, method.members, strict=True)
            )
            # Another value, and the configurations that have it.
            kinds: dict[str, list[Member]] = {}
            for setting, member in others:
                if setting != first[0]:
                    kinds.setdefault(setting, []).append(member)
            text = "; ".join(f"{setting} ({', '.join(map(method.label, ms))})" for setting, ms in kinds.items())
            members = [run for ms in kinds.values() for _, _, runs in ms for run in runs]
            cell = numbers.add(f"{method.name}.{key}", first[0], method.members[0][2])
            rows.append([Code(key), cell, numbers.add(f"{method.name}.{key}.others", text, members) if kinds else ""])
        caption = f"Settings of {method.name} ({method.label(method.members[0])})"
        size = 3 if any(row[2] for row in rows) else 2
        columns = ["setting", "value", "in other runs"][:size]
        tables += [Tabular(caption, columns, [row[:size] for row in rows])] if rows else []
    return tables


def settings_of(group: Group) -> dict[str, Any]:
    """The settings of an algorithm's parts. The config repeats the parts inside of `algo`; each is listed once."""
    settings = group.curves[0].settings
    return {
        key: setting
        for key, setting in settings.items()
        if key.partition(".")[0] in GROUPS
        and key.rpartition(".")[2] not in ("_target_", "_partial_")
        and not (key.startswith("algo.") and key.removeprefix("algo.") in settings)
    }


def shown(setting: Any) -> str:
    """A setting as the config has it."""
    return "none" if setting is None else str(setting).lower() if isinstance(setting, bool) else str(setting)


def ablations(environment: Environment) -> Iterator[tuple[str, Group, Group]]:
    """Pairs of groups that differ in one setting, and its name."""
    for one, other in combinations(environment.groups, 2):
        keys = differing([group.curves[0].settings for group in (one, other)])
        if len(keys) == 1:
            yield keys[0], one, other
