"""The precision of a run: as given, as when the run began, or chosen by the hardware and the networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from mbrl_lab.hardware import slowdown, supports_bf16
from mbrl_lab.nets.precision import gains_from_bf16

AS_BEGAN = "as the run began"

PRECISION = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Arithmetic(NamedTuple):
    """A precision by its name in the config, and why it was chosen."""

    name: str
    why: str
    warning: str | None  # if it is emulated

    @property
    def dtype(self) -> torch.dtype:
        return PRECISION[self.name]


def choose_arithmetic(
    given: str, last: str | None, device: torch.device, algo: nn.Module, began: str | None = None
) -> Arithmetic:
    """auto keeps the precision of the run's last attempt, on any machine, so that a resume computes the same numbers.

    Args:
        given: auto, fp32 or bf16.
        last: the precision of the run's last attempt; None for a new run.
        device: where the run computes.
        algo: its networks, whose sizes decide whether bf16 is faster.
        began: the precision of its first attempt, which an override may have changed since; None: as `last`.
    """
    native = supports_bf16(device)
    here, reason = _suitable(native, device, algo)

    if given != "auto":
        name = given
        why = "as given" + (f"; until now this run was in {last}" if last not in (None, given) else "")
    elif last is None:
        name, why = here, reason
    elif began not in (None, last):
        name = last
        why = f"as last given; the run began in {began}"
    else:
        name = last
        why = AS_BEGAN + (f"; a new run here would use {here}, {reason}" if last != here else "")

    return Arithmetic(name, why, _emulated(device) if name == "bf16" and not native else None)


def _suitable(native: bool, device: torch.device, algo: nn.Module) -> tuple[str, str]:
    """The precision that auto chooses here for a new run, and why."""
    what = "GPU" if device.type == "cuda" else "processor"
    if not native:
        return "fp32", f"as this {what} has no native bf16"
    if not gains_from_bf16(algo):
        return "fp32", "as networks this small are no faster in bf16"
    return "bf16", f"as this {what} has native bf16"


def _emulated(device: torch.device) -> str:
    what = "GPU" if device.type == "cuda" else "processor"
    return (
        f"runtime.precision is bf16, which this {what} can only emulate: a matrix product just took"
        f" {slowdown(device):.1f} times as long as in fp32; runtime.precision=fp32 is faster here"
    )
