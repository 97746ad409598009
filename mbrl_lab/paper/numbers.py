"""Numbers: every value of a paper under a key, with the runs that it comes from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mbrl_lab.paper.document import Number, Span, Tabular
from mbrl_lab.report.page.content import NUMERIC, Table, make_table
from mbrl_lab.report.page.runs import Run
from mbrl_lab.report.tables import Row


class Numbers:
    """What numbers.json holds."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.runs: dict[str, list[str]] = {}  # names of the runs behind each value
        self.figures: dict[str, list[str]] = {}

    def add(self, key: str, value: object, runs: Sequence[Run]) -> Number:
        """A number of the text. Keys are letters, digits, dots and dashes; equal ones get a number behind them."""
        names = [run.name for run in runs]
        key = word = re.sub(r"[^A-Za-z0-9.]+", "-", key).strip("-")
        count = 2
        while key in self.values and (self.values[key], self.runs[key]) != (str(value), names):
            key, count = f"{word}-{count}", count + 1
        self.values[key], self.runs[key] = str(value), names
        return Number(key, str(value))

    def figure(self, stem: str, runs: Sequence[Run]) -> None:
        """A picture, whose numbers are those of its runs."""
        self.figures[stem] = [run.name for run in runs]

    def table(self, key: str, table: Table, runs: Sequence[Sequence[Run]]) -> Tabular:
        """A table of the report, whose cells with a number get the runs of their row."""
        rows = []
        for k, (row, members) in enumerate(zip(table.rows, runs, strict=True)):
            cells: list[Span] = []
            for column, cell in zip(table.columns, row, strict=True):
                number = any(map(str.isdigit, cell)) and NUMERIC.fullmatch(cell)
                cells.append(self.add(f"{key}.{k + 1}.{column}", cell, members) if number else cell)
            rows.append(cells)
        return Tabular(table.caption, table.columns, rows)

    def rows(self, key: str, caption: str, rows: Sequence[Row], runs: Sequence[Sequence[Run]]) -> list[Tabular]:
        """The same of rows as the report's functions make them; [] without rows."""
        table = make_table(caption, rows)
        return [self.table(key, table, runs)] if table else []

    def sheet(self, runs: Sequence[Run]) -> dict[str, Any]:
        """numbers.json: value and runs of each key, runs of each figure, and what each run is."""
        about = {
            run.name: {
                "folder": str(run.folder.path),
                "command": run.command,
                "state": run.state,
                "commit": (run.origin.get("git") or {}).get("commit"),
            }
            for run in runs
        }
        numbers = {key: {"value": value, "runs": self.runs[key]} for key, value in self.values.items()}
        return {"format": 1, "numbers": numbers, "figures": self.figures, "runs": about}
