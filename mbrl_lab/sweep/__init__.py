"""Sweeps: many runs, as processes on this machine or jobs of a cluster. Results are read from their folders."""

from mbrl_lab.sweep.launch import launch

__all__ = ["launch"]
