"""Whether bfloat16 is the hardware's own, by what processors, GPUs and caps on instruction sets would say."""

from __future__ import annotations

import platform
import sys
from types import SimpleNamespace

import pytest
import torch

from mbrl_lab import hardware
from mbrl_lab.hardware import slowdown, supports_bf16

CPU = torch.device("cpu")


def machine(
    monkeypatch: pytest.MonkeyPatch,
    arch: str = "x86_64",
    system: str = "linux",
    onednn: bool = True,
    built_with_onednn: bool = True,
    avx512_bf16: bool = True,
    amx: bool = False,
    aten: str = "AVX512",
    **environ: str,
) -> None:
    """Let this process see a processor; by default one with AVX512-BF16 and no AMX, such as AMD's Zen 4."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "machine", lambda: arch)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built_with_onednn)
    mkldnn = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: onednn)
    monkeypatch.setattr(torch.ops, "mkldnn", mkldnn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: aten)


@pytest.mark.parametrize(
    ("seen", "has"),
    [
        ({}, True),
        ({"avx512_bf16": False, "amx": True}, True),
        ({"avx512_bf16": False}, False),  # AVX512 alone: oneDNN converts
        ({"onednn": False, "aten": "AVX2", "avx512_bf16": False}, False),
        ({"built_with_onednn": False}, False),
        ({"aten": "AVX2"}, False),  # by ATEN_CPU_CAPABILITY=avx2
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core"}, False),
        ({"DNNL_MAX_CPU_ISA": "SSE41"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "DNNL_MAX_CPU_ISA": "AVX2"}, True),  # as oneDNN reads them
        ({"arch": "aarch64", "aten": "DEFAULT", "avx512_bf16": False}, True),
        ({"arch": "aarch64", "aten": "SVE256", "avx512_bf16": False, "onednn": False}, False),
        ({"arch": "arm64", "system": "darwin", "aten": "DEFAULT", "avx512_bf16": False}, False),
    ],
)
def test_processors(seen: dict[str, str], has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, **seen)  # type: ignore[arg-type]
    assert supports_bf16(CPU) is has


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus(capability: tuple[int, int], has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert supports_bf16(torch.device("cuda:0")) is has


def test_what_is_neither_has_none() -> None:
    assert not supports_bf16(torch.device("mps"))


def test_tests_run_as_if_the_processor_had_none() -> None:
    assert not supports_bf16(CPU)


def test_the_slowdown_is_the_ratio_of_two_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 9.0, 10.0, 14.0, 20.0, 23.0, 30.0, 35.0, *(40.0, 49.0), 50.0, 52.0, 60.0, 61.5, 70.0, 72.0])
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: next(clock))
    assert slowdown(CPU) == 3.0 / 1.5, "the first product warms up, the quickest of the others counts"
