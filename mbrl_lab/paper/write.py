"""Write a paper's folder: text, numbers, references and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mbrl_lab.config import ConfigError
from mbrl_lab.paper.document import Document, cited
from mbrl_lab.paper.latex import definitions, latex
from mbrl_lab.paper.literature import library
from mbrl_lab.paper.markdown import markdown
from mbrl_lab.paper.numbers import Numbers
from mbrl_lab.paper.sections import Study, document_of
from mbrl_lab.report.page.groups import environments
from mbrl_lab.report.page.runs import Run
from mbrl_lab.tracking.atomic import new_folder


def write_paper(runs: Sequence[Run], out: Path, threshold: float | None = None) -> Document:
    """Write the folder `out`, which must be missing or empty: a person may have written sentences into another.

    Args:
        runs: as `read_runs` gives them.
        out: the folder.
        threshold: return to count steps to; None: the environments' own.

    ConfigError if nothing was evaluated; ValueError if there is something in the folder.
    """
    evaluated = [run for run in runs if run.evaluated]
    if not evaluated:
        names = ", ".join(run.name for run in runs[:3])
        raise ConfigError(f"nothing was evaluated yet in {names}: a paper needs evaluations, see eval.every")

    with new_folder(out) as place:
        (place / "figures").mkdir()
        numbers = Numbers()
        document = document_of(Study(evaluated, environments(evaluated, threshold), numbers, place / "figures"))
        for name, text in {
            "paper.md": markdown(document, library()),
            "paper.tex": latex(document),
            "numbers.tex": definitions(numbers.values),
            "numbers.json": json.dumps(numbers.sheet(evaluated), indent=2) + "\n",
            "references.bib": "\n".join(library()[key].source for key in sorted(cited(document))) + "\n",
        }.items():
            (place / name).write_text(text, encoding="utf-8")
    return document
