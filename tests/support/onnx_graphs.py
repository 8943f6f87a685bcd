"""Small ONNX graphs, and the specifications that fit them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vexpress_rt.bundle.engine_spec import EngineSpec, TensorSpec

FLOAT, HALF, BF16, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT8
INT64, DOUBLE = TensorProto.INT64, TensorProto.DOUBLE
DTYPES = {FLOAT: "float32", HALF: "float16", BF16: "bfloat16", UINT8: "uint8", INT64: "int64", DOUBLE: "float64"}
Value = tuple[str, int, Sequence[int | str]]


def node(operator: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """Return a node; inputs and outputs are names separated by spaces."""
    return helper.make_node(operator, inputs.split(), outputs.split(), name=name, **attributes)


def weight(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    """Return an initializer with numbers between -1 and 1."""
    values = np.random.default_rng(0).uniform(-1, 1, shape)
    return numpy_helper.from_array(values.astype(dtype), name)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    weights: Sequence[onnx.TensorProto] = (),
    *,
    external: str | None = None,
) -> EngineSpec:
    """Write a graph of opset 23 and return its interface.

    Args:
        path: ONNX file to write.
        nodes: Nodes of the graph.
        inputs: (name, element type, shape) of each; a letter in a shape is an open size.
        outputs: Like the inputs.
        weights: Initializers.
        external: Name of a file for the weights; None keeps them in the graph.
    """
    ends = ([helper.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs))
    graph = helper.make_graph(nodes, path.stem, *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    if external is None:
        onnx.save(model, str(path))
    else:
        onnx.save(model, str(path), save_as_external_data=True, location=external, size_threshold=0)
    return EngineSpec(path.stem, *(tuple(_tensor(*value) for value in values) for values in (inputs, outputs)))


def _tensor(name: str, element: int, shape: Sequence[int | str]) -> TensorSpec:
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return TensorSpec(name, tuple(map(str, shape)), sizes, DTYPES[element])


def save_relu(graph: Path) -> EngineSpec:
    return save(graph, [node("Relu", "x", "y", "rectify")], [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 3])])


def save_attention(graph: Path, element: int, channels: int) -> EngineSpec:
    """Write a graph of a convolution and self-attention."""
    dtype = np.float16 if element == HALF else np.float32
    nodes = [
        node("Conv", "x w", "c", "convolve", pads=[1, 1, 1, 1]),
        node("Reshape", "c shape", "s"),
        node("Transpose", "s", "t", perm=[0, 1, 3, 2]),
        node("Attention", "t t t", "y", "attend", scale=1.0),
    ]
    shape = onnx.numpy_helper.from_array(np.array([1, 2, channels, 64]), "shape")
    weights = [weight("w", 2 * channels, 4, 3, 3, dtype=dtype), shape]
    return save(graph, nodes, [("x", element, [1, 4, 8, 8])], [("y", element, [1, 2, 64, channels])], weights)


def save_wide_attention(graph: Path) -> EngineSpec:
    """Write a graph of attention with the VAE's 512 channels per head, for which TensorRT has no fused kernel."""
    inputs = [(name, HALF, [1, 1, 64, 512]) for name in "qkv"]
    return save(graph, [node("Attention", "q k v", "y", "attend", scale=1.0)], inputs, [("y", HALF, [1, 1, 64, 512])])


def save_open(graph: Path, letter: str) -> EngineSpec:
    """Write a graph that subtracts their softmax from any number of samples."""
    nodes = [node("Softmax", "samples", "p"), node("Sub", "samples p", "y")]
    return save(graph, nodes, [("samples", FLOAT, [1, letter])], [("y", FLOAT, [1, letter])])


WEIGHTS = b"weights of the denoiser" * 100


def external(name: str, location: str, **place: object) -> onnx.TensorProto:
    """Return a tensor with external data in the file `location`; `place` overrides entries such as the offset."""
    tensor = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[len(WEIGHTS)], data_location=1)
    for key, value in {"location": location, "offset": 0, "length": len(WEIGHTS), **place}.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def one_node_model(*weights: onnx.TensorProto, name: str = "graph") -> onnx.ModelProto:
    """Return a graph that returns its input and contains `weights`."""
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [1]) for end in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name, ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
