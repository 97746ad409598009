"""A laboratory for model-based reinforcement learning."""

from mbrl_lab.app import load_run, make_run

__all__ = ["load_run", "make_run"]
