"""The sections of a paper, from title to appendix. What a person must write is a `Todo`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mbrl_lab.paper import figures
from mbrl_lab.paper.document import (
    Block,
    Cite,
    Code,
    Document,
    Heading,
    Listing,
    Paragraph,
    Picture,
    Span,
    Tabular,
    Todo,
    paragraph,
)
from mbrl_lab.paper.literature import PARTS, STATISTICS, TOOLS, environment_keys
from mbrl_lab.paper.methods import Member, Method, ablations, described, methods_of, parts_of, settings_tables
from mbrl_lab.paper.numbers import Numbers
from mbrl_lab.report.compare import Array, Group, score_columns, threshold_columns, value
from mbrl_lab.report.page.content import machine_table, version_table
from mbrl_lab.report.page.groups import (
    FINAL,
    Environment,
    aggregate_table,
    final_scores,
    improvement_table,
    score_table,
    with_evaluations,
)
from mbrl_lab.report.page.runs import Run
from mbrl_lab.report.tables import Row
from mbrl_lab.scores import RESAMPLES, interquartile_mean, probability_of_improvement


class Study(NamedTuple):
    """What a paper is about, and where its numbers and figures go."""

    runs: Sequence[Run]
    found: list[Environment]
    numbers: Numbers
    figures: Path

    def of(self, *groups: Group) -> list[Run]:
        """The runs of some groups."""
        inside = {curve.folder for group in groups for curve in group.curves}
        return [run for run in self.runs if run.curve.folder in inside]

    @property
    def members(self) -> list[Member]:
        """Every configuration with its environment and its runs."""
        return [(e, group, self.of(group)) for e in self.found for group in e.groups]


def document_of(study: Study) -> Document:
    """The whole paper. Figures are written on the way."""
    methods = methods_of(study.members)
    leaders = [best(study, environment) for environment in study.found]
    title = f"{listed([m.name for m in methods])} on {listed([e.name for e in study.found])}"
    sections: dict[str, list[Block]] = {
        "Introduction": [
            paragraph(Todo("the problem, why it matters, and what is missing in earlier work")),
            paragraph(Todo("the question of this paper, its answer in a sentence, and the contributions")),
        ],
        "Related work": related(methods),
        "Methods": [
            paragraph("Pseudo-code and descriptions are those of the code. ", Todo("what is new here, if anything")),
            *described(methods),
        ],
        "Experiments": experiments(study, methods),
        "Results": [
            *(block for e, leader in zip(study.found, leaders, strict=True) for block in results(study, e, leader)),
            *overall(study),
        ],
        "Discussion": discussion(study),
        "Conclusion": [paragraph(Todo("what was found, what it means, and what should be done next"))],
        "Appendix: settings": [
            paragraph("All settings of the algorithms' parts, from the stored configs of the runs."),
            *settings_tables(methods, study.numbers),
        ],
        "Appendix: commands": commands(study),
    }
    blocks = [block for name, section in sections.items() for block in (Heading(1, name), *section)]
    return Document(title, abstract(study, title, leaders), blocks)


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def plural(things: Sequence[object]) -> str:
    """The ending of a noun after the number of things."""
    return "" if len(things) == 1 else "s"


def abstract(study: Study, title: str, leaders: Sequence[Sequence[Span]]) -> Paragraph:
    return paragraph(
        Todo("one or two sentences: the problem and why it matters"),
        f" We {'compare' if len(study.members) > 1 else 'evaluate'} {title}, in ",
        study.numbers.add("runs", len(study.runs), study.runs),
        f" run{plural(study.runs)} of ",
        study.numbers.add("configurations", len(study.members), study.runs),
        f" configuration{plural(study.members)}. ",
        *(span for leader in leaders for span in leader),
        Todo("what follows from this"),
    )


def best(study: Study, environment: Environment) -> list[Span]:
    """A sentence on the configuration with the highest interquartile mean, and how probably it is better."""
    pairs = [(group, *final_scores(group)) for group in environment.groups]
    ranked = sorted((p for p in pairs if len(p[1])), key=lambda pair: -float(interquartile_mean(pair[1])))
    if not ranked:
        return [f"On {environment.name} there is no evaluation that all seeds have. "]
    first, scores, _ = ranked[0]
    final = all(source == FINAL for _, _, source in ranked)
    what = "of the final return" if final else "of the return at the last evaluation that its seeds have"
    text = f"On {environment.name}, {first.label} has the highest interquartile mean (IQM) {what}, "
    if len(ranked) == 1:
        text = f"On {environment.name}, {first.label} alone has scores; the interquartile mean (IQM) {what} is "
    spans: list[Span] = [text, *iqm(study, environment, first, scores)]
    # Of one run against another there is no probability.
    if len(ranked) > 1 and min(len(scores), len(ranked[1][1])) > 1:
        second, others, _ = ranked[1]
        probability, *_ = probability_of_improvement([(scores, others)])
        key = f"{environment.name}.probability.{first.label}.{second.label}"
        spans += [f". A run of it is better than one of the next, {second.label}, with probability "]
        spans += [study.numbers.add(key, f"{probability:.2f}", study.of(first, second))]
    return [*spans, ". "]


def iqm(study: Study, environment: Environment, group: Group, scores: Array) -> list[Span]:
    """The interquartile mean of a group and its interval."""
    columns, runs = score_columns(scores[:, None]), study.of(group)
    key = f"{environment.name}.{group.label}"
    spans: list[Span] = [study.numbers.add(f"{key}.IQM", columns["IQM"], runs)]
    if len(scores) == 1:
        return [*spans, " (one run)"]
    if columns["95 % of IQM"] != "-":
        spans += [" (95 % interval ", study.numbers.add(f"{key}.interval", columns["95 % of IQM"], runs), ")"]
    return spans


def related(methods: Sequence[Method]) -> list[Block]:
    blocks: list[Block] = []
    for method in methods:
        keys = tuple(key for name, _ in parts_of(method.config) for key in PARTS.get(name, ()))
        cite: list[Span] = [" builds on ", Cite(tuple(dict.fromkeys(keys))), "."] if keys else ["."]
        blocks.append(paragraph(method.name, *cite, " ", Todo(f"how {method.name} relates to this paper's question")))
    return [*blocks, paragraph(Todo("other work on the same question, and how this paper differs"))]


def experiments(study: Study, methods: Sequence[Method]) -> list[Block]:
    """Environments, configurations, baselines, machines and versions."""
    rows = [{"environment": e.name, "configuration": group.label} | budget(runs) for e, group, runs in study.members]
    members = [runs for _, _, runs in study.members]
    free = [method.name for method in methods if not method.learns_a_model]
    baselines = f"Baselines without a model: {listed(free)}. " if free else "No run is of a baseline without a model. "
    keys = dict.fromkeys(key for run in study.runs for key in environment_keys(run.folder.config()))
    every, cite = [list(study.runs)], Cite((*TOOLS, *keys))
    return [
        paragraph("The runs use PyTorch, Gymnasium and Hydra ", cite, ". ", Todo("what each task asks for")),
        *study.numbers.rows("experiments", "Configurations, and the steps and seeds of their runs", rows, members),
        paragraph(baselines, Todo("why these baselines, and how their settings were chosen")),
        paragraph(
            "Scores are returns of the final policy, or of the last evaluation that all seeds have. We report "
            "interquartile means over seeds, with stratified bootstrap intervals of 95 % ",
            Cite((STATISTICS,)),
            f" from {RESAMPLES:,} resamples. A configuration with one run has no interval.",
        ),
        *(block for table in (machine_table(study.runs), version_table(study.runs)) if table
          for block in [study.numbers.table(table.caption, table, every * len(table.rows))]),
    ]  # fmt: skip


def budget(runs: Sequence[Run]) -> Row:
    """Steps, evaluations and seeds of a group, as far as its runs agree."""

    def common(key: str) -> str:
        return ", ".join(dict.fromkeys(str(value(run.settings, key)) for run in runs))

    return {
        "steps": common("steps"),
        "evaluated every": common("eval.every"),
        "episodes": common("eval.episodes"),
        "final episodes": common("eval.final_episodes"),
        "seeds": ", ".join(str(run.curve.seed) for run in runs),
        "state": ", ".join(dict.fromkeys(run.state for run in runs)),
    }


def results(study: Study, environment: Environment, leader: Sequence[Span]) -> list[Block]:
    """Curves, sample efficiency, final scores, profile and frames of an environment, after a sentence on its leader."""
    name, numbers, groups = environment.name, study.numbers, [(g, study.of(g)) for g in environment.groups]
    runs, word = study.of(*environment.groups), re.sub(r"[^A-Za-z0-9]+", "-", environment.name).strip("-")
    blocks: list[Block] = [Heading(2, name), paragraph(*leader, Todo("what else the curves show"))]

    def picture(stem: str, drawn: Sequence[Run], caption: str, width: float = 1.0) -> None:
        if drawn:
            numbers.figure(stem, drawn)
            blocks.append(Picture(stem, caption, width))

    stem = f"curves-{word}"
    drawn = figures.draw_curves(environment, study.figures / stem)
    picture(stem, runs if drawn else [], f"{name}: IQM of the return of evaluations over seeds, with its 95 % interval")

    if environment.threshold is not None:
        rows = [
            {"configuration": group.label} | threshold_columns(with_evaluations(group), environment.threshold)
            for group in environment.groups
        ]
        caption = f"Sample efficiency on {name}: medians over seeds until an evaluation reaches the threshold"
        blocks += numbers.rows(f"{name}.threshold", caption, rows, [members for _, members in groups])

    scores = score_table(environment._replace(threshold=None))
    blocks += numbers.rows(f"{name}.scores", f"Final scores on {name}", scores, [members for _, members in groups])
    of = {group.label: members for group, members in groups}
    # Of one run against another there is no probability.
    pairs = [x for x in improvement_table([environment]) if min(len(of[x["X"]]), len(of[x["Y"]])) > 1]
    both = [[*of[row["X"]], *of[row["Y"]]] for row in pairs]
    pairs = [{key: cell for key, cell in row.items() if key != "environments"} for row in pairs]
    blocks += numbers.rows(f"{name}.improvement", f"Probability of improvement on {name}", pairs, both)

    stem = f"profile-{word}"
    profiled = figures.draw_profiles(environment, study.figures / stem)
    picture(stem, runs if profiled else [], f"{name}: performance profiles of the final scores", 0.6)
    stem = f"frames-{word}"
    picture(stem, figures.draw_frames(groups, study.figures / stem), f"{name}: an episode of the final policy")
    return blocks


def overall(study: Study) -> list[Block]:
    """Aggregates over several environments."""
    rows = aggregate_table(study.found)
    tables = study.numbers.rows(
        "overall", "Human-normalised scores over environments", rows, [list(study.runs)] * len(rows)
    )
    return [Heading(2, "All environments"), *tables] if tables else []


def discussion(study: Study) -> list[Block]:
    """Ablations: configurations that differ in one setting."""
    rows: list[list[Span]] = []
    for environment in study.found:
        for key, *groups in ablations(environment):
            one, other = (final_scores(group)[0] for group in groups)
            if not len(one) or not len(other):
                continue
            word = f"ablation.{len(rows) + 1}"
            row: list[Span] = [environment.name, Code(key)]
            for letter, group, scores in zip("AB", groups, (one, other), strict=True):
                setting, runs = value(group.curves[0].settings, key), study.of(group)
                row.append(study.numbers.add(f"{word}.value-{letter}", setting, runs))
                row.append(study.numbers.add(f"{word}.IQM-{letter}", score_columns(scores[:, None])["IQM"], runs))
            better, *_ = probability_of_improvement([(other, one)])
            single = min(len(one), len(other)) == 1
            row.append("-" if single else study.numbers.add(f"{word}.probability", f"{better:.2f}", study.of(*groups)))
            rows.append(row)
    columns = ["environment", "setting", "value A", "IQM A", "value B", "IQM B", "P(B > A)"]
    found: list[Block] = (
        [Tabular("Ablations: configurations that differ in one setting", columns, rows)] if rows else []
    )
    none = "" if rows else "No two configurations of these runs differ in one setting alone. "
    return [
        *found,
        paragraph(none, Todo("what explains the results; which settings matter, and why")),
        paragraph(Todo("limits: environments, seeds, budgets, and what could change the result")),
    ]


def commands(study: Study) -> list[Block]:
    """The command of each configuration, with all of its seeds."""
    blocks: list[Block] = []
    for _, _, runs in study.members:
        gone = ("seed=", "hydra.run.dir=", "name=", "sweep_name=")
        words = [word for word in runs[0].folder.overrides() if not word.startswith(gone)]
        seeds, many = ",".join(str(run.curve.seed) for run in runs), ["-m"] if len(runs) > 1 else []
        blocks.append(Listing(shlex.join(["mbrl-lab", "train", *many, *words, f"seed={seeds}"])))
    return blocks
