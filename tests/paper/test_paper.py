"""mbrl-lab paper: every number has its runs, both texts say the same, and nothing of a config breaks them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from runs import put_run

from mbrl_lab import algo, dynamics, planner, policy
from mbrl_lab.cli.paper import main
from mbrl_lab.paper import literature
from mbrl_lab.paper.document import Cite, Code, Document, Heading, Paragraph, Span, Tabular, cited, spans_of
from mbrl_lab.paper.latex import definitions, escape
from mbrl_lab.paper.markdown import span_text
from mbrl_lab.paper.methods import describe
from mbrl_lab.paper.numbers import Numbers
from mbrl_lab.paper.sections import Study, best, overall
from mbrl_lab.paper.write import write_paper
from mbrl_lab.policy import SAC
from mbrl_lab.report.page.groups import environments
from mbrl_lab.report.page.runs import read_runs
from mbrl_lab.tracking.video import write_video

FILES = ["figures", "numbers.json", "numbers.tex", "paper.md", "paper.tex", "references.bib"]
ODD = r"50%_of #1 & {x} ~ ^ \end{verbatim} $5 <b> | `q` é 日本"


def configured(folder: Path, algo: str, policy: str, returns: list[float], seed: int, **more: object) -> Path:
    """A run of an algorithm whose policy is a class of its own."""
    run = put_run(folder, returns, final=returns[-1], algo=algo, seed=seed, **more)
    text = (run / "config.yaml").read_text()
    text = re.sub(r"_target_: x\.\w+", f"_target_: mbrl_lab.algo.{'OffPolicy' if policy else 'MPC'}", text)
    named = f"\npolicy:\n  _target_: mbrl_lab.policy.{policy}\n" if policy else ""
    text = text.replace("algo:\n", f"algo:\n  policy: {{_target_: mbrl_lab.policy.{policy}}}\n") if policy else text
    (run / "config.yaml").write_text(text + named)
    if isinstance(planner := more.get("planner"), dict):
        (run / "overrides.txt").write_text(
            f"algo={algo}\nplanner.horizon={planner['horizon']}\nseed={seed}\n+note={ODD}\n"
        )
    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three algorithms on Pendulum, one of them with two values of a setting, and one on another task."""
    place = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        configured(place / f"sac-{seed}", "sac", "SAC", [1.0, 2.0 + seed, 3.5 + seed], seed)
        for horizon in (5, 15):
            planner = {"_target_": "mbrl_lab.planner.CEM", "horizon": horizon, "note": ODD}
            returns = [1.5, 2.0, horizon + seed / 4]
            configured(place / f"mpc{horizon}-{seed}", "mpc", "", returns, seed, planner=planner, a_50={"x%_#&": 1})
    configured(place / "other", "sac", "SAC", [-2.25], 0, env={"make": {"id": "Acrobot-v1"}})
    (place / "mpc5-1" / "videos").mkdir()
    frames = np.random.default_rng(0).integers(255, size=(7, 32, 48, 3)).astype(np.uint8)
    write_video(place / "mpc5-1" / "videos" / "final-0.mp4", frames, 10)
    return place


@pytest.fixture(scope="module")
def written(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, Path]:
    out = tmp_path_factory.mktemp("out") / "paper"
    return write_paper(read_runs([place])[0], out, threshold=5.0), out


@pytest.fixture
def paper(written: tuple[Document, Path]) -> Path:
    return written[1]


def test_all_files_are_there(paper: Path) -> None:
    assert sorted(path.name for path in paper.iterdir()) == FILES
    stems = ["curves-Acrobot-v1", "curves-Pendulum-v1", "frames-Pendulum-v1", "profile-Pendulum-v1"]
    assert sorted(path.name for path in (paper / "figures").iterdir()) == [
        f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "png")
    ]
    for text in ((paper / "paper.md").read_text(), (paper / "paper.tex").read_text()):
        assert all(f"figures/{stem}" in text for stem in stems)
        for title in ("Related work", "Methods", "Experiments", "Results", "Discussion", "Conclusion"):
            assert title in text
        assert "[write: " in text or r"\todo{" in text


def test_every_number_has_its_runs(paper: Path, place: Path) -> None:
    sheet = json.loads((paper / "numbers.json").read_text())
    tex = (paper / "paper.tex").read_text()
    used = re.findall(r"\\val\{([^}]*)\}", tex.partition(r"\begin{document}")[2])
    assert set(used) == set(sheet["numbers"]) and len(used) > 50
    assert re.findall(r"\\defval\{([^}]*)\}", (paper / "numbers.tex").read_text()) == [*sheet["numbers"]]
    assert all(runs for runs in sheet["figures"].values()) and set(sheet["runs"]) == {p.name for p in place.iterdir()}

    number = sheet["numbers"]["Pendulum-v1.mpc-horizon-15.IQM"]
    assert number == {"value": "15.2", "runs": [f"mpc15-{seed}" for seed in range(3)]}
    assert sheet["numbers"]["Pendulum-v1.scores.1.mean"]["value"] == "5.2"


def test_a_number_that_has_no_runs_is_a_name_or_a_constant(written: tuple[Document, Path]) -> None:
    text = " ".join(span for span in spans_of(written[0]) if isinstance(span, str))
    text = re.sub(r"\([^()]*\d{4}[^()]*\)|(mpc, horizon|Pendulum-v|Acrobot-v|torch) ?\d+", "", text)
    assert set(re.findall(r"\d[\d,.]*\d|\d", text)) == {"95", "2,000"}


def test_both_texts_say_the_same(paper: Path) -> None:
    sheet = json.loads((paper / "numbers.json").read_text())
    text = (paper / "paper.md").read_text()
    cells = [cell.strip() for line in text.splitlines() if line.startswith("| ") for cell in line.split(" | ")]
    table = {key: value["value"] for key, value in sheet["numbers"].items() if ".scores." in key}
    assert table and all(value in {cell.strip("| ") for cell in cells} for value in table.values())
    tex = (paper / "paper.tex").read_text()
    assert text.count("**[write: ") == tex.count(r"\todo{") - 2, "the title's and the authors'"
    for block in re.findall(r"(?m)(?:^\|.*\|\n)+", text):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_latex_is_well_formed(paper: Path) -> None:
    for name in ("paper.tex", "numbers.tex"):
        text = re.sub(r"(?s)\\begin\{verbatim\}.*?\\end\{verbatim\}", "", (paper / name).read_text())
        text = re.sub(r"(?m)^%.*$", "", text)
        plain = re.sub(r"\\[\\{}%&#$_]", "", text)
        assert plain.count("{") == plain.count("}")
        begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", plain) for word in ("begin", "end"))
        assert sorted(begun) == sorted(ended)
        body = plain.partition(r"\begin{document}")[2] or plain.partition("\n")[2]
        assert not re.findall(r"[%#]", body), re.findall(r".*[%#].*", body)
    assert escape(r"a_b%#&{}~^\$<|") == (
        r"a\_b\%\#\&\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\$\textless{}\textbar{}"
    )
    assert (
        escape("é日\n½") == "é[U+65E5] ½"
        and definitions({"a": "-1.5 to -2e-05"}) == "\\defval{a}{$-$1.5 to $-$2e-05}\n"
    )


def test_the_compiled_document_has_no_errors(paper: Path, tmp_path: Path) -> None:
    if not (shutil.which("pdflatex") and shutil.which("bibtex")):
        pytest.skip("no TeX is installed: apt install texlive-latex-recommended")
    home = shutil.copytree(paper, tmp_path / "paper")
    for command in (["pdflatex"], ["bibtex"], ["pdflatex"], ["pdflatex"]):
        options = ["-interaction=nonstopmode", "-halt-on-error"] if command == ["pdflatex"] else []
        done = subprocess.run([*command, *options, "paper"], cwd=home, capture_output=True, text=True, errors="replace")
        assert done.returncode == 0, done.stdout[-2000:]
    assert (home / "paper.pdf").stat().st_size > 20_000
    log = (home / "paper.log").read_text(errors="replace")
    assert not re.findall(r"(?i)undefined (?:citations|references)|multiply defined|^! ", log)


def test_ablations_and_sample_efficiency_by_hand(written: tuple[Document, Path]) -> None:
    document, _ = written
    tables = {block.caption: block for block in document.blocks if isinstance(block, Tabular)}
    ablation = tables["Ablations: configurations that differ in one setting"]
    assert [[cell if isinstance(cell, str) else cell.text for cell in row] for row in ablation.rows] == [  # type: ignore[union-attr]
        ["Pendulum-v1", "planner.horizon", "5", "5.2", "15", "15.2", "1.00"]
    ]
    reached = next(table for caption, table in tables.items() if caption.startswith("Sample efficiency on Pendulum"))
    assert [[getattr(cell, "text", cell) for cell in row] for row in reached.rows] == [
        ["mpc, horizon 5", "3 of 3", "300", "30"],
        ["mpc, horizon 15", "3 of 3", "300", "30"],
        ["sac", "1 of 3", "-", "-"],
    ]
    names = [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2]
    assert names == ["MPC", "SAC", "Pendulum-v1", "Acrobot-v1"]
    assert {"chua2018", "haarnoja2018", "rubinstein1999", "agarwal2021", "paszke2019"} <= set(cited(document))


def test_every_reference_can_be_read(paper: Path) -> None:
    entries = literature.library()
    keys = {key for keys in (*literature.PARTS.values(), *literature.ENVIRONMENTS.values()) for key in keys}
    keys |= {*literature.TOOLS, literature.STATISTICS, "todorov2012"}
    assert keys <= set(entries)
    assert entries["chua2018"].short == "Chua et al. 2018" and entries["young2019"].short == "Young and Tian 2019"
    assert entries["yadan2019"].text.startswith("Omry Yadan (2019). Hydra: A Framework")
    assert len(re.findall("^@", (paper / "references.bib").read_text(), re.M)) == len(
        re.findall("^- ", (paper / "paper.md").read_text(), re.M)
    )


def test_every_paper_that_the_code_cites_has_an_entry() -> None:
    root = Path(literature.__file__).parents[2]
    files = [*root.glob("mbrl_lab/**/*.py"), *root.glob("conf/**/*.yaml")]
    citation = re.compile(r"\b((?:van )?[A-Z][\w-]+ (?:et al\.|and [A-Z]\w+)),? \(?((?:19|20)\d\d)\b")
    cited_by = {
        " ".join(match.groups()): file.relative_to(root)
        for file in files
        for match in citation.finditer(" ".join(file.read_text(encoding="utf-8").replace("\n#", " ").split()))
    }
    assert len(cited_by) > 30
    known = {entry.short for entry in literature.library().values()}
    assert not {citation: file for citation, file in cited_by.items() if citation not in known}


@pytest.mark.parametrize("part", [policy.DDQN, policy.SAC, policy.CrossQ, policy.PPO, policy.SVG])
def test_papers_at_the_top_of_a_policys_file_are_cited(part: type) -> None:
    text = " ".join((sys.modules[part.__module__].__doc__ or "").split())
    named = re.findall(r"([A-Z]\w+)(?: et al\.)? (20\d\d)", text)
    cited_papers = [literature.library()[key].short for key in literature.PARTS[part.__name__]]
    missing = [paper for paper in named if not any(set(paper) <= set(short.split()) for short in cited_papers)]
    assert named and not missing


def test_a_part_of_somebody_else_is_named_and_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "evil_part.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    put_run(tmp_path / "run", [1.0], planner={"_target_": "evil_part.Planner", "x": "${oops}"})
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "paper")]) == 0
    text = (tmp_path / "paper" / "paper.md").read_text()
    assert "`Planner`. **[write: what Planner is, and the paper that it is from]**" in text
    marks = text.count("**[write: ")
    assert capsys.readouterr().out.splitlines() == [
        f"paper     {tmp_path}/paper/paper.md, {tmp_path}/paper/paper.tex: {marks} places marked [write: ...]",
        f"numbers   {tmp_path}/paper/numbers.json: the runs behind each number",
    ]


def test_errors_are_one_line_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    put_run(tmp_path / "young", [])
    put_run(tmp_path / "old", [1.0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for argv, said in (
        (
            ["none", "--out", "paper"],
            "none holds no run: there is no such folder; name a run's folder, e.g. one in outputs/",
        ),
        (["young", "--out", "paper"], "nothing was evaluated yet in young: a paper needs evaluations, see eval.every"),
        (["old", "--out", "full"], "full exists and is not an empty folder: choose another --out"),
    ):
        assert main(argv) == 2
        assert capsys.readouterr().err == f"error: {said}\n"

    def stopped(*_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mbrl_lab.paper.write.latex", stopped)
    assert main(["old", "--out", "paper"]) == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "old", "young"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_every_part_is_described_by_its_own_words() -> None:
    found = {name: getattr(m, name) for m in (algo, policy, planner, dynamics) for name in m.__all__}
    parts = {name: part for name, part in found.items() if name in literature.PARTS}
    assert set(parts) == set(literature.PARTS)
    for name, part in parts.items():
        first, *rest = describe(name, part)
        assert isinstance(first, Paragraph), first
        assert len(texts(first.spans)) > 30 + len(name) and "See the top" not in texts(first.spans)
        pseudo_code = {"MBPO", "MPC", "Dreamer", "SAC", "DDQN", "PPO", "SVG", "CrossQ", "ActorCritic", "ICEM", "MPPI"}
        assert bool(rest) or name not in pseudo_code, name
    assert texts(describe("OffPolicy", algo.OffPolicy)[0].spans).startswith("OffPolicy: Random actions")  # type: ignore[union-attr]


def test_keys_are_unique_and_code_stays_in_its_cell() -> None:
    numbers = Numbers()
    first, second, same = (numbers.add(key, value, []) for key, value in (("a b", 1), ("a_b", 2), ("a-b", 1)))
    assert (first.key, second.key, same.key) == ("a-b", "a-b-2", "a-b")
    assert span_text(Code("a|b`c\nd"), {}) == "`a/b'c d`"


def texts(spans: Sequence[Span]) -> str:
    return "".join(span if isinstance(span, str) else getattr(span, "text", "") for span in spans)


def test_what_single_or_unfinished_runs_allow_to_say(tmp_path: Path) -> None:
    runs, _ = read_runs([put_run(tmp_path / "a", [1.0, 3.0]), put_run(tmp_path / "b", [2.0], algo="ppo")])
    found = environments(runs, None)
    study = Study(runs, found, Numbers(), tmp_path)
    assert texts(best(study, found[0])) == (
        "On Pendulum-v1, sac has the highest interquartile mean (IQM) of the return at the last evaluation that its "
        "seeds have, 3.0 (one run). "
    )
    assert study.numbers.runs["Pendulum-v1.sac.IQM"] == ["a"] and overall(study) == []


def test_one_configuration_is_compared_with_none(tmp_path: Path) -> None:
    runs, _ = read_runs([put_run(tmp_path / "a", [1.0], final=3.0)])
    document = write_paper(runs, tmp_path / "paper")
    assert texts(document.abstract.spans).startswith(
        "one or two sentences: the problem and why it matters We evaluate SAC on Pendulum-v1, in 1 run of "
        "1 configuration. On Pendulum-v1, sac alone has scores; the interquartile mean (IQM) of the final return is 3.0"
    )


def test_papers_are_cited_once() -> None:
    (about, *_) = describe("SAC", SAC)
    assert isinstance(about, Paragraph)
    assert about.spans[1] == ": soft actor-critic for continuous and discrete actions"
    assert [type(span) for span in about.spans[2:]] == [str, Cite, str]


def test_seeds_without_a_common_evaluation_have_no_curve(tmp_path: Path) -> None:
    put_run(tmp_path / "a", [1.0])
    late = put_run(tmp_path / "b", [1.0], seed=1) / "metrics.jsonl"
    late.write_text(late.read_text().replace('"step": 100', '"step": 150'))
    document = write_paper(read_runs([tmp_path])[0], tmp_path / "paper")
    assert texts(document.abstract.spans).count("there is no evaluation that all seeds have") == 1
    assert not [*(tmp_path / "paper" / "figures").iterdir()]


def test_scores_over_environments_need_two_with_references(tmp_path: Path) -> None:
    for name in ("A-v0", "B-v0"):
        env = {"make": {"id": name}, "score": {"random": 0.0, "human": 10.0}}
        for seed in range(2):
            put_run(tmp_path / f"{name}-{seed}", [1.0], final=4.0 + seed, env=env, seed=seed)
    runs, _ = read_runs([tmp_path])
    heading, table = overall(Study(runs, environments(runs, None), Numbers(), tmp_path))
    assert heading == Heading(2, "All environments") and isinstance(table, Tabular)
    assert [texts([cell]) for cell in table.rows[0]] == ["sac", "2", "4", "0.450 (0.400 to 0.500)"]
