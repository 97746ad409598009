"""A local web server for the page, which is written again when a file of a run has changed."""

from __future__ import annotations

import errno
import hashlib
import mimetypes
import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from mbrl_lab.report.page.runs import UNREADABLE
from mbrl_lab.tracking.folder import one_line

HOST = "127.0.0.1"
"""Only this machine: a report holds commands, paths and errors."""

WATCHED = ("config.yaml", "status.json", "metrics.jsonl", "sweep.json", "diagnostics/*", "evaluations/*", "videos/*")
"""Files whose change makes a new page, relative to the folder of a run or a sweep."""


Link = Callable[[Path], str]


class Pages:
    """The newest page, its version, and the files that it links to."""

    def __init__(self, places: Sequence[Path], write: Callable[[Link, str], str]) -> None:
        """Watch the runs in `places`; `write` makes a page from the function that gives addresses, and its version."""
        self.places, self.write = places, write
        self.page, self.version = "", ""
        self.files: dict[str, Path] = {}
        self.lock = Lock()

    def current(self) -> str:
        """The version of the runs' files now. The page is written again if it is older."""
        with self.lock:
            version = version_of(self.places)
            if version != self.version:
                self.page, self.version = self.write(self.link, version), version
            return self.version

    def link(self, path: Path) -> str:
        """The address of a file, the same in all pages. Only files with an address are served."""
        address = f"files/{word_of(str(path))}{path.suffix}"
        self.files[f"/{address}"] = path
        return address


def version_of(places: Sequence[Path]) -> str:
    """A word that changes when a file of a run in these places does."""
    found = {path for place in places for pattern in WATCHED for path in place.rglob(pattern)}
    states = []
    for path in sorted(found):
        try:
            stat = path.stat()
        except OSError:  # deleted since
            continue
        states.append(f"{path} {stat.st_mtime_ns} {stat.st_size}")
    return word_of("\n".join(states))


def word_of(text: str) -> str:
    """A short word that differs between texts."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def make_server(pages: Pages, port: int) -> ThreadingHTTPServer:
    """A server that is bound to `port` of this machine; 0: any free one. ValueError, one line, if it is in use."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A browser that went away in the middle of an answer is no error."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # A website of somebody else's must not read the page by a name that it resolves to this machine.
            if urlsplit(f"//{self.headers.get('Host')}").hostname not in (HOST, "localhost"):
                return self.send_error(HTTPStatus.FORBIDDEN)
            path = urlsplit(self.path).path
            if path in ("/", "/version"):
                try:
                    version = pages.current()
                except UNREADABLE as error:
                    return self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=one_line(error))
                if path == "/version":
                    return self.answer(version.encode(), "text/plain")
                return self.answer(pages.page.encode(), "text/html; charset=utf-8")
            file = pages.files.get(path)
            if file is None or not file.is_file():
                return self.send_error(HTTPStatus.NOT_FOUND)
            self.answer(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent: the page asks every few seconds."""

    try:
        return Server((HOST, port), Handler)
    except OverflowError as error:
        raise ValueError(f"--serve is {port}; it must be a port from 0 to 65535") from error
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ValueError(f"port {port} of {HOST} is in use or not allowed: give another to --serve") from error
