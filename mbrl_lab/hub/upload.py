"""Upload: a bundle into a repository of the Hub, in one commit."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from mbrl_lab.config import ConfigError
from mbrl_lab.hub.bundle import RESULTS, run_of
from mbrl_lab.hub.extra import require
from mbrl_lab.hub.fetch import NAME, client, download, hub_errors

EMPTY = {".gitattributes", "README.md"}
"""Files of a repository that holds nothing yet."""


def check_repo(repo: str) -> None:
    """ConfigError unless `repo` is USER/NAME."""
    found = NAME.fullmatch(repo)
    if not found or found["revision"]:
        raise ConfigError(f"--repo is {repo!r}; it must be USER/NAME")


def upload(
    folder: Path, repo: str, run: str, token: str | None, private: bool | None, revision: str | None, replace: bool
) -> str:
    """Commit every file of a bundle, and return the address of the commit.

    Args:
        folder: the bundle.
        repo: USER/NAME, which is made if it does not exist.
        run: the identity of the run in the bundle.
        token: None: HF_TOKEN, or that of `hf auth login`.
        private: of a new repository; None: as the account's settings have it.
        revision: the branch; None: main.
        replace: replace another agent that the repository holds.

    ConfigError, one line, for a wrong token, no network, and another agent in the repository, which stays as it is.
    """
    api = client(token)
    with hub_errors(repo, revision):
        # Before anything is made: whether the token is one.
        api.whoami()
        exists = api.repo_exists(repo)
        if exists and not replace:
            check_same_agent(api, repo, run, token, revision)
        if not exists:
            api.create_repo(repo, private=private)
        operations = [
            require("huggingface_hub").CommitOperationAdd(path.name, path) for path in sorted(folder.iterdir())
        ]
        command = (folder / "command.txt").read_text(encoding="utf-8").strip()
        done = api.create_commit(repo, operations, commit_message=command[:72], revision=revision)
    return str(done.commit_url)


def check_same_agent(api: Any, repo: str, run: str, token: str | None, revision: str | None) -> None:
    """ConfigError if a repository holds anything but an earlier state of the same run."""
    info = api.model_info(repo, revision=revision)
    there = {file.rfilename for file in info.siblings or ()}
    if there <= EMPTY:
        return
    other, score = "", ""
    if RESULTS in there:
        with tempfile.TemporaryDirectory() as place:
            other, score = run_of(download(repo, RESULTS, str(info.sha), Path(place), token))
    if other != run:
        what = f"another agent (mean return {score})" if other else "something else than an agent of mbrl_lab"
        raise ConfigError(f"{repo} holds {what}: choose another --repo, or give --replace")
