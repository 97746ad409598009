"""The page in a real browser, its server, and the command's errors."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from small import SMALL
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from mbrl_lab import make_run
from mbrl_lab.app import stored_config
from mbrl_lab.cli.play import main
from mbrl_lab.config import build
from mbrl_lab.play.serve import make_server
from mbrl_lab.play.session import Session
from mbrl_lab.tracking.folder import RunFolder

PATIENCE = 240_000
"""Milliseconds: a busy machine is slow, not wrong."""


class Fake:
    """A session without worlds."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.messages: list[Any] = []

    def opening(self) -> dict[str, Any]:
        return {"run": "fake"}

    def start(self, training: bool = False) -> dict[str, Any]:
        self.messages.append(("start", training))
        return {"step": 0}

    def advance(self, held: list[str]) -> dict[str, Any]:
        if "KeyX" in held:
            raise ValueError("the environment is broken")
        self.messages.append(("step", held))
        return {"step": len(self.messages)}

    def close(self) -> None:
        self.closed.set()


@contextmanager
def serving(make_session: Callable[[], Any], fps: float = 10) -> Iterator[int]:
    with make_server(make_session, 0, fps) as server:
        port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield port
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str, host: str = "localhost") -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_a_page_has_a_session_that_closes_with_it() -> None:
    fakes: list[Fake] = []

    def make() -> Fake:
        fakes.append(Fake())
        return fakes[-1]

    with serving(make, 7) as port:
        with connect(f"ws://localhost:{port}/play", origin=f"http://localhost:{port}") as page:
            assert json.loads(page.recv()) == {"run": "fake", "fps": 7} and json.loads(page.recv()) == {"step": 0}
            for message in ({"do": "step", "held": ["Space"]}, {"do": "training"}, {"do": "start"}):
                page.send(json.dumps(message))
                page.recv()
        assert fakes[0].closed.wait(60)
        wanted = [("start", False), ("step", ["Space"]), ("start", True), ("start", False)]
        assert fakes[0].messages == wanted

        with connect(f"ws://localhost:{port}/play", origin=f"http://127.0.0.1:{port}") as page:
            page.recv(), page.recv()
            page.send(json.dumps({"do": "step", "held": ["KeyX"]}))
            assert json.loads(page.recv()) == {"error": "the environment is broken"}
        assert fakes[1].closed.wait(60)


def test_only_this_machine_and_this_page_are_served() -> None:
    with serving(Fake) as port:
        status, body = get(port, "/")
        assert status == 200 and body.startswith(b"<!DOCTYPE html>") and body.rstrip().endswith(b"</html>")
        assert get(port, "/etc/passwd")[0] == 404 and get(port, "/", "example.com")[0] == 403
        for origin in ("http://example.com", f"http://example.com:{port}", None):
            with pytest.raises(InvalidStatus):
                connect(f"ws://localhost:{port}/play", origin=origin)


def test_errors_are_one_line(breakout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run("random", "cartpole", *SMALL, "steps=20", folder=tmp_path / "random").run()
    capsys.readouterr()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for argv, said in (
            ([str(breakout), "--port", str(port)], f"port {port} of 127.0.0.1 is in use or not allowed: give another"),
            ([str(breakout), "--port", "65536"], "--port is 65536; it must be a port from 0 to 65535"),
            ([str(breakout), "--fps", "0"], "--fps is 0; it must be a number above 0, at most 1000"),
            ([str(tmp_path / "none")], "none holds no run: there is no such folder"),
            ([str(tmp_path / "random")], "is a run of algo=random, without a world model to play in"),
        ):
            assert main(argv) == 2
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == 1 and said in lines[0], lines


def test_the_extra_is_named_if_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("mbrl_lab.play.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "websockets.datastructures", None)
    assert main(["anything"]) == 2
    assert 'pip install "mbrl_lab[play]"' in capsys.readouterr().err


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
def test_keys_change_the_pictures_in_a_browser(breakout: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    from mbrl_lab import load_run

    runner = load_run(breakout)
    made = build(stored_config(RunFolder(breakout)).env.make)
    closed = threading.Event()

    class Watched(Session):
        def close(self) -> None:
            super().close()
            closed.set()

    complaints: list[str] = []
    with serving(lambda: Watched(runner, made), 10) as port, sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"], timeout=PATIENCE)
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"http://localhost:{port}/")

        def wait(expression: str) -> None:
            """Without `wait_for_function`, which the page's security policy forbids."""
            for _ in range(PATIENCE // 50):
                if page.evaluate(expression):
                    return
                page.wait_for_timeout(50)
            raise AssertionError(expression)

        source = "document.getElementById('{}').src".format
        step = "+document.getElementById('step').textContent"
        wait(f"{step} === 0 && {source('real')}.startsWith('data:image/png')")
        assert "ArrowLeft = left" in page.locator("#keys").inner_text()
        assert page.evaluate(source("model")) == page.evaluate(source("real")), "both begin in the same state"

        # A step at a time without a key, then with one: the paddle of the real game has moved.
        begin = page.evaluate(source("real"))
        page.get_by_role("button", name="One step").click()
        wait(f"{step} === 1")
        stayed = page.evaluate(source("real"))
        page.get_by_role("button", name="New episode").click()
        wait(f"{step} === 0")
        page.keyboard.down("ArrowLeft")
        wait(f"{step} >= 2")
        page.keyboard.up("ArrowLeft")
        page.keyboard.press("p")
        page.locator("#state", has_text="Paused").or_(page.locator("#state", has_text="over")).first.wait_for()
        assert len({begin, stayed, page.evaluate(source("real"))}) == 3
        assert page.locator("#disagreement").inner_text() != "-"

        page.keyboard.press("t")
        wait(f"{step} === 0")
        page.get_by_role("button", name="Play (P)").press("Enter")
        wait(f"{step} >= 1")
        page.close()
        assert closed.wait(60), "the session ends with its page"
        browser.close()
    runner.envs.close()
    assert not complaints
