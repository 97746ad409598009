"""Record docs/pictures/play.gif: python benchmarks/play_gif.py RUN OUT plays the page of `mbrl-lab play` by keys.

RUN is a run in MinAtar's Breakout. The keys follow the ball of the real game, as a person would. Needs Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from mbrl_lab import load_run
from mbrl_lab.app import stored_config
from mbrl_lab.config import build
from mbrl_lab.play.serve import make_server
from mbrl_lab.play.session import Session

STEPS = 66
AFTER = 6
"""Steps that are shown after the model's episode is over, before a new one begins."""
SIZE = {"width": 640, "height": 740}


def key_to_the_ball(session: Session) -> str | None:
    """The key that moves the paddle (channel 0) to where the ball (channel 1) will be."""
    paddle, ball, trail = (int(session.real[k].flatten().argmax()) for k in range(3))
    ahead = 2 * (ball % 10) - trail % 10
    goal = ahead if 0 <= ahead < 10 else ball % 10
    return None if goal == paddle % 10 else "ArrowLeft" if goal < paddle % 10 else "ArrowRight"


def record(page: Page, sessions: list[Session]) -> list[Image.Image]:
    """A picture of the page after each step."""
    frames: list[Image.Image] = []
    step = left = 0
    while len(frames) < STEPS:
        session = sessions[-1]
        left = left - 1 if session.over[0] else AFTER
        if all(session.over) or left < 0:
            page.get_by_role("button", name="New episode").click()
            while page.evaluate("+document.getElementById('step').textContent"):
                page.wait_for_timeout(20)
            step, left = 0, AFTER
        step += 1
        key = key_to_the_ball(session)
        # Held before the step is asked for, so that it is this step's; the key alone would begin to play.
        page.evaluate("key => { held.clear(); if (key) held.add(key); }", key)
        page.get_by_role("button", name="One step").click()
        while page.evaluate("+document.getElementById('step').textContent") < step:
            page.wait_for_timeout(20)
        frames.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    return frames


def main(run: str, out: str) -> None:
    """Serve the run, play, and write the GIF."""
    runner = load_run(run)
    make = build(stored_config(runner.folder).env.make)
    sessions: list[Session] = []

    def make_session() -> Session:
        sessions.append(Session(runner, make))
        return sessions[-1]

    with make_server(make_session, 0, 10) as server, sync_playwright() as play:
        threading.Thread(target=server.serve_forever).start()
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(f"http://localhost:{server.socket.getsockname()[1]}/")
        page.locator("#real:visible").wait_for()
        frames = record(page, sessions)
        browser.close()

    small = [frame.quantize(64, dither=Image.Dither.NONE) for frame in frames]
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    small[0].save(out, save_all=True, append_images=small[1:], duration=150, loop=0, optimize=True)
    print(f"{out}: {len(frames)} steps, {Path(out).stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
