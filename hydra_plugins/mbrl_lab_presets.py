"""Hydra finds sources of configs in the namespace `hydra_plugins` alone; see mbrl_lab.config.presets."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.core_plugins import file_config_source
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin


class PresetSource(file_config_source.FileConfigSource):
    """The sections of our presets and recipes, each as if it were a file."""

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        from mbrl_lab.config.presets import Files  # Hydra imports this file in every program that uses Hydra

        self.files = Files(Path(self.path))

    @staticmethod
    def scheme() -> str:
        return "preset"

    def is_config(self, config_path: str) -> bool:
        return self.files.view(config_path) is not None

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        names = super().list(config_path, results_filter)
        if config_path == "budget" and results_filter != ObjectType.GROUP:
            presets = super().list("preset", ObjectType.CONFIG)
            names += [name for name in presets if name not in names and self.is_config(f"budget/{name}")]
        return sorted(names)

    def load_config(self, config_path: str) -> ConfigResult:
        view = self.files.view(config_path)
        assert view is not None, config_path
        return ConfigResult(self.provider, self.full_path(), self.files.load(view), {"package": "_global_"})


class PresetSearchPath(SearchPathPlugin):
    """Asks PresetSource before the files of our folder of configs; other programs' folders are left alone."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            folder = Path(str(element.path).removeprefix("file://"))
            if element.provider == "main" and all((folder / group).is_dir() for group in ("preset", "recipe")):
                search_path.prepend("presets", f"preset://{folder}", anchor="main")
                return
