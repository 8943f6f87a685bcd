"""Export the torch module of an engine to an ONNX file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from export.onnx.engine_modules import TORCH_DTYPES, Engine
from export.onnx.graph import OPSETS, Graph, WeightsFile
from export.onnx.lower import lower
from export.onnx.lower_fused import forms_of
from export.onnx.trace import Trace, generalise, trace
from vexpress_rt.bundle.target import ONNXRUNTIME

EXTERNAL_ABOVE = 1 << 30  # bytes of weights; an ONNX file can have at most 2 GiB
PROBES = (16000, 24000)  # values of a dynamic size at which the module is traced


def trace_engine(engine: Engine, *, composites: Collection[str] = ()) -> Trace:
    """Trace an engine at the sizes of its specification.

    Args:
        engine: The module.
        composites: See `export.onnx.trace.trace`.

    Returns:
        The trace; dynamic sizes are None.

    Raises:
        ExportError: The module cannot be traced, or a call depends on a dynamic size.
    """

    def at(size: int) -> Trace:
        inputs = [
            (t.name, tuple(size if s is None else s for s in t.shape), TORCH_DTYPES[t.dtype])
            for t in engine.spec.inputs
        ]
        return trace(engine, inputs, composites=composites)

    if all(size is not None for t in engine.spec.inputs for size in t.shape):
        return at(PROBES[0])
    return generalise(at(PROBES[0]), at(PROBES[1]))


def to_onnx(
    engine: Engine, path: Path, weights: WeightsFile | None = None, target: str = "onnxruntime", *,
    compact: bool = False, forms: Collection[str] | None = None,
) -> WeightsFile | None:  # fmt: skip
    """Write an engine to an ONNX file.

    Args:
        engine: The module.
        path: The ONNX file.
        weights: A weights file that graphs share. Without one, up to 1 GiB of weights are inside the graph, and more
            are in a file beside it.
        target: A key of `TARGETS`; determines the version of the operators.
        compact: Whether to store weights as float16 where that is exact; see `Graph.write`.
        forms: Forms of `lower_fused.FORMS`, which only float32 graphs use; None: the default of engine and target.

    Returns:
        The file of the weights; None if they are inside the graph.

    Raises:
        ExportError: The module calls a torch function that has no lowering.
    """
    forms = forms_of(engine.spec.name, target) if forms is None else forms
    used = forms if engine.activation == torch.float32 else ()
    graph = Graph(OPSETS[target], used, ort_operators=target == ONNXRUNTIME.name)
    for tensor in engine.spec.inputs:
        graph.declare(tensor, output=False)
    for tensor in engine.spec.outputs:
        graph.declare(tensor, output=True)
    lower(trace_engine(engine, composites=graph.forms), graph, [tensor.name for tensor in engine.spec.outputs])
    if weights is None and graph.weight_bytes() > EXTERNAL_ABOVE:
        weights = WeightsFile(path.with_suffix(".weights"))
    graph.write(path, weights, compact=compact)
    return weights
