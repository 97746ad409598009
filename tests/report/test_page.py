"""The HTML report: what it reads, the numbers that it shows, and that nobody's text becomes markup or code."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from omegaconf import OmegaConf
from runs import PNG, put_run

from mbrl_lab.cli.report import home_of, main
from mbrl_lab.report.page import render
from mbrl_lab.report.page.charts import COLOURS, curve_chart, profile_chart, profile_strata, style
from mbrl_lab.report.page.content import content
from mbrl_lab.report.page.groups import environments, group_labels, improvement_table, score_table
from mbrl_lab.report.page.media import in_turns
from mbrl_lab.report.page.runs import read_runs
from mbrl_lab.report.page.serve import Pages, make_server
from mbrl_lab.sweep.jobs import Job, Sweep


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Two algorithms with three seeds each; mbpo is better, but for one seed."""
    for seed, (sac, mbpo) in enumerate([(1.0, 3.0), (2.0, 4.0), (3.5, 1.5)]):
        put_run(tmp_path / f"sac-{seed}", [0.0, sac], final=sac, algo="sac", seed=seed)
        put_run(tmp_path / f"mbpo-{seed}", [1.0, mbpo], final=mbpo, algo="mbpo", seed=seed)
    return tmp_path


class Reader(HTMLParser):
    """What a browser would find: elements, and the text of table cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("td", "th", "a", "code"):
            self.cells.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs in self.tags if found == tag]


@pytest.fixture(autouse=True)
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundling takes seconds; the test in a browser does it."""
    monkeypatch.setattr(render, "library", lambda: "")


def page_of(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The page that the command writes."""
    assert main([str(word) for word in argv]) == 0, capsys.readouterr().err
    line = capsys.readouterr().out.splitlines()[-1]
    found = re.fullmatch(r"report +(.*) \(.* MB, \d+ runs\)", line)
    assert found, line
    return Path(found[1]).read_text()


def specs_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def test_scores_and_thresholds_by_hand(two: Path) -> None:
    runs, problems = read_runs([two])
    (environment,) = environments(runs, None)
    assert (environment.name, environment.threshold, problems) == ("Pendulum-v1", 2.5, [])
    mbpo, sac = score_table(environment)
    assert (mbpo["algorithm"], mbpo["seeds"], mbpo["mean"], mbpo["IQM"]) == ("mbpo", 3, "2.8", "2.8")
    assert mbpo["95 % of IQM"] == "1.5 to 4.0" and mbpo["score from"] == "final policy"
    assert (sac["reached 2.5"], sac["after steps"], mbpo["reached 2.5"], mbpo["after steps"]) == (
        "1 of 3",
        "-",
        "2 of 3",
        "200",
    )
    (better,) = improvement_table([environment])
    # Of the nine pairs mbpo is higher in 2 (3 above 1 and 2) + 3 (4) + 1 (1.5 above 1).
    assert (better["X"], better["Y"], better["P(X > Y)"]) == ("mbpo", "sac", "0.667")


def test_without_a_final_evaluation_the_last_common_one_counts(two: Path) -> None:
    put_run(two / "mbpo-3", [1.0], algo="mbpo", seed=3, steps=200)
    (environment,) = environments(read_runs([two])[0], None)
    mbpo, sac = score_table(environment)
    assert (mbpo["seeds"], mbpo["mean"], mbpo["score from"]) == (4, "1.0", "evaluation at 100 steps")
    assert sac["score from"] == "final policy"


def test_a_run_with_only_a_final_evaluation_reaches_no_threshold(tmp_path: Path) -> None:
    put_run(tmp_path / "sac-0", [], final=3.0)
    (environment,) = environments(read_runs([tmp_path])[0], None)
    (row,) = score_table(environment)
    assert (row["mean"], row["score from"]) == ("3.0", "final policy")
    assert [row[key] for key in ("reached 2.5", "after steps", "after seconds")] == ["-", "-", "-"]


def test_a_page_without_curves_says_why(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = "No run was evaluated during training, so there are no curves"
    assert why not in page_of(capsys, two)
    put_run(two / "alone" / "a", [], final=3.0)
    put_run(two / "alone" / "b", [], final=3.0, seed=1)
    assert why in page_of(capsys, two / "alone")


def test_the_page_has_charts_tables_commands_and_origins(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = page_of(capsys, two, "--threshold", "3")
    assert {*specs_of(page)} == {"steps-0", "seconds-0", "profile-0"}
    found = Reader(page)
    assert {"reached 3", "a processor", "abc", "2.9"} <= {*found.cells}
    assert page.count("mbrl-lab train algo=mbpo seed=1") == 1
    assert [a["data-group"] for a in found.all("input")] == ["mbpo", "sac"]
    # Whoever gets the page learns nothing about the folders of this machine.
    assert str(two) not in page
    # Nothing is loaded from anywhere else.
    loaded = [a.get("src") or a.get("href") for tag, a in found.tags if tag in ("script", "link", "iframe", "base")]
    assert [address for address in loaded if address] == ["data:,"]
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_evaluations_after_training_are_a_table(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"checkpoint": "best", "step": 200, "episodes": 2, "return": 4.25, "hns": 0.5}
    (two / "sac-0" / "evaluations").mkdir()
    path = two / "sac-0" / "evaluations" / "best-2.json"
    path.write_text(json.dumps(numbers | {"played": [{"return": 1.0}, {"return": 7.5}]}))
    path.with_name("last-2.json").write_text("{")
    page = Reader(page_of(capsys, two))
    assert any(attrs.get("aria-label") == "Evaluations after training" for attrs in page.all("div"))
    cells = [cell for cell in page.cells[page.cells.index("checkpoint") - 1 :] if cell.strip()]
    assert cells[:7] == ["run", "checkpoint", "step", "episodes", "return", "hns", "damaged"]
    assert cells[7:14] == ["sac-0", "best", "200", "2", "4.25", "0.5", "-"]
    assert any("Expecting property name" in cell for cell in page.cells), "a damaged file is a row"
    assert "7.5" not in page.cells, "not every episode"


def test_jobs_of_a_sweep_that_have_not_started_are_listed(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {name: Job(two / name, (f"algo={name[:3]}", "name=<b>")) for name in ("sac-0", "ppo-0", "ppo-1")}
    Sweep(two, "train.py", str(two), {"kind": "parallel"}, jobs).write()
    page = page_of(capsys, two)
    assert "<p>8 runs: 6 done, 2 waiting." in page and "mbrl-lab train algo=ppo &#39;name=&lt;b&gt;&#39;" in page
    cells = Reader(page).cells
    assert (cells.count("ppo-0"), cells.count("ppo-1"), cells.count("waiting")) == (1, 1, 2)

    content = json.loads((two / "sweep.json").read_text())
    (two / "sweep.json").write_text(json.dumps(content | {"jobs": {"../outside": content["jobs"]["ppo-0"]}}))
    page = page_of(capsys, two)
    assert "<p>6 runs: 6 done." in page and "outside of" in page


def test_charts_are_valid_and_named(two: Path) -> None:
    """The library that draws them in a browser compiles them here without a warning."""
    (environment,) = environments(read_runs([two])[0], None)
    labels = group_labels([environment])
    curve = curve_chart(environment, labels, "steps")
    for spec in (curve, profile_chart(profile_strata(environment), labels, "return", "it")):
        svg = vl_convert.vegalite_to_svg({**spec, "width": 300})
        assert svg.count("<path") > 8 and spec["description"]
    rows = curve["layer"][1]["data"]["values"]
    assert rows[1] == {"group": "mbpo", "seeds": 3, "steps": 200, "seconds": 20, "IQM": 2.83333, "low": 1.5, "high": 4}


def test_groups_differ_by_more_than_colour() -> None:
    looks = style([str(k) for k in range(len(COLOURS))])
    assert len({(str(s["dash"]), s["shape"]) for s in looks[:6]}) == 6
    assert len({str(s) for s in looks}) == len(COLOURS)


EVIL = "<img src=x onerror=alert(1)>"


def test_text_of_a_run_is_never_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "<b onclick=x>&'\"<"
    run = put_run(tmp_path / name, [1.0, 2.0], algo=EVIL, env={"make": {"id": f"</script>{EVIL}"}}, more=EVIL)
    put_run(tmp_path / "other", [1.0, 2.0], algo="sac", env={"make": {"id": f"</script>{EVIL}"}})
    status = json.loads((run / "status.json").read_text()) | {"state": "failed", "error": f"{EVIL}\n</pre>{EVIL}"}
    (run / "status.json").write_text(json.dumps(status))
    origin = json.loads((run / "env.json").read_text()) | {"hardware": {"host": EVIL}, "git": {"commit": EVIL}}
    (run / "env.json").write_text(json.dumps(origin))
    (run / "diagnostics").mkdir()
    (run / "diagnostics" / "model.json").write_text(json.dumps({EVIL: EVIL}))
    (run / "diagnostics" / f"{name}.png").write_bytes(PNG)
    found = Reader(page_of(capsys, tmp_path))
    assert not found.all("b") and len(found.all("script")) == 3
    assert [a["src"] for a in found.all("img")] == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert not [a for _, a in found.tags if any(key.startswith("on") for key in a)]


def test_nothing_of_a_config_is_resolved_or_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a stranger's config interpolates is text: an environment variable of the reader's is not in the page."""
    for seed, lr in enumerate(("${oc.env:HOME}", "${oc.env:PATH}")):
        run = put_run(tmp_path / str(seed), [1.0], env={"make": {"_target_": "os.system", "id": "X"}})
        text = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(text + f"lr: {lr}\n")
    page = page_of(capsys, tmp_path)
    assert "${oc.env:HOME}" in page and str(Path.home()) not in page.replace(str(tmp_path), "")


def test_damaged_and_unfinished_folders_are_a_line_each(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (two / "config_only").mkdir()
    OmegaConf.save(OmegaConf.create({"seed": 1}), two / "config_only" / "config.yaml")
    for name, file, text in (
        ("not_yaml", "config.yaml", "a: [1\n"),
        ("no_settings", "config.yaml", "[1]\n"),
        ("no_text", "config.yaml", ""),
        ("not_json", "status.json", '{"state": '),
        ("no_status", "status.json", "[1]"),
        ("no_host", "status.json", '{"state": "running"}'),
        ("bad_rows", "metrics.jsonl", '{"step": 1}\n5\n'),
        ("no_rows", "metrics.jsonl", '{"step": oops}\n'),
        ("bad_value", "metrics.jsonl", '{"step": 1, "final/return": "x"}\n'),
        ("bytes", "env.json", b"\xff\xfe"),
        ("bad_seed", "config.yaml", "seed: x\n"),
    ):
        path = put_run(two / name, [1.0]) / file
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    half = put_run(two / "half", [1.0, 2.0])
    with (half / "metrics.jsonl").open("a") as file:
        file.write('{"step": 300, "eval/ret')
    (two / "starting").mkdir()
    (two / "starting" / "status.json").write_text("{}")
    (two / "empty").mkdir()

    runs, problems = read_runs([two, two / "empty"])
    assert len(runs) == 6 + 2, [run.name for run in runs]
    assert len(problems) == 11 + 2 and all("\n" not in line for line in problems), problems
    page = page_of(capsys, two)
    assert "config_only: nothing was evaluated yet" in page and "starting has no config.yaml" in page


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nowhere"], "nowhere holds no run: there is no such folder; name a run's folder, e.g. one in outputs/"),
        (["nowhere", "--embed", "-1"], "--embed is -1; it must be a number of megabytes from 0"),
        (["nowhere", "--embed", "nan"], "--embed is nan; it must be a number of megabytes from 0"),
    ],
)
def test_errors_are_one_line(
    argv: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not [*tmp_path.iterdir()]


def test_several_folders_have_their_report_here(two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's own report lies in it."""
    monkeypatch.chdir(tmp_path)
    assert home_of([two]) == two
    assert main([str(two / "sac-0"), str(two / "mbpo-1")]) == 0
    assert [*two.rglob("report.html")] == [Path("report.html").resolve()]


def test_small_files_are_inside_and_large_ones_are_links(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sac-0", "mbpo-1"):
        for file in ("diagnostics/errors.png", "videos/final 0.mp4", "diagnostics/best/errors.png"):
            (two / name / file).parent.mkdir(parents=True, exist_ok=True)
            (two / name / file).write_bytes(PNG)
    (two / "sac-0" / "videos" / "out.mp4").symlink_to("/etc/passwd")
    out = two / "pages" / "it.html"
    found = Reader(page_of(capsys, two, "--out", out, "--embed", str(4.5 * len(PNG) / 1e6)))
    sources = [a["src"] or "" for a in [*found.all("img"), *found.all("video")]]
    assert [source.partition(";")[0] for source in sources] == [
        *["data:image/png"] * 4,
        "../mbpo-1/videos/final%200.mp4",
        "../sac-0/videos/final%200.mp4",
    ]
    assert all(a["alt"] for a in found.all("img")) and all(a["aria-label"] for a in found.all("video"))


def test_a_limit_is_fair_to_all_runs(tmp_path: Path) -> None:
    a, b, c = (tmp_path / x for x in "abc")
    for path in (a, b, c):
        path.write_bytes(b"0" * 10)
    assert in_turns([[a, b], [c]]) == [(0, a), (1, c), (0, b)]


def test_the_extra_is_named_if_it_is_missing(
    two: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mbrl_lab.report.page.render", "mbrl_lab.report.page.content"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert main([str(two)]) == 2
    assert capsys.readouterr().err == 'error: vl_convert is not installed: pip install "mbrl_lab[report]"\n'


@pytest.fixture
def served(two: Path) -> Iterator[tuple[Pages, int]]:
    """A server of the runs, and its port."""
    (two / "sac-0" / "videos").mkdir()
    (two / "sac-0" / "videos" / "final-0.mp4").write_bytes(PNG)

    def write(link: Callable[[Path], str], version: str) -> str:
        return render.render(content(*read_runs([two]), None, 0, link), version)

    pages = Pages([two], write)
    with make_server(pages, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield pages, server.server_port
        server.shutdown()
        thread.join()


def get(port: int, path: str, host: str = "localhost") -> tuple[int, bytes]:
    """Status and body of an answer."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_served_page_is_written_again_when_a_run_changes(served: tuple[Pages, int], two: Path) -> None:
    _, port = served
    status, page = get(port, "/")
    version = get(port, "/version")[1].decode()
    assert status == 200 and version == get(port, "/version")[1].decode()
    assert f'data-version="{version}"' in page.decode()
    file = two / "sac-0" / "status.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "preempted"}))
    assert get(port, "/version")[1].decode() != version and b"1 preempted" in get(port, "/")[1]

    shutil.rmtree(two)
    status, page = get(port, "/")
    assert status == 500 and b"holds no run" in page


def test_only_files_of_the_page_are_served_and_only_to_this_machine(served: tuple[Pages, int]) -> None:
    _, port = served
    (address,) = re.findall(rb'src="(files/\w+.mp4)"', get(port, "/")[1])
    assert get(port, f"/{address.decode()}") == (200, PNG)
    for path in ("/files/1.mp4", "/files/../../etc/passwd", "//etc/passwd", "/sac-0/config.yaml"):
        assert get(port, path)[0] == 404, path
    # A name of somebody else's that resolves to this machine.
    assert get(port, "/", "example.com")[0] == 403


def test_a_port_in_use_is_one_line(served: tuple[Pages, int], two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, port = served
    assert main([str(two), "--serve", str(port)]) == 2
    said = f"port {port} of 127.0.0.1 is in use or not allowed: give another to --serve"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert main([str(two), "--serve", "65536"]) == 2
    assert "--serve is 65536; it must be a port from 0 to 65535" in capsys.readouterr().err
