"""Groups of runs by environment, and the tables of their scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from mbrl_lab.report.compare import (
    Array,
    Group,
    aligned,
    grouped,
    last,
    range_text,
    score_columns,
    threshold_columns,
    threshold_of,
    whole,
)
from mbrl_lab.report.page.runs import Run
from mbrl_lab.report.tables import Row
from mbrl_lab.scores import Reference, interquartile_mean, interval, probability_of_improvement

AT_LEAST = 2
"""Number of environments from which scores are aggregated over environments."""


FINAL = "final policy"
"""Whose score it is, if all seeds have a final evaluation."""


class Environment(NamedTuple):
    """The groups of runs on one environment, of evaluated runs only."""

    name: str
    groups: list[Group]
    reference: Reference | None
    threshold: float | None


def environments(runs: Sequence[Run], threshold: float | None) -> list[Environment]:
    """Runs by environment and by settings. A `threshold` of the user's replaces those of the environments."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if run.evaluated:
            found.setdefault(run.environment, []).append(run)

    return [
        Environment(
            name=name,
            groups=grouped([run.curve for run in members]),
            reference=members[0].reference,
            threshold=threshold_of(members[0].settings) if threshold is None else threshold,
        )
        for name, members in found.items()
    ]


def group_labels(found: Sequence[Environment]) -> list[str]:
    """Every label, in the order of appearance: a label has the same colour in all environments."""
    return list(dict.fromkeys(group.label for environment in found for group in environment.groups))


def with_evaluations(group: Group) -> Group:
    """The group without runs that were not evaluated in training, which have no curve."""
    return Group(group.label, [curve for curve in group.curves if len(curve.steps)])


def final_scores(group: Group) -> tuple[Array, str]:
    """[S] scores of the final policies, or at the last evaluation that all seeds have; and which of the two."""
    finals = np.array([curve.final for curve in group.curves])
    if not np.isnan(finals).any():
        return finals, FINAL
    group = with_evaluations(group)
    if not group.curves:
        return np.zeros(0), "no common evaluation"
    steps, _, returns = aligned(group)
    if not len(steps):
        return np.zeros(0), "no common evaluation"
    return returns[:, -1], f"evaluation at {whole(last(steps))} steps"


def score_table(environment: Environment) -> list[Row]:
    """A row for each group: its final scores over seeds, and steps and seconds to the threshold."""
    rows = []
    for group in environment.groups:
        scores, source = final_scores(group)
        row: Row = {"algorithm": group.label, "seeds": len(scores)} | score_columns(scores[:, None][:, : len(scores)])
        if environment.reference is not None:
            row["human-normalised IQM"] = normalised_text([environment.reference.normalise(scores)])
        row |= threshold_columns(with_evaluations(group), environment.threshold)
        rows.append(row | {"score from": source})
    return rows


def normalised_text(strata: Sequence[Array]) -> str:
    """IQM and interval of human-normalised scores."""
    if not all(map(len, strata)):
        return "-"
    low, high = interval(*(scores[:, None] for scores in strata))
    middle = interquartile_mean(np.concatenate(strata))
    return f"{middle:.3f} ({range_text(low[0], high[0], '.3f')})"


def scores_by_group(found: Sequence[Environment]) -> dict[str, dict[str, Array]]:
    """label -> environment -> [S] final scores, without groups that have none."""
    scores: dict[str, dict[str, Array]] = {label: {} for label in group_labels(found)}
    for environment in found:
        for group in environment.groups:
            values, _ = final_scores(group)
            if len(values):
                scores[group.label][environment.name] = values
    return scores


def improvement_table(found: Sequence[Environment]) -> list[Row]:
    """A row for each pair of groups that share environments: the probability that X is better; of Y it is the rest."""
    scores = scores_by_group(found)
    rows = []
    for x, y in combinations(scores, 2):
        shared = [name for name in scores[x] if name in scores[y]]
        if shared:
            middle, low, high = probability_of_improvement([(scores[x][name], scores[y][name]) for name in shared])
            row: Row = {"X": x, "Y": y, "P(X > Y)": f"{middle:.3f}", "95 % interval": range_text(low, high, ".3f")}
            rows.append(row | {"environments": len(shared)})
    return rows


def aggregate_table(found: Sequence[Environment]) -> list[Row]:
    """Human-normalised IQM over environments, of the groups that have scores in all environments with a reference."""
    return [
        {"algorithm": label, "environments": len(strata), "runs": sum(map(len, strata))}
        | {"human-normalised IQM (95 % interval)": normalised_text(strata)}
        for label, strata in normalised_strata(found)
    ]


def normalised_strata(found: Sequence[Environment]) -> Iterator[tuple[str, list[Array]]]:
    """Label and human-normalised scores by environment, of groups with scores in all, if there are at least two."""
    references = {e.name: e.reference for e in found if e.reference is not None}
    if len(references) < AT_LEAST:
        return
    for label, scores in scores_by_group(found).items():
        if {*references} <= {*scores}:
            yield label, [reference.normalise(scores[name]) for name, reference in references.items()]
