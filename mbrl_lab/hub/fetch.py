"""Fetch: a published agent from the Hub, `hf:USER/NAME` or `hf:USER/NAME@REVISION`, as a folder on this machine."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mbrl_lab.config import ConfigError
from mbrl_lab.hub.bundle import CARD, CONFIG, RESULTS
from mbrl_lab.hub.extra import require
from mbrl_lab.hub.weights import WEIGHTS

PREFIX = "hf:"

HOME = Path("outputs") / "hub"
"""Where fetched agents are kept: a folder for each commit, which stays as it was fetched."""

FETCHED = (CONFIG, WEIGHTS, RESULTS, CARD)
"""Nothing else is downloaded. The first two are required."""

NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def fetch(address: str) -> Path:
    """The folder of a published agent, downloaded unless it is there. ConfigError, one line, if that is impossible."""
    found = NAME.fullmatch(address.removeprefix(PREFIX))
    if not found:
        raise ConfigError(f"{address!r} is no agent on the Hub: write {PREFIX}USER/NAME or {PREFIX}USER/NAME@REVISION")
    repo, revision = found["repo"], found["revision"]
    with hub_errors(repo, revision):
        info = client().model_info(repo, revision=revision)
    there = {file.rfilename for file in info.siblings or ()}
    if missing := [name for name in FETCHED[:2] if name not in there]:
        raise ConfigError(f"{repo} holds no agent of mbrl_lab: it has no {missing[0]}")

    home = HOME / repo.replace("/", os.sep) / str(info.sha)[:10]
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".") as place:
            # The library leaves notes of its own beside the files, so these move on.
            whole = Path(place) / "whole"
            whole.mkdir()
            for name in sorted(there & set(FETCHED)):
                with hub_errors(repo, revision):
                    path = download(repo, name, str(info.sha), Path(place))
                path.rename(whole / name)
            whole.rename(home)
    return home


def download(repo: str, name: str, revision: str, place: Path, token: str | None = None) -> Path:
    """One file of a commit, in a folder."""
    get, endpoint = require("huggingface_hub").hf_hub_download, os.environ.get("HF_ENDPOINT")
    return Path(get(repo, name, revision=revision, local_dir=place, endpoint=endpoint, token=token))


def client(token: str | None = None) -> Any:
    """The Hub's interface. Without a token it is HF_TOKEN, or that of `hf auth login`."""
    # The library reads HF_ENDPOINT only when it is imported.
    return require("huggingface_hub").HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)


@contextmanager
def hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """The Hub's errors as a ConfigError of one line."""
    try:
        yield
    except Exception as error:
        # The library hides the reason of a failed upload behind a RuntimeError.
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        if (line := hub_message(cause, repo, revision)) is None:
            raise
        raise ConfigError(line) from error


def hub_message(error: BaseException, repo: str, revision: str | None) -> str | None:
    """A line for an error of the Hub or of the way to it; None for any other."""
    errors = require("huggingface_hub.errors")
    if isinstance(error, errors.HFValidationError):
        return f"{repo} is no name of a repository: {first_line(error)}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision}"
    if isinstance(error, errors.HfHubHTTPError):
        return answer(error.response.status_code, repo, error)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"the Hub needs a token: {HOW}"
    if isinstance(error, ConnectionError | errors.LocalEntryNotFoundError | require("httpx2").TransportError):
        server = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{server} cannot be reached ({type(error).__name__}): is there a network?"
    return None


HOW = "set HF_TOKEN, or run `hf auth login`"


def answer(status: int, repo: str, error: BaseException) -> str:
    """A line for an answer of the server that is no success."""
    if status == 401:
        return f"the Hub rejects the token, or {repo} is private or does not exist: {HOW}"
    if status == 403:
        return f"this token may not write to {repo}: it must be a token of its owner, with write access"
    if status == 404:
        return f"the Hub has no {repo}, or it is private and the token does not see it"
    return f"the Hub answered {status} for {repo}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
