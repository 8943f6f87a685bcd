"""Copies of bfloat16 graphs that compute in float32, for comparisons on CPUs, which have no bfloat16 kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto

from export.onnx.graph import cast_to_float32, narrow_name
from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec


def write_float32_copy(path: Path, target: Path) -> None:
    """Write a copy of a bfloat16 graph that computes in float32.

    The weights stay bfloat16, and a cast follows each. Weights in an external file stay there.

    Args:
        path: The ONNX file to copy.
        target: The ONNX file to write, in the same directory.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.BFLOAT16:
            casts.append(cast_to_float32(tensor.name))
            tensor.name = narrow_name(tensor.name)
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


def float32_spec(spec: EngineSpec) -> EngineSpec:
    """Return the specification of the float32 copy of an engine.

    Args:
        spec: Specification of the engine in bfloat16.
    """

    def wide(tensor: TensorSpec) -> TensorSpec:
        return replace(tensor, dtype="float32") if tensor.dtype == "bfloat16" else tensor

    return EngineSpec(spec.name, tuple(map(wide, spec.inputs)), tuple(map(wide, spec.outputs)))
