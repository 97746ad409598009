"""Examine this machine, or the parts of a job: what is installed, what is missing, and the remedy."""
