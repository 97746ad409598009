"""A server on this machine that speaks as much of the Hub's protocol as publishing and loading an agent needs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKENS = {"hf_of_ann": "ann", "hf_of_bob": "bob"}
LARGE = ".safetensors"
"""Files that go by LFS, not in the commit."""


@dataclass
class Repo:
    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=list)

    def sha(self, at: int = -1) -> str:
        return hashlib.sha1(repr(sorted(self.commits[at].items())).encode()).hexdigest() if self.commits else "0" * 40

    def at(self, revision: str) -> dict[str, bytes] | None:
        known = {self.sha(k): files for k, files in enumerate(self.commits)} | {
            "main": self.files,
            self.sha(): self.files,
        }
        return known.get(revision)


@dataclass
class Hub:
    """What the server holds, and what it was asked."""

    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def put(self, repo: str, files: dict[str, bytes], private: bool = False) -> None:
        """A repository as somebody else may have made it."""
        self.repos[repo] = Repo(files, private, [files])


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.answer(body)

    do_PUT = do_POST

    def answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        match path.strip("/").split("/"):
            case ["api", "whoami-v2"]:
                self.json({"name": self.user, "type": "user"}) if self.user else self.refuse(401, "Invalid token")
            case ["api", "validate-yaml"]:
                self.json({"errors": [], "warnings": []})
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "models", user, name, *rest]:
                self.model(f"{user}/{name}", rest, body)
            case [user, name, "resolve", revision, file]:
                self.resolve(f"{user}/{name}", revision, file)
            case [_, _, "info", "lfs", "objects", "batch"]:
                objects = json.loads(body)["objects"]
                actions = {"upload": {"href": f"{self.hub.url}/put"}}
                self.json({"transfer": "basic", "objects": [x | {"actions": actions} for x in objects]})
            case ["put"]:
                self.hub.blobs[hashlib.sha256(body).hexdigest()] = body
                self.json({})
            case _:
                self.refuse(404, f"no {path}")

    @property
    def user(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def visible(self, repo: str) -> Repo | None:
        found = self.hub.repos.get(repo)
        return found if found and (not found.private or repo.startswith(f"{self.user}/")) else None

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization'] or self.user}/{asked['name']}"
        if not repo.startswith(f"{self.user}/"):
            return self.refuse(403, "You don't have the rights")
        self.hub.repos[repo] = Repo(private=asked.get("visibility") == "private" or asked.get("private") is True)
        self.json({"url": f"{self.hub.url}/{repo}"})

    def model(self, repo: str, rest: list[str], body: bytes) -> None:
        found = self.visible(repo)
        if found is None:
            return self.refuse(404, "Repository not found", "RepoNotFound")
        match rest:
            case [] | ["revision", _]:
                files = found.at(rest[1] if rest else "main")
                if files is None:
                    return self.refuse(404, "Revision not found", "RevisionNotFound")
                sha = rest[1] if rest and len(rest[1]) == 40 else found.sha()
                siblings = [{"rfilename": name} for name in files]
                self.json({"id": repo, "sha": sha, "siblings": siblings, "private": found.private})
            case [("preupload" | "commit"), _] if not repo.startswith(f"{self.user}/"):
                self.refuse(403, "Forbidden")
            case [("preupload" | "commit"), revision] if revision != "main":
                self.refuse(404, "Revision not found", "RevisionNotFound")
            case ["preupload", _]:
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = ["lfs" if name.endswith(LARGE) else "regular" for name in names]
                files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in zip(names, modes, strict=True)]
                self.json({"files": files})
            case ["commit", _]:
                self.commit(found, [json.loads(line) for line in body.splitlines()])
                self.json({"commitUrl": f"{self.hub.url}/{repo}/commit/{found.sha()}", "commitOid": found.sha()})
            case _:
                self.refuse(404, f"no {rest}")

    def commit(self, repo: Repo, lines: list[dict[str, Any]]) -> None:
        added = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                added[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                added[value["path"]] = self.hub.blobs[value["oid"]]
        repo.files = repo.files | added
        repo.commits.append(repo.files)

    def resolve(self, repo: str, revision: str, file: str) -> None:
        found = self.visible(repo)
        content = found and (found.at(revision) or {}).get(file)
        if content is None:
            return self.refuse(404, "Entry not found", "EntryNotFound" if found else "RepoNotFound")
        self.send(200, content, {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def json(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, text: str, code: str | None = None) -> None:
        body = json.dumps({"error": text}).encode()
        self.send(status, body, {"Content-Type": "application/json"} | ({"X-Error-Code": code} if code else {}))

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextmanager
def serving() -> Iterator[Hub]:
    """The server, until the block is left."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub})) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
