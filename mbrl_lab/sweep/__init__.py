"""Sweeps: many runs at once, as processes here or jobs of a cluster. What they came to is read from their folders."""

from mbrl_lab.sweep.launch import launch

__all__ = ["launch"]
