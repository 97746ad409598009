"""Settings of a short run."""

from __future__ import annotations

SMALL = ["debug=smoke", "steps=120", "eval.every=0", "video.final=0", "runtime.device=cpu", "runtime.precision=fp32"]
