"""Whether this machine has bf16 matrix products in hardware, and how much slower than fp32 they are if emulated."""

from __future__ import annotations

import os
import platform
import sys
import time

import torch
from torch import Tensor

WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"})
"""Values of ONEDNN_MAX_CPU_ISA, oneDNN's names, whose instruction sets have no bfloat16 products."""

AMPERE = 8
"""CUDA's compute capability (major) from which tensor cores support bf16."""

SIDE, REPEATS = 256, 3
"""Side of the square matrices whose product is timed, about the size of a layer; how often; the minimum counts."""


def supports_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are the device's own, not emulated by conversions to float32.

    Caps on instruction sets count (ONEDNN_MAX_CPU_ISA, DNNL_MAX_CPU_ISA, ATEN_CPU_CAPABILITY). On macOS torch has no
    oneDNN, which does the products elsewhere.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= AMPERE
    if device.type != "cpu" or sys.platform == "darwin" or not torch.backends.mkldnn.is_available():
        return False

    # torch's own query ignores oneDNN's cap, so both are checked.
    if onednn_cap() in WITHOUT_BF16 or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True  # for Arm the query above looks for BF16 instructions; on x86 it only looks for AVX512

    # Private functions of torch: a version without them counts as no support.
    has = (getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512_bf16", "amx_tile"))
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and any(query() for query in has)


def onednn_cap() -> str:
    """The highest instruction set that oneDNN may use; empty: no limit."""
    return (os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper()


def slowdown(device: torch.device) -> float:
    """How many times as long a matrix product takes in bfloat16 as in float32, measured now in some milliseconds."""
    seconds = [_seconds(torch.ones(SIDE, SIDE, device=device, dtype=d)) for d in (torch.bfloat16, torch.float32)]
    return seconds[0] / seconds[1]


def _seconds(x: Tensor) -> float:
    """Minimum seconds of the product of x with itself; the first one only warms up."""
    taken = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        (x @ x)[0, 0].item()  # waits for a GPU
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
