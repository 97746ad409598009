"""A simulated CUDA device: finds tensors on the wrong device where there is no GPU.

    with OtherDevice() as gpu:
        x = torch.arange(3, device="cuda")
        x.device                    # cuda:0
        x.gather(0, torch.zeros(1, dtype=torch.int64))  # RuntimeError, as on a GPU: the index is on the CPU
        gpu.waits                   # where the CPU waited for the device: Counter of (kind, file:line)

All is computed on the CPU, so any code runs, with its branches on values. What is added is a label on each storage:
the place where its bytes would lie. Two hooks of PyTorch keep the labels:

- a function mode sees what Python asks for (a device in a call, `.to`, `.numpy`) and answers `x.device` by the label;
- a dispatch mode sees every kernel, those of autograd and of optimizers too: it compares the labels of what goes in,
  as CUDA does, and labels what comes out.

Tensors made inside PyTorch, by a kernel that is a composition of others, are labelled by the first tensor they meet:
their device is PyTorch's business. Random kernels of the device draw from a stream of its own, as they do on a GPU.

It does not know kernels' numbers, memory, pinned memory, streams, several GPUs, generators on the device, or
torch.compile.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode

CPU, CUDA, UNKNOWN = "cpu", "cuda:0", "unknown"
"""Labels of a storage; UNKNOWN is one made inside PyTorch that has met no other yet."""

PACKAGE = str(Path(__file__).parents[1] / "mbrl_lab")
FREE = 2**36

COPIES = {"aten::copy_", "aten::_foreach_copy_"}
INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
TAKE_CPU_NUMBERS = {
    "aten::mse_loss",
    "aten::smooth_l1_loss",
    "aten::huber_loss",
    "aten::fill_",
    "aten::masked_fill",
    "aten::masked_fill_",
}
"""Not tagged as pointwise, but like those they take a 0-d tensor of the CPU among tensors of the device."""
SIZES = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::bincount", "aten::equal"}
"""Kernels whose result has a size, or is a Python value, that the CPU must wait for."""
ONLY_ON_CPU = {"one_hot"}
"""Python calls that look at values on the CPU and would not on a GPU."""


def place(x: Tensor) -> str:
    """The label of a tensor's storage."""
    return getattr(x.untyped_storage(), "place", CPU)


def label(x: Tensor, where: str) -> Tensor:
    """The same tensor, its storage now labelled."""
    x.untyped_storage().place = where  # type: ignore[attr-defined]
    return x


def mixed(what: str) -> RuntimeError:
    return RuntimeError(f"expected all tensors to be on the same device, found {CUDA} and {CPU} in {what}")


class OtherDevice:
    """Inside it `cuda` is a device of this machine, see the module.

    Attributes:
        waits: how often the CPU waited for a value of the device, by (kind, file:line in the package)
        uploads: how often the CPU sent a tensor to the device, by file:line in the package
    """

    def __init__(self) -> None:
        self.waits: Counter[tuple[str, str]] = Counter()
        self.uploads: Counter[str] = Counter()
        self.generator = torch.Generator()
        self.making: str | None = None  # where a Python call under way makes its tensors; None: PyTorch knows
        self.call = ""

    def __enter__(self) -> Self:
        self.stack = ExitStack()
        for name, value in self._cuda().items():
            self.stack.enter_context(mock.patch.object(torch.cuda, name, value))
        # Optimizers ask it whether a graph is being captured, and a build for CUDA would ask the driver.
        self.stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", lambda *_, **__: None))
        self.stack.enter_context(mock.patch.object(torch._C, "_group_tensors_by_device_and_dtype", _grouped))
        for name, value in self._autocast().items():
            self.stack.enter_context(mock.patch.object(torch, name, value))
        self.stack.enter_context(Kernels(self))
        self.stack.enter_context(Calls(self))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def moved(self, source: str, target: str, kind: str) -> None:
        """Count a copy from one place to another."""
        if (source, target) == (CUDA, CPU):
            self.waits[kind, _where()] += 1
        elif (source, target) == (CPU, CUDA):
            self.uploads[_where()] += 1

    @contextmanager
    def own_random_numbers(self) -> Iterator[None]:
        """What draws from torch's generator draws from the device's."""
        everyone = torch.default_generator
        before = everyone.get_state()
        everyone.set_state(self.generator.get_state())
        try:
            yield
        finally:
            self.generator.set_state(everyone.get_state())
            everyone.set_state(before)

    def _cuda(self) -> dict[str, Callable[..., Any]]:
        """What of torch.cuda the package and PyTorch itself ask."""
        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "is_current_stream_capturing": lambda: False,  # which a build for CUDA would ask the driver
            "is_bf16_supported": lambda *_, **__: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "get_device_name": lambda *_: "simulated",
            "get_device_capability": lambda *_: (7, 0),
            "mem_get_info": lambda *_: (FREE, FREE),
            "synchronize": lambda *_: None,
            "manual_seed": self.generator.manual_seed,
            "manual_seed_all": self.generator.manual_seed,
            "get_rng_state": lambda *_: self.generator.get_state(),
            "get_rng_state_all": lambda: [self.generator.get_state()],
            "set_rng_state": lambda state, *_: self.generator.set_state(state),
            "set_rng_state_all": lambda states: self.generator.set_state(states[0]),
        }

    def _autocast(self) -> dict[str, Any]:
        """Autocast of `cuda` is that of the CPU, which computes; that of `cpu` changes nothing of the device."""
        swap = {"cuda": "cpu", "cpu": "cuda"}
        real, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

        class Autocast(real):  # type: ignore[misc, valid-type]
            def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
                super().__init__(swap[device_type], *args, **kwargs)

        return {
            "autocast": Autocast,
            "is_autocast_enabled": lambda kind="cuda": enabled(swap[kind]),
            "get_autocast_dtype": lambda kind: dtype(swap[kind]),
        }


class Kernels(TorchDispatchMode):
    """Compares and gives labels, kernel by kernel."""

    def __init__(self, device: OtherDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            tensors = list(_tensors((*args, *kwargs.values())))
            made = self.device.making or UNKNOWN
            where = self._common(func, args, kwargs, tensors) if tensors else made
            if where == CPU:
                return func(*args, **kwargs)
            owned = {x.untyped_storage()._cdata for x in tensors}
            out = self._run(func, args, kwargs, where)
            for x in _tensors((out,)):
                if x.untyped_storage()._cdata not in owned:
                    label(x, where)
        return out

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], where: str) -> Any:
        """Call the kernel, with the random numbers of where it runs."""
        if where != CUDA or torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if any(isinstance(x, torch.Generator) for x in (*args, *kwargs.values())):
            raise RuntimeError(f"expected a cuda generator, found one of the cpu in {func}")
        with self.device.own_random_numbers():
            return func(*args, **kwargs)

    def _common(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> str:
        """Where a kernel runs; RuntimeError where CUDA would refuse what it is given."""
        found = {place(x) for x in tensors}
        if found == {CPU}:
            return CPU
        name = func._schema.name
        if name in COPIES:
            target, source = (list(_tensors((x,))) for x in args[:2])
            for to, of in zip(target, source, strict=True):
                self.device.moved(place(of), place(to), "copy")
            return place(target[0])
        if CUDA in found:
            self._count(name, args)
            if CPU in found:
                if name.startswith("aten::_foreach_"):
                    self._check_each(func, args, kwargs)
                else:
                    self._check(func, args, kwargs)
        where = CUDA if CUDA in found else CPU if CPU in found else UNKNOWN
        if UNKNOWN in found and where != UNKNOWN:
            for x in tensors:
                if place(x) == UNKNOWN:
                    label(x, where)
        return where

    def _check(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """RuntimeError unless CUDA takes this mixture: numbers in pointwise kernels, and indices."""
        name = func._schema.name
        if name in INDEXED:
            me, indices, *values = args
            if place(me) == CPU:
                raise RuntimeError(f"indices should be on the same device as the indexed tensor (cpu) in {func}")
            for _ in _on_cpu(indices):
                self.device.moved(CPU, CUDA, "index")
            if any(x.ndim for x in _on_cpu(values)):
                raise mixed(str(func))
            return
        strict = name not in TAKE_CPU_NUMBERS and torch.Tag.pointwise not in func.tags
        if "masked_fill" in name and place(args[1]) == CPU:
            raise mixed(str(func))
        given = (*args, *kwargs.values())
        names = (*(a.name for a in func._schema.arguments[: len(args)]), *kwargs)
        for argument, value in zip(names, given, strict=True):
            for x in _on_cpu([value]):
                if strict or x.ndim or argument in _written(func):
                    raise mixed(str(func))

    def _check_each(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The same for a kernel of lists: what stands at one place in them goes together."""
        given = (*args, *kwargs.values())
        lists = [x for x in given if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)]
        single = [x for x in given if isinstance(x, Tensor)]
        for group in zip(*lists, strict=True):
            together = [*group, *single]
            if len({place(x) for x in together} - {UNKNOWN}) > 1 and any(
                place(x) == CPU and (x.ndim or x is group[0]) for x in together
            ):
                raise mixed(str(func))

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        """Note a kernel for which the CPU waits."""
        if self.device.call in ONLY_ON_CPU:
            return
        if name == "aten::_local_scalar_dense":
            self.device.waits["item", _where()] += 1
        elif name in SIZES or (name == "aten::repeat_interleave" and isinstance(args[0], Tensor)):
            self.device.waits["size", _where()] += 1
        elif name in INDEXED:
            masks = [x.dtype == torch.bool and place(x) == CUDA for x in _tensors((args[1],))]
            filled = all(masks) and len(args) > 2 and args[2].numel() == 1  # becomes masked_fill
            if any(masks) and not filled:
                self.device.waits["size", _where()] += 1


class Calls(TorchFunctionMode):
    """Answers for devices, and moves tensors between them, where Python asks for it."""

    def __init__(self, device: OtherDevice) -> None:
        super().__init__()
        self.device = device
        x = Tensor
        self.own: dict[Any, Callable[..., Any]] = {
            x.device.__get__: lambda x, *_: torch.device(_known(x)),  # type: ignore[attr-defined]
            x.is_cuda.__get__: lambda x, *_: place(x) == CUDA,  # type: ignore[attr-defined]
            x.is_cpu.__get__: lambda x, *_: place(x) != CUDA,  # type: ignore[attr-defined]
            x.get_device: lambda x: 0 if place(x) == CUDA else -1,
            x.to: self._to,
            x.type_as: lambda x, other: self._to(x, other),
            x.cpu: lambda x, *_, **__: self._to(x, "cpu"),
            x.cuda: lambda x, *_, **__: self._to(x, "cuda"),
            x.numpy: self._numpy(x.numpy),
            x.__array__: self._numpy(x.__array__),
            x.tolist: self._tolist,
            x.__deepcopy__: lambda x, memo: label(x.__deepcopy__(memo), place(x)),
            x.grad.__set__: self._set_grad,  # type: ignore[attr-defined]
            x.new_tensor: self._new_tensor,
            torch.as_tensor: self._as_tensor,
        }
        self.makers = _device_constructors()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if own := self.own.get(func):
            return own(*args, **kwargs)
        before = self.device.making, self.device.call
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = "cpu"
            where = _asked(asked)
        else:
            where = CPU if func in self.makers and not any(True for _ in _tensors(args[:1])) else None
        self.device.making, self.device.call = where, getattr(func, "__name__", "")
        try:
            out = func(*args, **kwargs)
        finally:
            self.device.making, self.device.call = before
        return label(out, where) if asked is not None and isinstance(out, Tensor) else out

    def _to(self, x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
        """Tensor.to: the same tensor where nothing changes, else a copy with its label."""
        other = args[0] if args and isinstance(args[0], Tensor) else kwargs.pop("other", None)
        if other is not None:
            device, dtype, memory_format = torch.device(_known(other)), other.dtype, None
        else:
            device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        here = _known(x)
        there = here if device is None else _asked(device)
        options = {} if memory_format is None else {"memory_format": memory_format}
        if there != here:
            self.device.moved(here, there, "to")
            x, copy = Move.apply(x, there), False
        return x.to(dtype or x.dtype, copy=copy, **options)

    def _as_tensor(self, data: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        if isinstance(data, Tensor):
            return self._to(data, device, dtype)
        return self._to(torch.as_tensor(data, dtype=dtype), device)

    def _new_tensor(self, x: Tensor, data: Any, device: Any = None, **kwargs: Any) -> Tensor:
        return self._to(x.new_tensor(data, **kwargs), _known(x) if device is None else device)

    def _numpy(self, func: Callable[..., Any]) -> Callable[..., Any]:
        def convert(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            if place(x) == CUDA and not kwargs.get("force"):
                raise TypeError("can't convert cuda:0 device type tensor to numpy: copy the tensor to the cpu first")
            return func(x, *args, **kwargs)

        return convert

    def _tolist(self, x: Tensor) -> Any:
        self.device.moved(place(x), CPU, "tolist")
        return x.tolist()

    def _set_grad(self, x: Tensor, grad: Tensor | None) -> None:
        if grad is not None and _known(grad) != _known(x):
            raise RuntimeError("assigned grad has data located on a different device")
        x.grad = grad


class Move(torch.autograd.Function):
    """A copy at another place; its gradient goes back to where the tensor came from."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: str) -> Tensor:
        ctx.here = _known(x)
        return label(x.detach().clone(), there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return label(grad.clone(), ctx.here), None


def _grouped(*args: Any, group: Callable[..., Any] = torch._C._group_tensors_by_device_and_dtype) -> Any:
    """How optimizers and norms sort tensors into groups, named by where these are."""
    groups = group(*args)
    return {(torch.device(_known(lists[0][0])), dtype): (lists, i) for (_, dtype), (lists, i) in groups.items()}


def _asked(device: Any) -> str:
    """The label of a device that Python names; a GPU is 0 unless it says another number."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index:
        raise RuntimeError(f"invalid device ordinal: {device}, there is one")
    return CUDA if device.type == "cuda" else CPU


def _known(x: Tensor) -> str:
    return CUDA if place(x) == CUDA else CPU


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among a kernel's arguments or results, those in lists too."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _on_cpu(values: Sequence[Any]) -> list[Tensor]:
    return [x for x in _tensors(values) if place(x) == CPU]


@cache
def _written(func: Any) -> set[str]:
    """The arguments that a kernel writes to."""
    return {a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write}


def _where() -> str:
    """The innermost line of the package that runs now."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"
