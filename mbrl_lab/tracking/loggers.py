"""Loggers: metrics.jsonl always, TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import json
import logging
import math
import netrc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mbrl_lab.tracking.append import AppendFile
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import MAY_CHANGE, flatten

log = logging.getLogger(__name__)


class Jsonl:
    """One strict JSON object per row in metrics.jsonl. Values that are not finite become null, as JSON has none."""

    def __init__(self, folder: RunFolder) -> None:
        self.file = AppendFile(folder.metrics)

    def log(self, row: dict[str, float]) -> None:
        finite = {key: value if math.isfinite(value) else None for key, value in row.items()}
        self.file.append(json.dumps(finite, default=float, allow_nan=False).encode() + b"\n")

    def close(self, ok: bool) -> None:
        self.file.close()

    def position(self) -> int:
        """Bytes written so far, flushed to disk; a checkpoint stores them."""
        return self.file.position()

    def truncate(self, position: int) -> None:
        """Truncate the file to its first `position` bytes."""
        self.file.truncate(position)


class TensorBoard:
    """Event files in <folder>/tensorboard. The first row of a resumed run purges events from its step on.

    The row of the final evaluation adds the settings, so that TensorBoard's table HPARAMS sorts runs by their results.
    """

    def __init__(self, folder: RunFolder) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError('logger.tensorboard is not installed: pip install "mbrl_lab[tensorboard]"') from error
        self.open: Callable[..., Any] = SummaryWriter
        self.folder = folder
        self.directory = folder.path / "tensorboard"
        self.writer: Any = None

    def log(self, row: dict[str, float]) -> None:
        step = int(row["step"])
        if self.writer is None:
            # Made at the first row, whose step is needed: older events from there on are void after a resume.
            self.writer = self.open(str(self.directory), purge_step=step)
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key, value, step)
        if final := final_metrics(row):
            self._add_settings(final)
        self.writer.flush()

    def _add_settings(self, final: dict[str, float]) -> None:
        """Settings and the names of the metrics beside them, in the same file as the metrics themselves."""
        from torch.utils.tensorboard.summary import hparams

        # `add_hparams` would write them as a further run, without its curves.
        for summary in hparams(settings_of(self.folder), final):
            self.writer._get_file_writer().add_summary(summary)

    def close(self, ok: bool) -> None:
        if self.writer is not None:
            self.writer.close()


class Wandb:
    """A Weights & Biases run, which a resumed run continues. If it fails there is one warning, and the run continues.

    Args:
        folder: the run's folder.
        project, entity, tags: as wandb defines them.
        group: None: the name of the run's sweep.
        job_type: None: the run's command line without the seed.
        mode: online | offline | disabled; None: WANDB_MODE, and without it online if there is an API key.
    """

    def __init__(
        self,
        folder: RunFolder,
        project: str,
        entity: str | None,
        group: str | None,
        job_type: str | None,
        tags: Sequence[str],
        mode: str | None,
    ) -> None:
        if mode not in (None, "online", "offline", "disabled"):
            raise ValueError(f"logger.wandb.mode is {mode!r}; it can be null, online, offline or disabled")
        try:
            import wandb
        except ImportError as error:
            raise ValueError("logger.wandb is not installed: pip install wandb") from error
        self.run: Any = None
        self.step = 0  # of the last row
        self.wandb = wandb

        # `_guard`: a service that cannot be reached must not stop a run.
        settings = {"project": project, "entity": entity, "tags": list(tags), "mode": mode or default_mode()}
        settings |= {"group": group or sweep_of(folder), "job_type": job_type or kind_of(folder)}
        self._guard(lambda: self._start(wandb, folder, settings))

    def log(self, row: dict[str, float]) -> None:
        if self.run is not None:
            self.step = int(row["step"])
            self._guard(lambda: self.run.log(dict(row)))
        if self.run is not None and (final := final_metrics(row)):
            # The summary is what the table of runs shows and sorts by.
            self._guard(lambda: self.run.summary.update(final))

    def attach(self, paths: Sequence[Path]) -> None:
        """Pictures and videos, each under its folder's and its own name, at the step of the last row."""
        if self.run is not None:
            self._guard(lambda: self.run.log({"step": self.step} | dict(map(self._medium, paths))))

    def _medium(self, path: Path) -> tuple[str, Any]:
        name = f"{path.parent.name}/{path.stem}"
        if path.suffix == ".mp4":
            return name, self.wandb.Video(str(path), format="mp4")
        return name, self.wandb.Image(str(path))

    def close(self, ok: bool) -> None:
        if self.run is not None:
            self._guard(lambda: self.run.finish(exit_code=0 if ok else 1))
        self.run = None

    def _start(self, wandb: Any, folder: RunFolder, settings: dict[str, Any]) -> None:
        self.run = wandb.init(
            **settings,
            name="/".join(folder.path.parts[-2:]),
            id=folder.identity(),
            resume="allow",
            reinit="create_new",
            dir=str(folder.path),
            config=flatten(folder.config()),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def _guard(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            # After one failure each later row would wait for another timeout.
            self.run = None
            log.warning("wandb failed and is left out from here on: %s: %s", type(error).__name__, error)


def final_metrics(row: dict[str, float]) -> dict[str, float]:
    """The metrics of a final evaluation, if this is its row."""
    return {key: value for key, value in row.items() if key.startswith("final/")}


def settings_of(folder: RunFolder) -> dict[str, bool | float | str]:
    """The settings that make a run what it is, flat, in the types of TensorBoard's table; lists as text."""
    beside = MAY_CHANGE - {"steps"}
    found = {key: value for key, value in flatten(folder.config()).items() if key.partition(".")[0] not in beside}
    return {key: x if isinstance(x, bool | int | float | str) else str(x) for key, x in found.items()}


def sweep_of(folder: RunFolder) -> str | None:
    """The name of the run's sweep, if it has one: that of the folder above that contains a sweep's file."""
    above = next((p for p in list(folder.path.parents)[:2] if (p / "multirun.yaml").exists()), None)
    return None if above is None else above.name


def kind_of(folder: RunFolder) -> str | None:
    """The overrides that describe a run, without its seed."""
    beside = MAY_CHANGE | {"seed", "sweep"}
    kept = [w for w in folder.overrides() if w.lstrip("+~").partition("=")[0].partition(".")[0] not in beside]
    return " ".join(kept)[:64] or None


def default_mode() -> str:
    """WANDB_MODE if it is set, otherwise online if wandb can log in, offline if not."""
    return os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")


def has_api_key() -> bool:
    """Whether wandb can log in without a prompt: by environment variable or by a netrc entry for its server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    paths = [os.environ.get("NETRC"), Path.home() / ".netrc", Path.home() / "_netrc"]
    return any(_names_host(Path(path), host) for path in paths if path)


def _names_host(path: Path, host: str) -> bool:
    try:
        return host in netrc.netrc(str(path)).hosts
    except (OSError, netrc.NetrcParseError):
        return False
