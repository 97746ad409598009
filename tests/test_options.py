"""The table of options is made from what declares them: comments and defaults in conf/, and the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbrl_lab.config import CONF
from mbrl_lab.config.options import Option, declared, options_of, table
from mbrl_lab.config.rules import RULES


def test_the_table_is_up_to_date() -> None:
    stored = (CONF.parent / "docs" / "options.md").read_text(encoding="utf-8")
    assert stored == table(CONF), "run python benchmarks/options.py --write"


def test_every_setting_of_a_part_says_what_it_means() -> None:
    """Environments name arguments of other packages, and a variation of a part need not repeat its words."""
    explained = {option.key for option in declared(CONF) if option.meaning}
    parts = ("algo/", "dynamics/", "planner/", "policy/", "encoder/", "value/", "runtime/", "train.yaml")
    silent = [o for o in declared(CONF) if o.file.startswith(parts) and o.key not in explained]
    assert not silent


def test_rules_are_for_options_that_are_declared() -> None:
    assert not set(RULES) - {option.key for option in declared(CONF)} - PASSED_ON


PASSED_ON = {
    *("dynamics.termination.bounds", "dynamics.termination.hazard", "env.score.random", "env.score.human"),
    *("policy.resets.n_step_start", "policy.resets.gamma_start"),
}
"""Their default is another setting, or they stand in braces."""


@pytest.mark.parametrize("header", ["# @package _global_\n", ""])
def test_an_option_as_it_is_written(header: str, tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    file = tmp_path / "algo" / "mine.yaml"
    inner = (
        "warmup: 1_000  # random steps\nother: ${seed}\n_target_: mine.Algo\nfit: {_target_: mine.fit}\nsizes: [1, 2]\n"
    )
    nested = "algo:\n" + "".join(f"  {line}\n" for line in inner.splitlines()) if header else inner
    file.write_text(header + nested)
    first = 3 if header else 1
    assert list(options_of(tmp_path, file)) == [
        Option("algo.warmup", "1_000", "random steps", RULES["algo.warmup"][1], "algo/mine.yaml", first),
        Option("algo.sizes", "[1, 2]", "", "", "algo/mine.yaml", first + 4),
    ]


def test_an_option_of_a_file_with_a_package_of_its_own() -> None:
    keys = [option.key for option in options_of(CONF, CONF / "logger" / "wandb.yaml")]
    assert keys[:2] == ["logger.wandb.project", "logger.wandb.entity"]
