"""Hydra finds launchers in the namespace `hydra_plugins` alone; what these do stands in mbrl_lab.sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class JobLauncher(Launcher):
    """`launcher=parallel` and `launcher=slurm`: conf/launcher says what their settings mean."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from mbrl_lab.sweep import launch  # Hydra imports this file in every program that uses Hydra

        return launch(self.context, self.config, job_overrides, initial_job_idx, self.settings)
