"""Builds an ONNX graph: nodes, small constants, and weights that may live in a shared file beside it."""

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
OPSETS = {"onnxruntime": 20, "tensorrt": 23, "tensorrt-rtx": 23}  # from 23 on attention is one operator
IR_VERSION = 10
ORT_DOMAIN = "com.microsoft"  # of ONNX Runtime's own operators
PAGE = 4096  # bytes: large tensors start on a page, so that runtimes can map the file;
LARGE = 16 * PAGE  # these are, for smaller ones what a page leaves empty would add up;
LINE = 64  # they start on a cache line,
INLINE = 1024  # and those below this stay in the graph


class WeightsFile:
    """External data that several graphs may share: equal bytes are stored once.

    The file must be new: it could be a hard link to the file of another bundle, and would be written through.
    """

    def __init__(self, path: Path):
        self.path = path
        self.places: dict[bytes, tuple[int, int]] = {}
        self.end = 0
        path.touch(exist_ok=False)

    def place(self, data: bytes) -> tuple[int, int]:
        """Offset and length of `data` in the file, after writing it there if it was not yet."""
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
        """What is placed inside the block is taken out of the file at its end."""
        places, end = dict(self.places), self.end
        try:
            yield
        finally:
            self.places, self.end = places, end
            os.truncate(self.path, end)


@dataclass
class Graph:
    """Nodes in order; initializers by name, each made when it is written, so that memory holds one at a time.

    forms: of `lower_fused.FORMS`, which its target may have.
    """

    opset: int = OPSETS["onnxruntime"]
    forms: Collection[str] = ()
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    count: int = 0

    def fresh(self, hint: str) -> str:
        """A name that no other value has."""
        self.count += 1
        return f"{hint}_{self.count}"

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node; the names of its outputs."""
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names

    def rename(self, source: str, target: str) -> None:
        """Give the value `source` to the graph's output `target`."""
        made_here = any(source in node.output for node in self.nodes)
        if not made_here or source in {output.name for output in self.outputs}:
            self.nodes.append(helper.make_node("Identity", [source], [target], name=f"output_{target}"))
            return
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [target if name == source else name for name in names]

    def declare(self, tensor: TensorSpec, *, output: bool) -> None:
        """Declare an input or output of the engine's specification; sizes unknown until run time keep their letter."""
        shape = [letter if size is None else size for letter, size in zip(tensor.dims, tensor.shape, strict=True)]
        kind = ONNX_DTYPES[getattr(torch, tensor.dtype)]
        (self.outputs if output else self.inputs).append(helper.make_tensor_value_info(tensor.name, kind, shape))

    def weight(self, name: str, make: Callable[[], Tensor]) -> str:
        """An initializer called `name`, made by `make` when the graph is written."""
        self.initializers.setdefault(name, make)
        return name

    def small(self, values: Tensor) -> str:
        """A constant by its values: equal ones share one initializer."""
        digest = hashlib.sha256(_content(values)).hexdigest()[:12]
        dtype = str(values.dtype).removeprefix("torch.")
        name = f"const_{dtype}_{'x'.join(map(str, values.shape))}_{digest}"
        return self.weight(name, lambda: values)

    def ints(self, *values: int) -> str:
        """A one-dimensional int64 constant."""
        return self.small(torch.tensor(values, dtype=torch.int64))

    def write(self, path: Path, weights: WeightsFile | None, *, compact: bool = False) -> None:
        """Write the graph to `path`, its weights inside or, if given, into `weights`. It is empty afterwards.

        compact: float32 weights that float16 holds exactly are stored as float16, and the graph begins by casting them.

        What makes an initializer holds the whole module, and by way of the lowering this graph: unless the circle is
        broken here, a module of several GB stays in memory until Python looks for such circles.
        """
        graph = helper.make_graph([], path.stem, self.inputs, self.outputs)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(node.domain == ORT_DOMAIN for node in self.nodes):
            opsets.append(helper.make_opsetid(ORT_DOMAIN, 1))
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        model.producer_name = "vexpress_rt"
        for name, make in self.initializers.items():  # straight into the model: each helper above makes a copy
            values = make()
            if compact and _fits_half(values):
                model.graph.node.append(widening(name))
                _store(model.graph.initializer.add(name=narrow(name)), values.half(), weights)
            else:
                _store(model.graph.initializer.add(name=name), values, weights)
        model.graph.node.extend(self.nodes)
        path.write_bytes(model.SerializeToString())
        self.initializers.clear()

    def weight_bytes(self) -> int:
        """Size of all initializers, in bytes."""
        return sum(t.numel() * t.element_size() for t in (make() for make in self.initializers.values()))


def narrow(name: str) -> str:
    """What the stored numbers of the weight `name` are called where a cast widens them."""
    return f"{name}.narrow"


def widening(name: str) -> onnx.NodeProto:
    """The node that makes the float32 weight `name` of its narrow numbers."""
    return helper.make_node("Cast", [narrow(name)], [name], to=TensorProto.FLOAT)


def _fits_half(values: Tensor) -> bool:
    """Whether float16 holds every number exactly. Of small weights a cast would take the room that it saves."""
    if values.dtype != torch.float32 or values.numel() * values.element_size() < INLINE:
        return False
    return torch.equal(values.half().float(), values)


def _store(tensor: TensorProto, values: Tensor, weights: WeightsFile | None) -> None:
    """Put `values` into `tensor` or, if given, into `weights`."""
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
    """Inputs and outputs of the ONNX file `path`, as found. Raises CheckpointError if it is none."""
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError is no public name
        raise CheckpointError(f"{path} is no ONNX file ({error}): fetch it again") from error
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
