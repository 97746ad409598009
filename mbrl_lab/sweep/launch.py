"""Turns the runs of Hydra's sweeper into jobs; all of them are composed and checked before the first one starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from mbrl_lab.config import ConfigError, check, check_old_names, check_preset, default_of
from mbrl_lab.sweep.jobs import SCRIPT, Job, Sweep, names, read_sweep
from mbrl_lab.sweep.start import start
from mbrl_lab.tracking.folder import AlreadyRunning, RunFolder
from mbrl_lab.tracking.settings import differences, plain

OURS = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher", "hydra/launcher", "hydra/sweeper")
"""Settings of the sweep, which its runs do not get."""


def launch(
    context: HydraContext,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    launcher: Mapping[str, Any],
) -> list[JobReturn]:
    """Run these jobs; those that are done are not started again.

    Args:
        context, config: Hydra's.
        job_overrides: the overrides of each run.
        first: number of the first run.
        launcher: the launcher's settings; `kind` is parallel or slurm.

    Raises ConfigError or SweepFailed, in one line.
    """
    path = Path(str(config.hydra.sweep.dir)).resolve()
    jobs, waiting, flags = [], [], tuple(hydra_flags(config))
    confs = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]

    for number, overrides in enumerate(job_overrides, first):
        check_preset(overrides, confs)
        cfg = compose_job(context, config, overrides, number)
        folder = path / str(cfg.hydra.sweep.subdir)
        job = Job(folder, tuple(overrides), flags, cfg.runtime.threads, str(cfg.runtime.device))
        jobs.append(job)

        # Hydra's own settings differ in the process of the run, and are no part of its config.
        with open_dict(cfg):
            del cfg["hydra"]
        if wanted(folder, cfg, partial(default_of, overrides, confs)):
            waiting.append(job)

    # Jobs run the script that was called, unless that is the console command.
    main = Path(sys.modules["__main__"].__file__ or sys.argv[0]).resolve()
    script = str(main if main.name == "train.py" else SCRIPT)
    launcher = plain(launcher)
    sweep = Sweep(path, script, os.getcwd(), launcher, names(jobs, path)).including(read_sweep(path))
    sweep.write()
    start(sweep, waiting, skipped=len(jobs) - len(waiting))
    return [finished(job) for job in jobs]


def compose_job(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    """One job's config, `hydra` included, as its process will compose it."""
    cfg = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(cfg):
        cfg.hydra.job.id = cfg.hydra.job.num = number
    HydraConfig.instance().set_config(cfg)  # `${hydra:...}` is resolved from there
    return cfg


def wanted(path: Path, cfg: DictConfig, default: Callable[[str], Any]) -> bool:
    """Whether this run has to be started; ConfigError if it is invalid, or if its folder holds another run."""
    check(cfg)
    folder, config = RunFolder(path), plain(OmegaConf.to_container(cfg, resolve=True))
    check_old_names(folder.config(), str(path / "config.yaml"))
    changed = differences(folder.config(), config, default) if folder.config() else []
    if changed:
        raise ConfigError(f"{path} holds a run of another config, {'; '.join(changed[:3])}: choose another sweep_name")
    try:
        return folder.look(config, default) != "done"
    except AlreadyRunning as error:
        print(f"sweep     {error}: skipped", flush=True)
        return False


def hydra_flags(config: DictConfig) -> list[str]:
    """The rest of the command line: other folders of configs, and Hydra's own settings."""
    sources = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    own = [o for o in config.hydra.overrides.hydra if not o.lstrip("+~").startswith(OURS)]
    return [*(word for path in sources for word in ("--config-dir", path)), *own]


def finished(job: Job) -> JobReturn:
    """The result of a job in Hydra's form."""
    return JobReturn(overrides=job.overrides, working_dir=str(job.folder), status=JobStatus.COMPLETED)
