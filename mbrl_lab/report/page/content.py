"""The content of the page, as plain values for the template."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mbrl_lab.report.compare import Group, keys_of, value
from mbrl_lab.report.page import charts
from mbrl_lab.report.page.groups import (
    Environment,
    aggregate_table,
    environments,
    group_labels,
    improvement_table,
    normalised_strata,
    score_table,
)
from mbrl_lab.report.page.media import files_of, in_turns, place
from mbrl_lab.report.page.runs import UNREADABLE, Run, Waiting
from mbrl_lab.report.tables import Row, number
from mbrl_lab.tracking.folder import headline, one_line

LONGEST_TABLE = 200
"""Rows of a CSV file that are shown."""


NUMERIC = re.compile(r"[-+\d.,%() ]*(?:(?:e[-+]?|to|of|nan|inf)[-+\d.,%() ]*)*")
"""Cells of a column that is aligned to the right: 1.5, 1e-3, "5 of 5", "1.2 to 1.4"."""


class Table(NamedTuple):
    """A table with its caption."""

    caption: str
    columns: list[str]
    rows: list[list[str]]

    @property
    def kinds(self) -> list[str]:
        """The class of each column: `number`, which is aligned to the right, or `text`."""
        columns = zip(*self.rows, strict=True)
        return ["number" if all(map(NUMERIC.fullmatch, column)) else "text" for column in columns]


def make_table(caption: str, rows: Sequence[Row]) -> Table | None:
    """A table of rows with the union of their keys; None without rows."""
    columns = keys_of(rows)
    cells = [[number(row.get(key, "-"), precision=5) for key in columns] for row in rows]
    return Table(caption, [key.replace("_", " ") for key in columns], cells) if rows else None


def content(
    runs: Sequence[Run],
    problems: Sequence[str],
    threshold: float | None,
    limit: int,
    link: Callable[[Path], str],
    waiting: Sequence[Waiting] = (),
) -> dict[str, Any]:
    """Everything that the page shows.

    Args:
        runs: to report.
        problems: a line for each folder that could not be read.
        threshold: return to count steps to; None: the environments' own.
        limit: bytes of pictures and videos that are embedded.
        link: address of a file that is not.
        waiting: jobs of sweeps that have not started.
    """
    states = [*(run.state for run in runs), *(job.state for job in waiting)]
    found = environments(runs, threshold)
    labels = group_labels(found)
    specs: dict[str, charts.Spec] = {}
    sections = [section(k, environment, labels, specs) for k, environment in enumerate(found)]
    return {
        "title": page_title(found, runs),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "states": {state: states.count(state) for state in dict.fromkeys(states)},
        "problems": [*problems, *remarks(runs, found)],
        "labels": [{"name": name, **style} for name, style in zip(labels, charts.style(labels), strict=True)],
        "sections": sections,
        "overall": overall(found, labels, specs),
        "settings": settings_table(found),
        "machines": machine_table(runs),
        "versions": version_table(runs),
        "runs": described(runs, limit, link),
        "waiting": waiting,
        "evaluations": make_table("Evaluations after training", evaluation_rows(runs)),
        "specs": specs,
    }


def page_title(found: Sequence[Environment], runs: Sequence[Run]) -> str:
    names = [environment.name for environment in found] or [run.name for run in runs][:1] or ["no run"]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def remarks(runs: Sequence[Run], found: Sequence[Environment]) -> list[str]:
    """Lines about runs that have nothing to show, or hold back the curve of their group."""
    lines = [f"{run.name}: nothing was evaluated yet" for run in runs if not run.evaluated]
    names = {run.curve.folder: run for run in runs}
    for environment in found:
        for group in environment.groups:
            ends = {curve.folder: curve.steps[-1] for curve in group.curves if len(curve.steps)}
            for folder, end in ends.items():
                if end < max(ends.values()) and names[folder].state != "running":
                    what = f"{names[folder].name} ({names[folder].state}) was last evaluated at {end:,.0f} steps"
                    lines.append(f"{what}: the curve of {group.label} on {environment.name} ends there")
    return lines


def section(k: int, environment: Environment, labels: Sequence[str], specs: dict[str, charts.Spec]) -> dict[str, Any]:
    """One environment: two charts of curves, the table of scores, the performance profile, and the numbers."""
    curves = charts.curve_rows(environment.groups)
    if any(len(curve.steps) for group in environment.groups for curve in group.curves):
        specs |= {f"{x}-{k}": charts.curve_chart(environment, labels, x) for x in ("steps", "seconds")}
    strata = charts.profile_strata(environment)
    if any(len(scores) > 1 for _, group in strata for scores in group):
        specs[f"profile-{k}"] = charts.profile_chart(strata, labels, "final return", environment.name)

    return {
        "id": f"environment-{k}",
        "name": environment.name,
        "threshold": environment.threshold,
        "charts": [key for key in (f"steps-{k}", f"seconds-{k}") if key in specs],
        "profile": f"profile-{k}" if f"profile-{k}" in specs else None,
        "scores": make_table(f"Final scores on {environment.name}", score_table(environment)),
        "improvement": make_table(
            f"Probability of improvement on {environment.name}", improvement_table([environment])
        ),
        "numbers": make_table(f"Curves on {environment.name}: IQM of the return over seeds, 95 % interval", curves),
    }


def overall(found: Sequence[Environment], labels: Sequence[str], specs: dict[str, charts.Spec]) -> dict[str, Any]:
    """Aggregates over environments, if there are several."""
    strata = list(normalised_strata(found))
    if strata:
        where = "all environments with a human score"
        specs["profile-all"] = charts.profile_chart(strata, labels, "human-normalised score", where)
    improvement = improvement_table(found) if len(found) > 1 else []
    return {
        "scores": make_table("Human-normalised scores over environments", aggregate_table(found)),
        "profile": "profile-all" if strata else None,
        "improvement": make_table("Probability of improvement over shared environments", improvement),
    }


def settings_table(found: Sequence[Environment]) -> Table | None:
    """The settings in which groups differ, a column for each group."""
    groups: list[tuple[str, Group]] = [
        (f"{group.label}, {environment.name}" if len(found) > 1 else group.label, group)
        for environment in found
        for group in environment.groups
    ]
    trees = [group.curves[0].settings for _, group in groups]
    families = [[group.curves[0].settings for group in environment.groups] for environment in found]
    # Environments differ by what they are; their settings count only among groups of one of them.
    shown = [key for key in differing(trees) if not key.startswith("env.") or any(differs(key, f) for f in families)]
    rows = [
        {"setting": key} | {label: str(value(tree, key)) for (label, _), tree in zip(groups, trees, strict=True)}
        for key in shown
    ]
    return make_table("Settings that differ between groups", rows)


def differing(trees: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings in which configs differ."""
    keys = [key for key in keys_of(trees) if differs(key, trees)]
    # Interpolations repeat an algorithm's parts inside of it; each difference is shown once.
    return [key for key in keys if key.removeprefix("algo.") not in keys or not key.startswith("algo.")]


def differs(key: str, trees: Sequence[Mapping[str, Any]]) -> bool:
    return len({str(value(tree, key)) for tree in trees}) > 1


def machine_table(runs: Sequence[Run]) -> Table | None:
    """The machines, and which runs began on them."""
    rows: dict[str, Row] = {}
    for run in runs:
        hardware = run.origin.get("hardware")
        if isinstance(hardware, dict):
            row = {key: text(value) for key, value in hardware.items()}
            rows.setdefault(str(row), row | {"runs": 0})["runs"] += 1
    return make_table("Machines", list(rows.values()))


def version_table(runs: Sequence[Run]) -> Table | None:
    """Commits, Python and packages. Packages of equal version in all runs are left out, but for torch and its like."""
    rows: dict[str, Row] = {}
    for run in runs:
        git, packages = run.origin.get("git") or {}, run.origin.get("packages") or {}
        commit = str(git.get("commit") or "unknown")[:12] + (" (changed files)" if git.get("dirty") else "")
        row: Row = {"commit": commit, "Python": text(run.origin.get("python"))}
        row |= {name: text(packages.get(name)) for name in ("mbrl_lab", "torch", "numpy", "gymnasium", "mujoco")}
        row["precision"] = text(run.origin.get("precision"))
        rows.setdefault(str(row), row | {"runs": 0})["runs"] += 1
    return make_table("Versions", list(rows.values()))


def text(value: Any) -> str:
    """A value of a JSON file in a cell."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else str(value)


def described(runs: Sequence[Run], limit: int, link: Callable[[Path], str]) -> list[dict[str, Any]]:
    """Each run: state, command, error, pictures, videos, numbers of the diagnosis."""
    lists = [files_of(run.folder) for run in runs]
    media = place(((runs[k].folder, path) for k, path in in_turns(lists)), limit, link)
    return [
        {
            "id": f"run-{k}",
            "name": run.name,
            "seed": run.curve.seed,
            "environment": run.environment,
            "state": run.state,
            "step": int(run.status.get("step") or 0),
            "steps": run.settings.get("steps"),
            "folder": str(run.folder.path),
            "command": run.command,
            "headline": headline(str(run.status["error"])) if run.status.get("error") else None,
            "error": run.status.get("error"),
            "host": (run.origin.get("hardware") or {}).get("host"),
            "started": str(run.origin.get("started", ""))[:16].replace("T", " "),
            "media": [media[path] for path in files],
            "tables": diagnosis_tables(run),
        }
        for k, (run, files) in enumerate(zip(runs, lists, strict=True))
    ]


def evaluation_rows(runs: Sequence[Run]) -> list[Row]:
    """A row for each file in evaluations/, which `mbrl-lab evaluate` writes: its statistics, not every episode."""
    rows = []
    for run in runs:
        for path in sorted(run.folder.evaluations.glob("*.json")):
            try:
                numbers = dict(json.loads(path.read_text(encoding="utf-8")))
            except UNREADABLE as error:
                numbers = {"damaged": one_line(error)}
            numbers.pop("played", None)
            rows.append({"run": run.name} | numbers)
    return rows


def diagnosis_tables(run: Run) -> list[Table]:
    """The numbers of diagnostics/."""
    tables = []
    for path in sorted([*run.folder.diagnostics.rglob("*.json"), *run.folder.diagnostics.rglob("*.csv")]):
        inside = path.relative_to(run.folder.path).as_posix()
        try:
            rows = read_rows(path)
        except UNREADABLE as error:
            rows = [{"damaged": one_line(error)}]
        if shown := make_table(inside, rows[:LONGEST_TABLE]):
            tables.append(shown)
    return tables


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file, or the entries of a JSON file."""
    if path.suffix == ".json":
        entries = dict(json.loads(path.read_text(encoding="utf-8")))
        return [{"metric": key, "value": "-" if value is None else value} for key, value in entries.items()]
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: shortened(cell) for key, cell in row.items()} for row in csv.DictReader(file)]


def shortened(cell: Any) -> Any:
    """A number of a CSV file as a number, other cells as they are."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell
