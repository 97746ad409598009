"""Limits what a sweep's folder may start: the same script, from the same folder, with configs of trusted parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from mbrl_lab.config import CONF, ConfigError, compose_config
from mbrl_lab.sweep.jobs import NAME, Job, Sweep
from mbrl_lab.tracking.folder import RunFolder
from mbrl_lab.tracking.settings import plain
from mbrl_lab.trust import check_stored

WHOLE = NAME
"""With this word in `--trust` the sweep is the user's own, and everything in it is trusted."""

LOCAL = ("mbrl_lab.tracking.loggers.Jsonl", "mbrl_lab.tracking.loggers.TensorBoard")
"""Loggers that write only into the run's folder."""

WORD = re.compile(r"[\w.-]*")


def check_sweep(
    sweep: Sweep, jobs: Sequence[Job], script: Path, trust: Sequence[str] = (), config_dir: str | None = None
) -> None:
    """ConfigError, in one line, if starting these jobs could run code that the user has not chosen.

    Args:
        sweep: as read from its folder.
        jobs: those to be started.
        script: the script that starts runs here.
        trust: modules that the runs' configs may build from; `sweep.json` among them trusts the whole sweep.
        config_dir: another folder of configs that the user has named; the jobs' flags name it too.
    """
    if WHOLE in trust:
        return
    source, mine = sweep.path / NAME, f"if you started this sweep yourself: --trust {WHOLE}"

    # The surroundings of the runs: shell lines, other scripts, other folders of configs.
    if Path(sweep.script).resolve() != script.resolve():
        raise ConfigError(f"{source}: script is {sweep.script}, not {script}; {mine}")
    if Path(sweep.cwd).resolve() != Path.cwd().resolve():
        raise ConfigError(f"{source}: cwd is {sweep.cwd}; run the command there, or {mine}")
    for key, value in sweep.launcher.items():
        number = value is None or isinstance(value, int | float)
        if not number and value not in ([], {}) and not (isinstance(value, str) and WORD.fullmatch(value)):
            raise ConfigError(f"{source}: launcher.{key} is {value!r}, which could run shell commands; {mine}")

    for job in jobs:
        where = f"{source}: run {job.folder.relative_to(sweep.path).as_posix()}"
        if "${" in str(job.folder) or not str(job.folder).isprintable():
            raise ConfigError(f"{source}: run {str(job.folder)!r} is not a valid name of a folder; {mine}")
        # Flags could name another folder of configs, in which any class may stand.
        if (job.flags and config_dir is None) or not isinstance(job.threads, int):
            what = " ".join(map(str, job.flags)) or f"threads={job.threads!r}"
            cure = f"add {what} here too, or " if job.flags[:1] == ("--config-dir",) else ""
            raise ConfigError(f"{where} is started with {what}; {cure}{mine}")
        if not job.folder.resolve().is_relative_to(sweep.path.resolve()):
            raise ConfigError(f"{where} is a link to {job.folder.resolve()}; {mine}")
        RunFolder(job.folder).check_links()
        for word in job.overrides:
            check_word(word, where, mine)

        # Without a look at the environment, which would be made before it is trusted.
        cfg = compose_config(job.overrides, config_dir, look=False)
        if others := [name for name, node in cfg.logger.items() if node.get("_target_") not in LOCAL]:
            raise ConfigError(f"{where} would send its metrics to logger={others[0]}; {mine}")
        check_stored(plain(OmegaConf.to_container(cfg, resolve=True)), where, trust)


def check_word(word: str, where: str, mine: str) -> None:
    """ConfigError for an override that is no setting of a run: an option, Hydra's own, a resolver, a file elsewhere."""
    key, sign, value = word.partition("=")
    option = word.startswith("-") or not (sign or word.startswith("~"))
    group = (CONF / key.lstrip("+~").partition("@")[0]).is_dir()
    elsewhere = ".." in key or (group and (".." in value or "/" in value[:2]))
    if option or "hydra" in key or elsewhere or re.search(r"\$\{.*:", word):
        raise ConfigError(f"{where} is started with {word!r}, which is more than a setting; {mine}")
