"""Build an ONNX graph: nodes, constants, and weights inside the graph or in a file that graphs share."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from export.errors import CheckpointError
from vexpress_rt.bundle.engine_spec import TensorSpec

ONNX_DTYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.uint8: TensorProto.UINT8,
    torch.int64: TensorProto.INT64,
}
# Versions of the ONNX operators by target. From 23 on, attention is one operator.
OPSETS = {"onnxruntime": 20, "openvino": 20, "tensorrt": 23, "tensorrt-rtx": 23}
IR_VERSION = 10
ORT_DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators
# Alignment of tensors in a weights file, in bytes. Large tensors start on a page, so that runtimes can map the file.
# Smaller ones start on a cache line, because the gaps would add up.
PAGE = 4096
LARGE = 16 * PAGE
LINE = 64
INLINE = 1024  # bytes: smaller tensors stay in the graph


class WeightsFile:
    """External data of one or several graphs. Equal bytes are stored once.

    Attributes:
        path: The file.
        places: Offset and length of each stored tensor in bytes, by the sha256 of its bytes.
        end: Size of the file in bytes.
    """

    def __init__(self, path: Path):
        """Create the file.

        Args:
            path: A new file. An existing one could be a hard link to the file of another bundle, which would change.

        Raises:
            FileExistsError: The file exists.
        """
        self.path = path
        self.places: dict[bytes, tuple[int, int]] = {}
        self.end = 0
        path.touch(exist_ok=False)

    def place(self, data: bytes) -> tuple[int, int]:
        """Store bytes that the file does not have yet.

        Args:
            data: The bytes of a tensor.

        Returns:
            Their offset and length in bytes.
        """
        digest = hashlib.sha256(data).digest()
        if digest not in self.places:
            unit = PAGE if len(data) >= LARGE else LINE
            start = math.ceil(self.end / unit) * unit
            with self.path.open("r+b") as file:
                file.seek(start)
                file.write(data)
            self.places[digest] = (start, len(data))
            self.end = start + len(data)
        return self.places[digest]

    @contextmanager
    def scratch(self) -> Iterator[None]:
        """Remove the tensors that the block placed from the file when it ends."""
        places, end = dict(self.places), self.end
        try:
            yield
        finally:
            self.places, self.end = places, end
            os.truncate(self.path, end)


@dataclass
class Graph:
    """An ONNX graph under construction.

    Attributes:
        opset: Version of the ONNX operators.
        forms: Forms that are fast on the target, of `lower_fused.FORMS`.
        ort_operators: Whether the target has ONNX Runtime's own operators.
        nodes: Nodes in order of execution.
        initializers: Functions that make the weights and constants, by name. Each is called when the graph is written,
            so that memory holds one tensor at a time.
        inputs: Declared inputs.
        outputs: Declared outputs.
        count: Number of names made so far.
    """

    opset: int = OPSETS["onnxruntime"]
    forms: Collection[str] = ()
    ort_operators: bool = True
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, hint: str) -> str:
        """Return a name that begins with `hint` and that no other value has."""
        self.count += 1
        return f"{hint}_{self.count}"

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output, and return the name of the output; see `add_many`."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node.

        Args:
            op: Name of the ONNX operator.
            inputs: Names of the inputs; "" for an optional one that is left out.
            outputs: Number of outputs.
            attributes: Attributes of the operator, and its domain.

        Returns:
            The names of the outputs.
        """
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names

    def rename(self, source: str, target: str) -> None:
        """Make the value `source` the graph's output `target`."""
        made_here = any(source in node.output for node in self.nodes)
        if not made_here or source in {output.name for output in self.outputs}:
            self.nodes.append(helper.make_node("Identity", [source], [target], name=f"output_{target}"))
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [target if name == source else name for name in names]

    def declare(self, tensor: TensorSpec, *, output: bool) -> None:
        """Declare an input or output of the engine.

        Args:
            tensor: Its specification. A dynamic size is declared with its letter.
            output: Whether it is an output.
        """
        shape = [letter if size is None else size for letter, size in zip(tensor.dims, tensor.shape, strict=True)]
        kind = ONNX_DTYPES[getattr(torch, tensor.dtype)]
        (self.outputs if output else self.inputs).append(helper.make_tensor_value_info(tensor.name, kind, shape))

    def weight(self, name: str, make: Callable[[], Tensor]) -> str:
        """Add an initializer.

        Args:
            name: Name of the initializer.
            make: Makes its values when the graph is written.

        Returns:
            The name.
        """
        self.initializers.setdefault(name, make)
        return name

    def constant(self, values: Tensor) -> str:
        """Add a constant, and return its name. Equal constants share one initializer."""
        digest = hashlib.sha256(_content(values)).hexdigest()[:12]
        dtype = str(values.dtype).removeprefix("torch.")
        name = f"const_{dtype}_{'x'.join(map(str, values.shape))}_{digest}"
        return self.weight(name, lambda: values)

    def ints(self, *values: int) -> str:
        """Add a one-dimensional int64 constant, and return its name."""
        return self.constant(torch.tensor(values, dtype=torch.int64))

    def write(self, path: Path, weights: WeightsFile | None, *, compact: bool = False) -> None:
        """Write the graph, and clear its initializers.

        The functions that make initializers refer to the whole module, and through the lowering to this graph. Clearing
        them breaks that reference cycle, which would keep several GB in memory until the next garbage collection.

        Args:
            path: The ONNX file.
            weights: The file for the weights; None: inside the graph.
            compact: Whether to store float32 weights that float16 holds exactly as float16. The graph then begins with
                casts.
        """
        graph = helper.make_graph([], path.stem, self.inputs, self.outputs)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain == ORT_DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(ORT_DOMAIN, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "vexpress_rt"
        for name, make in self.initializers.items():  # directly into the model, because the helpers above copy
            values = make()
            if compact and _fits_float16(values):
                model.graph.node.append(cast_to_float32(name))
                _store(model.graph.initializer.add(name=narrow_name(name)), values.half(), weights)
            else:
                _store(model.graph.initializer.add(name=name), values, weights)
        model.graph.node.extend(self.nodes)
        path.write_bytes(model.SerializeToString())
        self.initializers.clear()

    def weight_bytes(self) -> int:
        """Return the size of all initializers in bytes."""
        return sum(t.numel() * t.element_size() for t in (make() for make in self.initializers.values()))


def narrow_name(name: str) -> str:
    """Return the name of the initializer that a cast turns into the weight `name`."""
    return f"{name}.narrow"


def cast_to_float32(name: str) -> onnx.NodeProto:
    """Return the node that casts the initializer `narrow_name(name)` to the float32 weight `name`."""
    return helper.make_node("Cast", [narrow_name(name)], [name], to=TensorProto.FLOAT)


def _fits_float16(values: Tensor) -> bool:
    """Return whether float16 holds every value exactly; False for small tensors, where a cast takes more room."""
    if values.dtype != torch.float32 or values.numel() * values.element_size() < INLINE:
        return False
    return torch.equal(values.half().float(), values)


def _store(tensor: TensorProto, values: Tensor, weights: WeightsFile | None) -> None:
    """Store `values` in `tensor`, or in `weights` if that is given."""
    data = _content(values)
    tensor.data_type = ONNX_DTYPES[values.dtype]
    tensor.dims.extend(values.shape)
    if weights is None or len(data) < INLINE:
        tensor.raw_data = data
        return
    offset, length = weights.place(data)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", weights.path.name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _content(values: Tensor) -> bytes:
    values = values.detach().contiguous()
    if values.dtype == torch.bfloat16:  # unknown to NumPy
        values = values.view(torch.int16)
    return values.numpy().tobytes()


def read_interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Read the inputs and outputs that an ONNX file declares.

    Args:
        path: The file.

    Returns:
        The inputs and the outputs.

    Raises:
        CheckpointError: The file cannot be read as ONNX, or declares no inputs or outputs.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is not public
        raise CheckpointError(f"{path} is not an ONNX file ({error}): fetch it again") from error
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = tuple(_describe(value) for value in graph.input if value.name not in initializers)
    outputs = tuple(_describe(value) for value in graph.output)
    if not inputs or not outputs:  # an empty file is a valid ONNX model
        raise CheckpointError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: fetch it again")
    return inputs, outputs


def _describe(value: onnx.ValueInfoProto) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
    letters = tuple(dim.dim_param or str(size or "?") for dim, size in zip(kind.shape.dim, sizes, strict=True))
    return TensorSpec(value.name, letters, sizes, np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)).name)
