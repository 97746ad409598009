"""From what Hydra's sweeper wants run to jobs: composed and checked, all of them, before the first one starts."""

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
from mbrl_lab.tracking.folder import AlreadyRunning, RunFolder, differences, plain

OURS = ("hydra.mode", "hydra.run", "hydra.sweep", "hydra.sweeper", "hydra.launcher", "hydra/launcher", "hydra/sweeper")
"""What concerns the sweep, not its runs."""


def launch(
    context: HydraContext,
    config: DictConfig,
    job_overrides: Sequence[Sequence[str]],
    first: int,
    launcher: Mapping[str, Any],
) -> list[JobReturn]:
    """Run these jobs by a launcher's settings, `kind` among them; those that are done are not started again.

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
        with open_dict(cfg):
            del cfg["hydra"]
        # Every config is checked before the first run starts.
        if wanted(folder, cfg, partial(default_of, overrides, confs)):
            waiting.append(job)

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
    HydraConfig.instance().set_config(cfg)  # where `${hydra:...}` looks
    return cfg


def wanted(path: Path, cfg: DictConfig, default: Callable[[str], Any]) -> bool:
    """Whether there is something to do for this run; ConfigError if it cannot be, or if another is there."""
    check(cfg)
    folder, config = RunFolder(path), plain(OmegaConf.to_container(cfg, resolve=True))
    check_old_names(folder.config(), str(path / "config.yaml"))
    changed = differences(folder.config(), config, default) if folder.config() else []
    if changed:
        raise ConfigError(f"{path} holds a run of another config, {'; '.join(changed[:3])}: choose another sweep_name")
    try:
        return folder.look(config, default) != "done"
    except AlreadyRunning as error:
        print(f"sweep     {error}: left alone", flush=True)
        return False


def hydra_flags(config: DictConfig) -> list[str]:
    """What else was on the command line: other folders of configs, and Hydra's own settings."""
    sources = [s.path for s in config.hydra.runtime.config_sources if s.provider == "command-line"]
    own = [o for o in config.hydra.overrides.hydra if not o.lstrip("+~").startswith(OURS)]
    return [*(word for path in sources for word in ("--config-dir", path)), *own]


def finished(job: Job) -> JobReturn:
    """What Hydra wants to hear of a job."""
    return JobReturn(overrides=job.overrides, working_dir=str(job.folder), status=JobStatus.COMPLETED)
