"""Options: their table, and those that nothing in this repository ever sets.

    python benchmarks/options.py                 # lists settings without use, and counts them
    python benchmarks/options.py --write         # writes docs/options.md and docs/metrics.md

A setting is used where a recipe, preset, experiment, sweep, search, another group's file or a documented command sets
it or something below it, or a test does on a command line. Of the others it tells which a test passes to a constructor:
what remains is without use. Settings of environments, loggers and launchers are left out: they belong to a task or a
machine.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import yaml

from mbrl_lab.config import CONF, metrics, presets
from mbrl_lab.config.options import Option, declared, leaves, pairs, table
from mbrl_lab.config.renamed import prefixes

ROOT = CONF.parent
SETTERS = ("recipe", "preset", "experiment", "sweep", "tune", "value", "env", "dynamics", "policy", "debug", "shrink")
MACHINE = ("logger.", "launcher.", "runtime.", "env.", "name", "sweep_name", "init_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/options.md and docs/metrics.md")
    if parser.parse_args().write:
        (ROOT / "docs" / "options.md").write_text(table(CONF), encoding="utf-8")
        (ROOT / "docs" / "metrics.md").write_text(metrics.table(), encoding="utf-8")
        return
    options = [o for o in declared(CONF) if not o.key.startswith(MACHINE)]
    unused, passed = unset(options), set(by_tests())
    untested = [option for option in unused if option.key.rpartition(".")[2] not in passed]
    for option in unused:
        note = "without use: no test passes it either" if option in untested else "a test passes it to a constructor"
        print(f"{option.key:40} {option.default:10} conf/{option.file}:{option.line:<4} {note}".rstrip())
    print(f"{len(unused)} of {len(options)} settings are set by no config, document or command line of a test")
    print(f"{len(untested)} of them are without use: no test passes them to a constructor either")


def unset(options: list[Option]) -> list[Option]:
    """Those that no config file gives another value, and no document or test names as KEY=VALUE."""
    written = set(by_files()) | set(by_words())

    # `dynamics.trainer: null` of a model without one is there to be set by `dynamics.trainer.batch` of debug=smoke.
    written |= {group for key in written for group in prefixes(key)}
    return [option for option in options if option.key not in written]


def by_tests() -> Iterator[str]:
    """Names of arguments that tests pass to constructors: `unimix=0.1` or `"unimix": 0.1`."""
    for file in ROOT.glob("tests/**/*.py"):
        text = file.read_text(encoding="utf-8")
        yield from re.findall(r"\b([a-z_0-9]+)=(?!=)", text)
        yield from re.findall(r"\"([a-z_0-9]+)\": ", text)


def by_files() -> Iterator[str]:
    """Keys that files of settings give a value, beside the file that declares them."""
    for group in SETTERS:
        for file in (CONF / group).rglob("*.yaml"):
            content = presets.read(file)
            bases = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
            if group in ("dynamics", "policy", "env") and not bases and file.parent.name == group:
                continue  # it declares what it sets
            root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            nested = file.parent.parent == CONF and not file.read_text().startswith("# @package _global_")
            prefix = f"{group}." if nested and group in ("dynamics", "policy") else ""
            if group in ("dynamics", "policy") and file.parent.name != group:
                prefix = f"{group}."  # conf/dynamics/ensemble/mbpo.yaml
            if group == "tune":
                yield from (key for name, node in pairs(root) if name == "space" for key, _ in pairs(node))
            for key, _ in leaves(root, prefix):
                yield re.sub(r"^(budget|\w+=[\w|]+)\.", "", key)


def by_words() -> Iterator[str]:
    """Keys of KEY=VALUE in documents, tests, the Makefile and recorded commands."""
    places = [*ROOT.glob("docs/**/*"), *ROOT.glob("tests/**/*.py"), ROOT / "README.md", ROOT / "Makefile"]
    places += [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("conf/**/*.yaml")]
    for place in places:
        if (
            place.suffix in (".md", ".py", ".csv", ".yaml", "")
            and place.is_file()
            and place.name not in ("options.md", "metrics.md")
        ):
            text = place.read_text(encoding="utf-8")
            yield from re.findall(r"(?<![\w.])([a-z_]+(?:\.[a-z_0-9]+)*)=(?!=)", text)
            yield from re.findall(r"\"([a-z_]+(?:\.[a-z_0-9]+)+)\": ", text)


if __name__ == "__main__":
    main()
