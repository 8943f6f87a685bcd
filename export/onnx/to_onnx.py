"""An engine's torch module -> an ONNX file."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from export.onnx.engine_modules import TORCH_DTYPES, Engine
from export.onnx.graph import OPSETS, Graph, WeightsFile
from export.onnx.lower import lower
from export.onnx.lower_fused import forms_of
from export.onnx.trace import Trace, generalise, trace
from vexpress_rt.bundle.engine_spec import TARGETS

EXTERNAL_ABOVE = 1 << 30  # bytes of weights; ONNX files end at 2 GiB
PROBES = (16000, 24000)  # sizes of a dynamic dim that the trace is taken at


def trace_engine(engine: Engine, *, composites: Collection[str] = ()) -> Trace:
    """The calls of `engine` at the sizes of its specification; dynamic sizes stay dynamic. composites: see `trace`."""

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
    """Write `engine` to `path`; the file that its weights went to, None if they are inside.

    target: of `specs.TARGETS`; decides the version of ONNX.
    weights: a file to share with other graphs. Without one, weights go inside up to 1 GiB, else beside the graph.
    compact: store as float16 what that holds exactly (see `Graph.write`).
    forms: for ONNX Runtime's CPU kernels, which float32 graphs for it get; None: those that the engine ships with.
    """
    forms = forms_of(engine.spec.name) if forms is None else forms
    for_cpu = target == TARGETS[0] and engine.activation == torch.float32
    graph = Graph(OPSETS[target], forms if for_cpu else ())
    for tensor in engine.spec.inputs:
        graph.declare(tensor, output=False)
    for tensor in engine.spec.outputs:
        graph.declare(tensor, output=True)
    lower(trace_engine(engine, composites=graph.forms), graph, [tensor.name for tensor in engine.spec.outputs])
    if weights is None and graph.weight_bytes() > EXTERNAL_ABOVE:
        weights = WeightsFile(path.with_suffix(".weights"))
    graph.write(path, weights, compact=compact)
    return weights
