"""Every name that the package logs is in the table of metrics, and the table names nothing else."""

from __future__ import annotations

import re

import pytest

from mbrl_lab.config import CONF, ConfigError, check, compose_config
from mbrl_lab.config.composition import PACKAGE
from mbrl_lab.config.metrics import MEANINGS, meaning, table
from mbrl_lab.config.renamed import METRICS

PHASES = "model|policy|planner|actions|train|eval|final|time|replay|runtime"


def in_code() -> set[str]:
    """Names as they stand in the code; `{...}` of an f-string is a word."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        if file.name not in ("metrics.py", "renamed.py", "messages.py"):
            text = file.read_text(encoding="utf-8")
            found |= set(re.findall(rf'f?"((?:{PHASES})/[a-z_0-9/{{}}: *.]+)"', text))
    return {re.sub(r"\{[^}]*\}", "x", name) for name in found}


def test_the_page_is_up_to_date() -> None:
    stored = (CONF.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert stored == table(), "run python benchmarks/options.py --write"


def test_names_in_the_code_are_in_the_table() -> None:
    plain = [re.sub(r"<(\w+)>", r"\1", name) for name in MEANINGS]
    patterns = [re.compile(re.sub(r"<\w+>", r"\\w+", name)) for name in MEANINGS]

    def known(name: str) -> bool:
        """A name that is put together may stand for several."""
        wild = re.compile(re.escape(name).replace("x", r"[\w/]+"))
        return any(pattern.fullmatch(name) for pattern in patterns) or any(map(wild.fullmatch, plain))

    names = in_code()
    assert len(names) > 60
    assert not {name for name in names if not known(name)}


def test_meanings() -> None:
    assert (
        meaning("actions/3") and meaning("model/holdout/coverage_50") and meaning("model/openloop/obs/ball_recall_10")
    )
    assert meaning("model/loss") is None and meaning("mine/score") is None


def test_old_names_are_answered() -> None:
    assert all(meaning(new) and not meaning(old) for old, new in METRICS.items())
    old = "model/loss"
    with pytest.raises(ConfigError, match=rf"^stop\.metric is {old}, which is now {METRICS[old]}$"):
        check(compose_config([f"stop.metric={old}", "stop.target=1"]))
