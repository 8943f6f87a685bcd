"""A reader of untrusted ONNX files: nodes and tensors of the graph, without the onnx library.

The tables below list the fields that the exporter and released face detectors write. Fields for subgraphs (control
flow, functions, training) and for other forms of data (sparse, segmented, quantised) are absent or refused, so that
reading a file with such a field fails.

Source: onnx.proto of ONNX 1.19, IR version 10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vexpress_rt.bundle.protobuf import Data, Field, Reader, Schema, Span, refuse

FIELDS_LIMIT = 2_000_000  # in all messages; the largest graph of the released model has 80,000
NODES_LIMIT = TENSORS_LIMIT = 20_000  # per graph; that graph has 3,400 and 1,500
NAME_LIMIT = 1024  # bytes
RANK_LIMIT = 16
COUNT_LIMIT = 1 << 34  # elements of a tensor
_VALUES = 64  # integer tensors up to this size are read: shapes, axes

FLOAT, INT64, FLOAT16 = 1, 7, 10
# Bytes of an element by its type, and the fields beside raw_data that may hold it. Strings and 4-bit types are absent.
SIZES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
_STORED = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}
_WIDTHS = {"float_data": 4, "double_data": 8}

_DOC = Field("doc_string", "span")
_PROPS = Field("metadata_props", "span", 4096, repeated=True)
_MODEL: Schema = {
    1: Field("ir_version", "int"), 2: Field("producer_name", "text", NAME_LIMIT),
    3: Field("producer_version", "text", NAME_LIMIT), 4: Field("domain", "text", NAME_LIMIT),
    5: Field("model_version", "int"), 6: _DOC, 7: Field("graph", "span"),
    8: Field("opset_import", "span", 16, repeated=True), 14: _PROPS,
    20: Field("training_info", "refused"), 25: Field("functions", "refused"), 26: Field("configuration", "refused"),
}  # fmt: skip
_OPSET: Schema = {1: Field("domain", "text", NAME_LIMIT), 2: Field("version", "int")}
_GRAPH: Schema = {
    1: Field("node", "span", NODES_LIMIT, repeated=True), 2: Field("name", "text", NAME_LIMIT),
    5: Field("initializer", "span", TENSORS_LIMIT, repeated=True), 10: _DOC,
    11: Field("input", "span", TENSORS_LIMIT, repeated=True), 12: Field("output", "span", 1024, repeated=True),
    13: Field("value_info", "span", 4 * NODES_LIMIT, repeated=True), 16: _PROPS,
    14: Field("quantization_annotation", "refused"), 15: Field("sparse_initializer", "refused"),
}  # fmt: skip
_NODE: Schema = {
    1: Field("input", "text", NAME_LIMIT, repeated=True), 2: Field("output", "text", NAME_LIMIT, repeated=True),
    3: Field("name", "text", NAME_LIMIT), 4: Field("op_type", "text", NAME_LIMIT),
    5: Field("attribute", "span", 64, repeated=True), 6: _DOC,
    7: Field("domain", "text", NAME_LIMIT), 9: _PROPS,
}  # fmt: skip
_ATTRIBUTE: Schema = {
    1: Field("name", "text", NAME_LIMIT), 2: Field("f", "float"), 3: Field("i", "int"),
    4: Field("s", "text", NAME_LIMIT), 5: Field("t", "span"), 7: Field("floats", "floats", 4096),
    8: Field("ints", "ints", 4096), 13: _DOC, 20: Field("type", "int"),
    6: Field("a graph", "refused"), 11: Field("graphs", "refused"), 10: Field("a list of tensors", "refused"),
    9: Field("a list of texts", "refused"), 22: Field("a sparse tensor", "refused"),
    21: Field("a reference to a function's attribute", "refused"),
}  # fmt: skip
_FORMS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints"}  # the value's field, by the attribute's type
_TENSOR: Schema = {
    1: Field("dims", "ints", RANK_LIMIT), 2: Field("data_type", "int"), 4: Field("float_data", "fixed32"),
    5: Field("int32_data", "varints"), 7: Field("int64_data", "varints"), 8: Field("name", "text", NAME_LIMIT),
    9: Field("raw_data", "span"), 10: Field("double_data", "fixed64"), 11: Field("uint64_data", "varints"),
    12: _DOC, 13: Field("external_data", "span", 3, repeated=True),
    14: Field("data_location", "int"), 16: _PROPS,
}  # fmt: skip
_ENTRY: Schema = {1: Field("key", "text", NAME_LIMIT), 2: Field("value", "text", NAME_LIMIT)}
_VALUE: Schema = {
    1: Field("name", "text", NAME_LIMIT), 2: Field("type", "span"), 3: _DOC, 4: _PROPS,
}  # fmt: skip
_TYPE: Schema = {1: Field("tensor_type", "span"), 6: Field("denotation", "text", NAME_LIMIT)}
_TENSOR_TYPE: Schema = {1: Field("elem_type", "int"), 2: Field("shape", "span")}
_SHAPE: Schema = {1: Field("dim", "span", RANK_LIMIT, repeated=True)}
_DIM: Schema = {
    1: Field("dim_value", "int"), 2: Field("dim_param", "text", NAME_LIMIT), 3: Field("denotation", "text", NAME_LIMIT),
}  # fmt: skip


ByteRange = tuple[int, int, int]  # of a tensor in another file: element type, first byte, byte after the last


@dataclass(frozen=True)
class ExternalData:
    """The location of a tensor's bytes in another file: the file name in the graph, offset and length in bytes."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class Tensor:
    """A tensor in the file, or in another file to which it refers.

    Attributes:
        name: Its name, unique in the graph.
        element: Its element type, a key of `SIZES`.
        dims: Its shape.
        external: Its location in another file; None for a tensor in this file.
        values: The elements of a small int64 tensor in this file; None for other tensors.
        pieces: Spans of the little-endian numbers in this file; for varints also the numbers themselves.
        varints: Whether the pieces are varints.
    """

    name: str
    element: int
    dims: tuple[int, ...]
    external: ExternalData | None = None
    values: tuple[int, ...] | None = None
    pieces: Sequence[Span | int] = ()
    varints: bool = False

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Size of all elements."""
        return self.count * SIZES[self.element]

    @property
    def byte_range(self) -> ByteRange:
        """Its bytes in another file; only for a tensor with `external`."""
        assert self.external is not None
        return self.element, self.external.offset, self.external.offset + self.external.length


@dataclass(frozen=True)
class Node:
    """A node: its operator, and the names of its inputs and outputs; "" stands for an omitted input."""

    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def __str__(self) -> str:
        return f"the node {self.operator} of {self.outputs[0] if self.outputs else 'nothing'!r}"


@dataclass
class Graph:
    """The graph of a file.

    Attributes:
        opsets: Opset version by domain.
        nodes: The nodes, in the order of the file.
        initializers: Tensors by name.
        inputs: Names of the inputs.
        outputs: Names of the outputs.
    """

    opsets: dict[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, Tensor] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def read_graph(data: Data) -> Graph:
    """Read the graph of an ONNX file.

    Args:
        data: The content of the file.

    Returns:
        The graph. Weights are not copied.

    Raises:
        BundleDamagedError: The file is malformed, or has a field that no exporter of engines writes.
    """
    reader = _OnnxReader(data)
    model = reader.message(data, (0, len(data)), _MODEL, "the model")
    if "graph" not in model:
        refuse("it holds no graph, so it is not an ONNX file")
    graph = Graph()
    for span in model.get("opset_import", []):
        entry = reader.message(data, span, _OPSET, "an opset_import")
        domain = _domain(entry.get("domain", ""))
        if domain in graph.opsets:
            refuse(f"it imports the domain {domain or 'ai.onnx'!r} twice")
        graph.opsets[domain] = entry.get("version", 0)
    parts = reader.message(data, model["graph"], _GRAPH, "the graph")
    for span in parts.get("initializer", []):
        tensor = reader.tensor(data, span)
        if not tensor.name or tensor.name in graph.initializers:
            refuse(f"it has initializers called {tensor.name!r} twice, or without a name")
        graph.initializers[tensor.name] = tensor
    graph.nodes = [reader.node(span) for span in parts.get("node", [])]
    graph.inputs = [reader.value(span) for span in parts.get("input", [])]
    graph.outputs = [reader.value(span) for span in parts.get("output", [])]
    for span in parts.get("value_info", []):
        reader.value(span)
    return graph


class _OnnxReader(Reader):
    def __init__(self, data: Data) -> None:
        super().__init__(FIELDS_LIMIT)
        self._data = data

    def node(self, span: Span) -> Node:
        data = self._data[slice(*span)]  # a copy, because `bytes` are indexed faster than a mapped file
        found = self.message(data, (0, len(data)), _NODE, "a node")
        where = f"the node {found.get('op_type', '')} {found.get('name', '')!r}"
        attributes: dict[str, Any] = {}
        for part in found.get("attribute", []):
            name, value = self._attribute(data, part, where, span[0])
            if name in attributes:
                refuse(f"{where} has the attribute {name!r} twice")
            attributes[name] = value
        return Node(
            found.get("op_type", ""),
            _domain(found.get("domain", "")),
            tuple(found.get("input", ())),
            tuple(found.get("output", ())),
            attributes,
        )

    def _attribute(self, data: Data, span: Span, where: str, start: int) -> tuple[str, Any]:
        found = self.message(data, span, _ATTRIBUTE, f"an attribute of {where}")
        name, kind = found.get("name", ""), found.get("type", 0)
        form = _FORMS.get(kind)
        if not name or form is None:
            refuse(f"{where} has the attribute {name!r} of type {kind}; expected numbers, a text or a tensor")
        if others := sorted(found.keys() - {"name", "type", "doc_string", form}):
            refuse(f"{where} has the attribute {name!r} of type {kind} with {', '.join(others)}")
        if form == "t":
            if "t" not in found:
                refuse(f"{where} has the attribute {name!r} without its tensor")
            return name, self.tensor(data, found["t"], start)
        if form in ("f", "floats"):
            return name, _floats(data, found.get(form, []))
        return name, found.get(form, {"i": 0, "s": "", "ints": []}[form])

    def tensor(self, data: Data, span: Span, start: int = 0) -> Tensor:
        """Read the tensor in `span` of `data`, which begins at byte `start` of the file."""
        found = self.message(data, span, _TENSOR, "a tensor")
        name, element, dims = found.get("name", ""), found.get("data_type", 0), tuple(found.get("dims", ()))
        where = f"the tensor {name!r}"
        if element not in SIZES:
            refuse(f"{where} has the element type {element}; expected one of {', '.join(map(str, SIZES))}")
        if any(size < 0 for size in dims) or math.prod(dims) > COUNT_LIMIT:
            refuse(f"{where} has the dims {dims}; expected sizes of at least 0 and at most {COUNT_LIMIT} elements")
        tensor = Tensor(name, element, dims)
        forms = sorted(found.keys() & {"raw_data", "external_data", "int32_data", *_STORED.values()})
        external = found.get("data_location", 0)
        if external not in (0, 1) or (external == 1) != ("external_data" in found) or len(forms) > 1:
            refuse(f"{where} has data_location = {external} with {', '.join(forms) or 'no data'}")
        if external:
            return Tensor(name, element, dims, self._external(data, found["external_data"], tensor, where))
        if forms and forms[0] not in ("raw_data", _STORED.get(element, "int32_data")):
            refuse(f"{where} of the element type {element} has {forms[0]}")
        held = self._held(data, found[forms[0]], forms[0], tensor, where) if forms else 0
        if held != tensor.count:
            refuse(f"{where} has {held} elements; expected {tensor.count}, as its dims {dims} say")
        small = element == INT64 and forms and tensor.count <= _VALUES
        values = self._values(data, found[forms[0]], forms[0], where) if small else () if not tensor.count else None
        pieces = () if not forms else [found["raw_data"]] if forms[0] == "raw_data" else found[forms[0]]
        if start:
            pieces = [piece if isinstance(piece, int) else (piece[0] + start, piece[1] + start) for piece in pieces]
        return Tensor(name, element, dims, None, values, pieces, varints=bool(forms) and forms[0] == "int32_data")

    def _held(self, data: Data, content: Any, form: str, tensor: Tensor, where: str) -> int:
        """Return the number of a tensor's elements in the file."""
        size: int
        if form == "raw_data":
            size, rest = divmod(content[1] - content[0], SIZES[tensor.element])
            if rest:
                refuse(f"{where} has {content[1] - content[0]} bytes; expected a multiple of {SIZES[tensor.element]}")
            return size
        count = 0
        for piece in content:
            if isinstance(piece, int):
                count += 1
            elif form in _WIDTHS:
                size, rest = divmod(piece[1] - piece[0], _WIDTHS[form])
                if rest:
                    refuse(f"{where} has {form} that ends in the middle of a number")
                count += size
            else:  # a varint ends at its first byte below 128
                count += _ends(data, piece)
        return count

    def _values(self, data: Data, content: Any, form: str, where: str) -> tuple[int, ...]:
        if form == "raw_data":
            return tuple(np.frombuffer(data[slice(*content)], "<i8").tolist())
        return tuple(
            value
            for piece in content
            for value in ([piece] if isinstance(piece, int) else self.varints(data, piece, where))
        )

    def _external(self, data: Data, spans: list[Span], tensor: Tensor, where: str) -> ExternalData:
        entries: dict[str, str] = {}
        for span in spans:
            entry = self.message(data, span, _ENTRY, f"the external data of {where}")
            entries[entry.get("key", "")] = entry.get("value", "")
        if entries.keys() != {"location", "offset", "length"} or len(spans) != 3:
            refuse(f"{where} has external data by {sorted(entries)}; expected location, offset and length")
        for key in ("offset", "length"):
            if not (entries[key].isascii() and entries[key].isdigit() and len(entries[key]) < 20):
                refuse(f"{where} has external data with {key} = {entries[key]!r}; expected a whole number")
        external = ExternalData(entries["location"], int(entries["offset"]), int(entries["length"]))
        if external.length != tensor.bytes:
            refuse(f"{where} takes {external.length} bytes; expected {tensor.bytes}, as its dims {tensor.dims} say")
        return external

    def value(self, span: Span) -> str:
        """Return the name of an input, an output or an intermediate value, after checking its type."""
        data = self._data[slice(*span)]
        found = self.message(data, (0, len(data)), _VALUE, "a value")
        where = f"the value {found.get('name', '')!r}"
        if not found.get("name"):
            refuse("it has a value without a name")
        if "type" not in found:
            return str(found["name"])
        kind = self.message(data, found["type"], _TYPE, where)
        if "tensor_type" not in kind:
            refuse(f"{where} is not a tensor")
        tensor = self.message(data, kind["tensor_type"], _TENSOR_TYPE, where)
        shape = self.message(data, tensor["shape"], _SHAPE, where) if "shape" in tensor else {}
        for span in shape.get("dim", []):
            dim = self.message(data, span, _DIM, where)
            if {"dim_value", "dim_param"} <= dim.keys() or not 0 <= dim.get("dim_value", 0) <= COUNT_LIMIT:
                refuse(f"{where} has the size {dim}; expected a number of at least 0, or a name")
        return str(found["name"])


def _ends(data: Data, span: Span) -> int:
    """Count the bytes below 128, a megabyte at a time, so that nothing large is copied."""
    start, stop = span
    pieces = (data[at : min(at + (1 << 20), stop)] for at in range(start, stop, 1 << 20))
    return sum(int(np.count_nonzero(np.frombuffer(piece, np.uint8) < 0x80)) for piece in pieces)


def _floats(data: Data, spans: Any) -> tuple[float, ...]:
    spans = [spans] if isinstance(spans, tuple) else spans
    if any((stop - start) % 4 for start, stop in spans):
        refuse("an attribute has floats that end in the middle of a number")
    return tuple(v for start, stop in spans for v in np.frombuffer(data[start:stop], "<f4").tolist())


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name
