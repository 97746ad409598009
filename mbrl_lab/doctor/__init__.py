"""Examine this machine, or the parts of a job: what is there, what is missing, and what to do about it."""
