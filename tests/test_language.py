"""One idea has one name, the field's: words of an earlier vocabulary occur nowhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

INSTEAD = {
    "afford": "check_memory",
    "affordable": "fp32_if_small",
    "alike": "equal",
    "anew": "again",
    "deem": "expect",
    "deemed": "expected",
    "doubt": "disagreement",
    "doubts": "disagreement",
    "dream": "imagined rollout",
    "dreams": "imagined rollouts",
    "dreamt": "imagined",
    "earn": "adaptive rollout length, return",
    "earned": "trusted_horizon, return",
    "earns": "return",
    "enrich": "oversample_events",
    "felt": "features",
    "foresee": "predict",
    "foreseen": "predicted",
    "judge": "evaluate, validate",
    "judged": "evaluated, validated",
    "judgement": "evaluation, validation",
    "judges": "evaluates, validates",
    "lesson": "sample_batch",
    "mend": "fix",
    "mended": "fixed",
    "perceptron": "MLP",
    "practise": "fit_sequences",
    "regret": "actor_loss",
    "renew": "fit_and_rollout",
    "renewed": "reset",
    "seldom": "rarely",
    "told": "target, prediction, observed",
    "unsquared": "depth_to_space",
    "waking": "real rollout",
}
"""Word -> what the field says."""

MEANT = {
    ("mbrl_lab/config/renamed.py", "earn"),  # an old setting, and an old metric, for which the new names are shown
    ("mbrl_lab/config/renamed.py", "earned"),
    ("benchmarks/structure.py", "dreamt"),  # the name of a protocol in older versions
    ("docs/algos/dreamer.md", "dream"),  # the title of a paper
}


def files() -> Iterator[Path]:
    """Code, comments of settings, and pages; results and generated pages keep what was measured."""
    for pattern in (
        "mbrl_lab/**/*.py",
        "benchmarks/**/*.py",
        "tests/**/*.py",
        "conf/**/*.yaml",
        "docs/**/*.md",
        "*.md",
    ):
        yield from ROOT.glob(pattern)


def test_words_of_the_earlier_vocabulary_are_gone() -> None:
    word = re.compile(rf"(?<![a-z])({'|'.join(INSTEAD)})(?![a-z])", re.I)
    found = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if name == "tests/test_language.py":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for old in {x.lower() for x in word.findall(line)} - {w for file, w in MEANT if file == name}:
                found.append(f"{name}:{number}: {old}; say {INSTEAD[old]}")
    assert found == []
