"""A laboratory for model-based reinforcement learning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbrl_lab.app import load_run, make_run

__all__ = ["load_run", "make_run"]


def __getattr__(name: str) -> Any:
    """Import torch when a function is asked for: a command has to be there before, to be interrupted quietly."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mbrl_lab import app

    return getattr(app, name)
