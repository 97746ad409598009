"""Formats: a module written by torch.export and as ONNX, and run from the file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind

from mbrl_lab.export.acting import Acting, Signature

Call = Callable[..., Sequence[Tensor]]
"""The inputs of a `Signature` -> its outputs."""

ONNX = ("onnx", "onnxruntime", "onnxscript")
"""The packages of the extra `export`."""


@torch.no_grad()
def traced(module: Acting) -> ExportedProgram:
    """The module's graph for any batch, with the weights that it reads and no others."""
    inputs, batch = module.signature.zeros(2), {0: Dim("batch", min=1)}
    given, belief = inputs[: module.given], inputs[module.given :]
    # The belief's tensors are one parameter, *belief.
    shapes = (*(batch for _ in given), *([tuple(batch for _ in belief)] if belief else []))
    with quiet():
        program = torch.export.export(module, inputs, dynamic_shapes=shapes)
    drop_unread(program)
    return program


def drop_unread(program: ExportedProgram) -> None:
    """Remove weights that no output depends on, such as critics, and the paths of source files."""
    graph, signature = program.graph_module.graph, program.graph_signature
    places = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    for node in graph.nodes:
        node.meta.pop("stack_trace", None)

    kept = []
    for spec in signature.input_specs:
        node = places[spec.arg.name]
        if node.users or spec.kind is InputKind.USER_INPUT:
            kept.append(spec)
        else:
            graph.erase_node(node)
            program.state_dict.pop(spec.target, None)
            program.constants.pop(spec.target, None)
    signature.input_specs[:] = kept
    program.graph_module.recompile()


def write_torch(program: ExportedProgram, path: Path) -> None:
    with quiet():
        torch.export.save(program, path)


def run_torch(path: Path) -> Call:
    """The program of a file."""
    call = torch.export.load(path).module()
    return lambda *inputs: call(*inputs)


def write_onnx(program: ExportedProgram, signature: Signature, path: Path) -> str | None:
    """Write the program as ONNX; returns why that is impossible, if it is."""
    if missing := next((name for name in ONNX if find_spec(name) is None), None):
        return f'{missing} is not installed: pip install "mbrl_lab[export]"'

    inputs, outputs = ([x.name for x in fields] for fields in (signature.inputs, signature.outputs))
    try:
        with quiet():
            made = torch.onnx.export(program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs)
    except torch.onnx.errors.OnnxExporterError as error:  # for an operation in a network of the user's own
        return str(error.__cause__ or error).partition("\n")[0]
    assert made is not None
    made.save(path)
    return None


def run_onnx(path: Path, signature: Signature) -> Call:
    """The model of a file on the CPU, with as many threads as PyTorch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [x.name for x in signature.inputs]

    def call(*inputs: Tensor) -> list[Tensor]:
        outputs: list[Any] = session.run(None, {k: x.numpy() for k, x in zip(names, inputs, strict=True)})
        return [torch.as_tensor(x) for x in outputs]

    return call


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
