"""The page and its WebSocket, on one port of this machine: each open page has a session of its own."""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from mbrl_lab.play.session import Answer, Session
from mbrl_lab.tracking.video import reason

HOST = "127.0.0.1"
"""Only this machine."""

CLOSING = 1.0
"""Seconds that an open page has to answer when the server stops."""

PAGE = Path(__file__).with_name("page.html")

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


def make_server(make_session: Callable[[], Session], port: int, fps: float) -> Server:
    """A server that is bound to `port`, 0: any free one. ValueError, one line, if it is in use.

    Args:
        make_session: makes the session of a page, in the page's own thread.
        fps: pictures per second, at most.
    """

    def handle(connection: ServerConnection) -> None:
        try:
            with closing(make_session()) as session:
                connection.send(json.dumps(session.opening() | {"fps": fps}))
                connection.send(json.dumps(session.start()))
                for message in connection:
                    connection.send(json.dumps(answer(session, json.loads(message))))
        except ConnectionClosed:  # the page was closed
            pass
        except Exception as error:
            logging.getLogger("mbrl_lab").warning("play: %s", reason(error))
            connection.send(json.dumps({"error": reason(error)}))

    def page(connection: ServerConnection, request: Request) -> Response | None:
        """The page itself; None opens a WebSocket."""
        # A website of somebody else's must not reach this server by a name that it resolves to this machine.
        if urlsplit(f"//{request.headers.get('Host')}").hostname not in (HOST, "localhost"):
            return connection.respond(HTTPStatus.FORBIDDEN, "only from this machine\n")
        if request.path == "/play":
            return None
        if request.path != "/":
            return connection.respond(HTTPStatus.NOT_FOUND, "there is nothing here\n")
        body = PAGE.read_bytes()
        headers = Headers(
            {
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
                "Content-Security-Policy": POLICY,
                "Connection": "close",
            }
        )
        return Response(HTTPStatus.OK, "OK", headers, body)

    listening = bound(port)
    number = listening.getsockname()[1]
    origins = [f"http://{name}:{number}" for name in (HOST, "localhost")]
    quiet = logging.getLogger("mbrl_lab.websockets")
    quiet.setLevel(logging.CRITICAL)  # a browser that goes away is no error
    how: dict[str, Any] = {"origins": origins, "process_request": page, "logger": quiet, "close_timeout": CLOSING}
    return serve(handle, sock=listening, **how)


def answer(session: Session, message: Answer) -> Answer:
    """The reply to a message of the page: {"do": "step", "held": [keys]}, or "start", or "training"."""
    if message.get("do") == "step":
        return session.advance([str(key) for key in message.get("held", ())])
    return session.start(training=message.get("do") == "training")


def bound(port: int) -> socket.socket:
    """A listening socket. ValueError, one line, for a port that is in use or none at all."""
    if not 0 <= port < 2**16:
        raise ValueError(f"--port is {port}; it must be a port from 0 to 65535")
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ValueError(f"port {port} of {HOST} is in use or not allowed: give another to --port") from error
