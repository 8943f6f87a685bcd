"""Small torch modules as ONNX graphs, and the comparison of both."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from export.onnx.engine_modules import TORCH_DTYPES
from export.onnx.graph import OPSETS, Graph
from export.onnx.lower import lower
from export.onnx.trace import Trace, trace
from vexpress_rt.bundle.engine_spec import TensorSpec

Array = np.ndarray[Any, Any]
TOLERANCE = {np.dtype("float32"): 2e-6, np.dtype("float16"): 4e-3}


class Module(nn.Module):
    """A function as a module, with parameters a, b, c, ... of the given shapes."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in zip("abcdef", shapes, strict=False):
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *self.parameters())


def tensor_specs(arrays: list[Array], stem: str) -> list[TensorSpec]:
    """Return specifications of arrays, named by `stem` and a number."""
    return [TensorSpec(f"{stem}{i}", tuple(map(str, a.shape)), a.shape, a.dtype.name) for i, a in enumerate(arrays)]


def traced(module: nn.Module, *arrays: Array, composites: Collection[str] = ()) -> Trace:
    """Return the trace of a module at the sizes of `arrays`; inputs are named in0, in1, ..."""
    tensors = tensor_specs([*arrays], "in")
    inputs = [(t.name, a.shape, TORCH_DTYPES[t.dtype]) for t, a in zip(tensors, arrays, strict=True)]
    return trace(module, inputs, composites=composites)


def write(
    trace_: Trace, inputs: list[TensorSpec], outputs: list[TensorSpec], path: Path, target: str = "onnxruntime", *,
    forms: Collection[str] = (),
) -> None:  # fmt: skip
    """Lower a trace to an ONNX file for a target, with these inputs and outputs."""
    graph = Graph(OPSETS[target], forms, ort_operators=target == "onnxruntime")
    for tensors, output in ((inputs, False), (outputs, True)):
        for tensor in tensors:
            graph.declare(tensor, output=output)
    lower(trace_, graph, [tensor.name for tensor in outputs])
    graph.write(path, None)


def run_file(path: Path, *arrays: Array) -> list[Array]:
    """Check an ONNX file, run it with ONNX Runtime, and return the outputs."""
    graph = onnx.load(path).graph
    onnx.checker.check_model(path, full_check=not any(node.domain for node in graph.node))  # knows ONNX's operators
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {t.name: a for t, a in zip(session.get_inputs(), arrays, strict=True)}))


def compare(module: nn.Module, *arrays: Array, forms: Collection[str] = (), target: str = "onnxruntime") -> list[str]:
    """Assert that a module and its ONNX graph give the same shapes, dtypes and, within rounding, values.

    Args:
        module: The module.
        *arrays: Inputs.
        forms: Forms of `lower_fused.FORMS` that the graph may have.
        target: The target of the graph.

    Returns:
        The operators of the graph.
    """
    with torch.no_grad():
        result = module(*map(torch.from_numpy, arrays))
    expected = [t.numpy() for t in ([result] if isinstance(result, Tensor) else result)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        trace_ = traced(module, *arrays, composites=forms)
        write(trace_, tensor_specs([*arrays], "in"), tensor_specs(expected, "out"), path, target, forms=forms)
        found = run_file(path, *arrays)
        operators = [node.op_type for node in onnx.load(path).graph.node]
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(float(np.abs(b.astype(np.float64)).max(initial=0)), 1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=scale * TOLERANCE.get(b.dtype, 0))
    return operators


def normal(*shape: int, dtype: str = "float32", seed: int = 1) -> Array:
    """Return standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
