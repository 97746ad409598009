"""Speed on the machine at hand: which methods are compiled, and whether freed memory is kept."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch
from torch import nn


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: giving them back and faulting them in again slows planning by half."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold, size = -1, -3, 2**30
        libc.mallopt(m_trim_threshold, size)
        libc.mallopt(m_mmap_threshold, size)


def compile_parts(algo: nn.Module) -> None:
    """torch.compile for the methods that modules name in `compilable`: pure functions of tensors, called often."""
    cpu = all(p.device.type == "cpu" for p in algo.parameters())

    # On a CPU the kernels are called from C++ too, as calls from Python take longer than small kernels. Random numbers
    # are torch's: compiled ones are different numbers, drawn one after the other.
    options: dict[str, Any] | None = {"cpp_wrapper": True, "fallback_random": True} if cpu else None
    for module in algo.modules():
        for name in getattr(module, "compilable", ()):
            setattr(module, name, torch.compile(getattr(module, name), options=options))
