"""The report in a real browser: it opens from a file without a network, draws, obeys its switches, and follows runs."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import PNG, put_run

from mbrl_lab.cli.report import main
from mbrl_lab.report.page.content import content
from mbrl_lab.report.page.render import render
from mbrl_lab.report.page.runs import read_runs
from mbrl_lab.report.page.serve import Pages, make_server

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
pypdfium2 = pytest.importorskip("pypdfium2", reason="needs pypdfium2")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]

PATIENCE = 240_000
"""Milliseconds: a busy machine is slow, not wrong."""

DRAWN = "document.querySelectorAll('[data-chart]').length === document.querySelectorAll('[data-drawn]').length"
LINES = "[...document.querySelectorAll('[data-chart^=steps] .mark-line path')]"
WIDTH = "path => path.getAttribute('stroke-width')"
SEED_LINES = f"{LINES}.map({WIDTH}).filter(width => width === '1').length"
GROUP_LINES = f"{LINES}.map({WIDTH}).filter(width => width === '2').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        # As root in a container there is no sandbox for the browser.
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two algorithms, two environments, three seeds."""
    home = tmp_path_factory.mktemp("runs")
    for env in ("Pendulum-v1", "Hopper-v5"):
        for seed in range(3):
            for algo, gain in (("mbpo", 2.0), ("sac", 1.0)):
                returns = [gain * k + seed for k in range(6)]
                config = {"env": {"make": {"id": env}, "threshold": 4.0}, "planner": {"horizon": gain}}
                put_run(home / env / f"{algo}-{seed}", returns, final=returns[-1], algo=algo, seed=seed, **config)
    picture = home / "Hopper-v5" / "sac-0" / "diagnostics" / "errors.png"
    picture.parent.mkdir()
    picture.write_bytes(PNG)
    return home


class Page:
    """A page, what it complained about, and what it asked for."""

    def __init__(self, browser: Any, url: str, width: int = 1200, **how: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 800}, **how)
        self.page.set_default_timeout(PATIENCE)
        self.page.set_default_navigation_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_function(DRAWN)

    def wait(self, expression: str) -> None:
        self.page.wait_for_function(expression)


@pytest.fixture(scope="module")
def report(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report."""
    out = tmp_path_factory.mktemp("out") / "a report.html"
    assert main([str(runs), "--out", str(out)]) == 0
    assert out.stat().st_size < 2_000_000
    return out.as_uri()


def test_it_opens_offline_draws_and_obeys_the_keyboard(report: str, browser: Any) -> None:
    it = Page(browser, report, offline=True)
    page = it.page
    assert page.locator("[data-chart] svg").count() == 6
    assert page.locator("table caption", has_text="Final scores on Hopper-v5").count() == 1
    assert page.locator("th", has_text="mbpo").first.is_visible()

    # The legend is a list of switches, the seeds are shown by a button, and both are reached by the keyboard.
    assert (page.evaluate(SEED_LINES), page.evaluate(GROUP_LINES)) == (0, 4)
    page.get_by_role("button", name="Show every seed").focus()
    page.keyboard.press("Enter")
    it.wait(f"{SEED_LINES} === 12")
    page.get_by_role("checkbox", name="sac").focus()
    page.keyboard.press("Space")
    it.wait(f"{SEED_LINES} === 6 && {GROUP_LINES} === 2")
    page.get_by_role("checkbox", name="sac").press("Space")
    page.get_by_role("button", name="Show every seed").press("Enter")
    it.wait(f"{SEED_LINES} === 0 && {GROUP_LINES} === 4")

    assert not it.complaints
    assert {url.partition(":")[0] for url in it.requests} <= {"file", "data"}
    assert [url for url in it.requests if url.startswith("file:")] == [report]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_chart_is_saved_with_a_legend_and_without_hidden_groups(report: str, browser: Any, kind: str) -> None:
    it = Page(browser, report, color_scheme="dark")
    it.page.get_by_role("checkbox", name="sac").press("Space")
    button = it.page.get_by_role("button", name=f"Save the chart as {kind.upper()}: Return against environment steps")
    with it.page.expect_download() as download:
        button.first.press("Enter")
    saved = Path(download.value.path())
    assert re.fullmatch(rf"steps-\d\.{kind}", download.value.suggested_filename)
    if kind == "svg":
        drawing = saved.read_text()
        assert drawing.count(">mbpo</text>") == 1, "a legend"
        assert 'fill="white"' in drawing and "currentColor" not in drawing
        assert len(re.findall(r'<path[^>]*stroke-width="2"[^>]*>', drawing)) >= 1
    else:
        picture = np.asarray(Image.open(saved).convert("RGB"))
        assert picture.shape[1] > 1_000 and picture[0, 0].tolist() == [255] * 3 and picture.min() < 60
    assert not it.complaints


def test_it_prints_all_charts_and_tables_on_white_paper(report: str, browser: Any) -> None:
    it = Page(browser, report, color_scheme="dark")
    document = pypdfium2.PdfDocument(it.page.pdf(format="A4", prefer_css_page_size=True))
    pages = [*document]
    it.page.emulate_media(media="print")
    assert it.page.evaluate("getComputedStyle(document.querySelector('.chart svg')).maxWidth") == "100%"
    text = "".join(page.get_textpage().get_text_bounded() for page in pages)
    assert "Final scores on Hopper-v5" in text and "Performance profile" in text and "mbrl-lab train" in text
    assert "SVG" not in text and "Show every seed" not in text
    for page in pages:
        picture = page.render(scale=0.5).to_numpy()
        assert np.median(picture) == 255, "paper"
        assert all((edge == 255).all() for edge in (picture[:9], picture[-9:], picture[:, :9], picture[:, -9:]))
    document.close()


def test_a_reader_without_a_mouse_or_a_screen_finds_everything_by_name(report: str, browser: Any) -> None:
    page = Page(browser, report).page
    named = "e.alt || e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length"
    things = "document.querySelectorAll('img, svg[role], video, button, input, summary, figure, table')"
    assert page.evaluate(f"[...{things}].filter(e => !({named})).length") == 0
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len({*ids})


@pytest.mark.parametrize(("scheme", "light"), [("light", True), ("dark", False)])
def test_it_follows_the_colour_scheme_and_fits_a_telephone(report: str, browser: Any, scheme: str, light: bool) -> None:
    it = Page(browser, report, width=360, color_scheme=scheme)
    assert it.page.evaluate("document.documentElement.scrollWidth") <= 360

    def brightness(of: str, key: str) -> float:
        colour = it.page.evaluate(f"getComputedStyle(document.querySelector('{of}')).{key}")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765

    text, paper = brightness(".chart .role-axis-title text", "fill"), brightness("body", "backgroundColor")
    assert (paper > text + 0.5) if light else (text > paper + 0.5)
    it.page.emulate_media(media="print", color_scheme="dark")
    assert brightness("body", "backgroundColor") == 1, "paper is white"
    assert brightness(".chart .role-axis-title text", "fill") < 0.4


def test_a_served_page_follows_a_run_and_keeps_its_switches(runs: Path, browser: Any) -> None:
    pages = Pages([runs], lambda link, version: render(content(*read_runs([runs]), None, 0, link), version))
    with make_server(pages, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            it = Page(browser, f"http://localhost:{server.server_port}/")
            it.page.get_by_role("button", name="Show every seed").click()
            it.page.get_by_role("checkbox", name="mbpo").click()
            picture = it.page.locator("img").get_attribute("src")
            assert picture and it.page.request.get(f"http://localhost:{server.server_port}/{picture}").body() == PNG

            status = runs / "Hopper-v5" / "sac-0" / "status.json"
            status.write_text(json.dumps(json.loads(status.read_text()) | {"state": "preempted"}))
            it.page.locator("header", has_text="1 preempted").wait_for()
            it.wait(DRAWN)
            it.wait(f"{SEED_LINES} === 6 && {GROUP_LINES} === 2")
            assert not it.complaints
        finally:
            server.shutdown()
            thread.join()
