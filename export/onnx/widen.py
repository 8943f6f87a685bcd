"""bfloat16 graphs where no bfloat16 kernels are: a copy that computes in float32, to be checked on a CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto

from export.onnx.graph import narrow, widening
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec


def widen(path: Path, target: Path) -> None:
    """Write a copy of the bfloat16 graph in the file `path` to `target`, in the same folder, that computes in float32.

    Nodes and weights are the same: weights stay bfloat16, each goes through a cast. Weights in other files stay there.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            casts.append(widening(tensor.name))
            tensor.name = narrow(tensor.name)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.BFLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.BFLOAT16:
                attribute.i = TensorProto.FLOAT
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    target.write_bytes(model.SerializeToString())


def widened(spec: EngineSpec) -> EngineSpec:
    """The specification of the widened graph."""

    def wide(tensor: TensorSpec) -> TensorSpec:
        return replace(tensor, dtype="float32") if tensor.dtype == "bfloat16" else tensor

    return EngineSpec(spec.name, tuple(map(wide, spec.inputs)), tuple(map(wide, spec.outputs)))
