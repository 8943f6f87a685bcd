"""Checks of an engine's graph before any library reads it: operators, external weights, constants.

A graph is code for the library that loads it. Libraries fold constants while they load a graph, so that a file of a
kilobyte can take gigabytes; the checks bound that. They do not bound the computation of an engine that runs: see "What
trusting a bundle means" in docs/bundles.md.
"""

from __future__ import annotations

import io
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vexpress_rt.bundle.onnx_graph import RANK_LIMIT, SIZES, Graph, Node, Tensor, read_graph
from vexpress_rt.bundle.protobuf import Data, refuse
from vexpress_rt.bundle.weight_check import find_in_graph


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Released face detectors have opset 11, the exporter writes 20 and 23; the versions in between are similar.
OPSETS = {
    "": range(7, 26),
    "com.microsoft": range(1, 2),
    "ai.onnx.ml": range(1, 6),  # some graphs declare it, none uses it
}

# The operators of the exporter and of released face detectors (SCRFD, YuNet). None of them has a subgraph, loops, draws
# random numbers, reads files, or creates a tensor whose size is the value of another tensor.
OPERATORS = {
    "": _words("""
        Add Attention AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv Cos DepthToSpace Div Exp
        Flatten Floor Gather Gelu GlobalAveragePool HardSigmoid HardSwish Identity InstanceNormalization
        LayerNormalization LeakyRelu MatMul Max MaxPool Min Mul PRelu Pad Pow ReduceMax ReduceMean ReduceMin ReduceSum
        Relu Reshape Resize Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Transpose Unsqueeze Upsample
        """),
    "com.microsoft": frozenset({"BiasGelu", "MultiHeadAttention"}),
}
# Attributes by which libraries divide, or allocate memory, without a check.
_POSITIVE = _words("strides dilations kernel_shape group num_heads q_num_heads kv_num_heads blocksize num_outputs")
_NOT_NEGATIVE = frozenset({"pads"})
_ATTRIBUTE_LIMIT = 1 << 16

# Operators whose inputs may all be constants, grouped by the size of their output. The exporter writes some: it widens
# weights stored as float16, and gathers and sums those of upsampling convolutions.
_ELEMENTWISE = _words("Add Div Max Min Mul Pow Sub")
_RESHAPING = _words("Flatten Reshape Squeeze Transpose Unsqueeze")
_NO_LARGER = _words("Ceil Clip Exp Floor ReduceMax ReduceMean ReduceMin ReduceSum Relu Sigmoid Slice Split Sqrt")

CONSTANTS_RATIO = 8  # bytes of folded constants per stored byte; the exporter's graphs stay below 4
CONSTANTS_FLOOR = 16 << 20  # bytes of folded constants that every graph may have
CONSTANTS_WORK = 64  # multiplications per byte of folded constants; the exporter's graphs take 2


@dataclass(frozen=True)
class GraphWeights:
    """The weights of a checked graph.

    Attributes:
        fault: The first fault of numbers in the graph's own file; None if all are finite.
        external: Tensors in other files, by file name.
    """

    fault: str | None
    external: Mapping[str, list[Tensor]]


def check_graph_file(file: io.BufferedReader, weights: Mapping[str, int]) -> GraphWeights:
    """Check the graph in an open file, which is mapped and not copied.

    Weights that are not finite are reported and not refused.

    Args:
        file: The ONNX file, at least 1 byte.
        weights: As in `check_graph`.

    Returns:
        The weights, and the first one that is not finite.

    Raises:
        BundleDamagedError: The file is empty, or `check_graph` refuses it.
        OSError: The file cannot be read.
    """
    if not os.fstat(file.fileno()).st_size:
        refuse("it is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        graph = check_graph(data, weights)
        fault = find_in_graph(data, graph)
    external: dict[str, list[Tensor]] = {}
    for tensor in graph.initializers.values():
        if tensor.external is not None:
            external.setdefault(tensor.external.location, []).append(tensor)
    return GraphWeights(fault, external)


def check_graph(data: Data, weights: Mapping[str, int]) -> Graph:
    """Refuse a graph that no exporter of engines writes.

    Args:
        data: The content of the ONNX file.
        weights: Sizes in bytes of the files beside it from which it may take weights, by name.

    Returns:
        The graph.

    Raises:
        BundleDamagedError: The file is malformed; an operator is not in `OPERATORS`, or an opset not in `OPSETS`; a
            value is used before it is computed, or computed twice; weights are in another file or beyond the end of
            theirs; or folded constants are far larger than the stored ones. The message names the fault.
    """
    graph = read_graph(data)
    _check_opsets(graph)
    for tensor in graph.initializers.values():
        _check_external(tensor, weights)
    constants = _Constants(graph)
    made = {"", *graph.initializers, *graph.inputs}
    _check_names(graph)
    for node in graph.nodes:
        _check_node(node)
        if missing := [name for name in node.inputs if name not in made]:
            refuse(f"{node} takes {missing[0]!r}, which no node before it computes")
        for name in node.outputs:
            if name and name in made:
                refuse(f"{node} computes {name!r}, which exists already")
            made.add(name)
        constants.follow(node)
    if missing := [name for name in graph.outputs if name not in made]:
        refuse(f"it has the output {missing[0]!r}, which no node computes")
    return graph


def _check_opsets(graph: Graph) -> None:
    for domain, version in graph.opsets.items():
        if version not in OPSETS.get(domain, ()):
            known = OPSETS.get(domain)
            expected = f"{known[0]} to {known[-1]}" if known else "the domains ai.onnx and com.microsoft"
            refuse(f"it is of opset {version} of {domain or 'ai.onnx'!r}; expected {expected}")
    if "" not in graph.opsets:
        refuse("it names no opset of 'ai.onnx'")


def _check_names(graph: Graph) -> None:
    for side in (graph.inputs, graph.outputs):
        if not side or len(set(side)) != len(side):
            refuse(f"it has {len(side)} inputs or outputs, or one of them twice; expected at least one, each once")


def _check_external(tensor: Tensor, weights: Mapping[str, int]) -> None:
    """Check that a tensor's bytes lie in the graph's file, or within a file that the manifest lists for the engine."""
    external = tensor.external
    if external is None:
        return
    if external.location not in weights:
        listed = ", ".join(weights) or "none"
        refuse(
            f"the tensor {tensor.name!r} takes its values from {external.location!r}; expected a file that "
            f"the manifest lists as this engine's data ({listed})"
        )
    size = weights[external.location]
    if external.offset + external.length > size:
        refuse(
            f"the tensor {tensor.name!r} takes {external.length} bytes at {external.offset} of {external.location}, "
            f"which has {size}"
        )
    if external.offset % SIZES[tensor.element]:
        refuse(
            f"the tensor {tensor.name!r} begins at byte {external.offset} of {external.location}; expected a multiple "
            f"of its elements' {SIZES[tensor.element]} bytes"
        )


def _check_node(node: Node) -> None:
    if node.operator not in OPERATORS.get(node.domain, ()):
        name = f"{node.domain}.{node.operator}" if node.domain else node.operator
        refuse(f"{node} is of the operator {name!r}, which no engine of this package needs")
    if not node.outputs or len(node.inputs) > 1024 or len(node.outputs) > 1024:
        refuse(f"{node} has {len(node.inputs)} inputs and {len(node.outputs)} outputs; expected at most 1024 of each")
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            if node.operator != "Constant":
                refuse(f"{node} has a tensor as its attribute {name!r}; only Constant may have one")
            if value.external is not None:
                refuse(f"{node} takes its value from another file; only initializers may do that")
        _check_range(node, name, value)


def _check_range(node: Node, name: str, value: Any) -> None:
    least = 1 if name in _POSITIVE else 0 if name in _NOT_NEGATIVE else None
    numbers = value if isinstance(value, list | tuple) else [value]
    if least is not None and not all(type(n) is int and least <= n <= _ATTRIBUTE_LIMIT for n in numbers):
        refuse(f"{node} has {name} = {str(value)[:80]}; expected {least} to {_ATTRIBUTE_LIMIT}")
    if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
        refuse(f"{node} has {name} = {str(value)[:80]}; expected finite numbers")


@dataclass(frozen=True)
class _Size:
    """An upper bound of a constant's size.

    Attributes:
        count: Number of elements.
        width: Bytes per element.
        dims: The shape; None if only the number of elements is known.
        values: The elements of a short list of integers; None for other constants.
    """

    count: int
    width: int
    dims: tuple[int, ...] | None = None
    values: tuple[int, ...] | None = None

    @classmethod
    def of(cls, dims: tuple[int, ...], width: int) -> _Size:
        """Return the size of a constant of known shape."""
        return cls(math.prod(dims), width, dims)


class _Constants:
    """The sizes of all folded constants: values that depend only on constants, which libraries compute at loading."""

    def __init__(self, graph: Graph) -> None:
        self._sizes = {tensor.name: _stored(tensor) for tensor in graph.initializers.values()}
        self._limit = CONSTANTS_FLOOR + CONSTANTS_RATIO * sum(size.count * size.width for size in self._sizes.values())
        self._bytes = self._work = 0

    def follow(self, node: Node) -> None:
        """Add the outputs of a node whose inputs are all constants."""
        if node.operator == "Shape":  # of any input: where shapes are static, the shape is a constant
            sizes = [_Size.of((RANK_LIMIT,), 8)]
        elif node.operator == "Constant":
            sizes = [_constant(node)]
        else:
            given = [self._sizes.get(name) for name in node.inputs if name]
            known = [size for size in given if size is not None]
            if len(known) < len(given) or not known:
                return
            sizes = self._outputs(node, known)
        self._bytes += sum(size.count * size.width for size in sizes)
        if self._bytes > self._limit or self._work > CONSTANTS_WORK * self._limit:
            refuse(
                f"{node} and the nodes before it compute {self._bytes} bytes from constants alone, with {self._work} "
                f"multiplications; expected at most {self._limit} bytes for a graph of this size"
            )
        self._sizes.update(zip(node.outputs, sizes, strict=False))

    def _outputs(self, node: Node, given: list[_Size]) -> list[_Size]:
        """Return upper bounds of the sizes of a node's outputs."""
        first, operator = given[0], node.operator
        if operator == "Cast":
            return [replace(first, width=SIZES.get(node.attributes.get("to", 0), 8))]
        if operator == "Identity":
            return [first]
        if operator in _NO_LARGER:
            return [_Size(first.count, first.width, first.dims)] * len(node.outputs)
        if operator in _ELEMENTWISE:
            return [_broadcast(given)]
        if operator in _RESHAPING:
            return [_Size(first.count, first.width, _reshaped(node, given))]
        if operator == "Concat":
            return [_Size(sum(size.count for size in given), first.width)]
        if operator == "Gather":
            return [_gathered(node, first, given[-1])]
        if operator == "MatMul":
            return [self._product(node, first, given[-1])]
        refuse(f"{node} has only constant inputs, which no exporter writes for {operator}")

    def _product(self, node: Node, first: _Size, second: _Size) -> _Size:
        if not first.dims or not second.dims or min(len(first.dims), len(second.dims)) < 2:
            refuse(f"{node} multiplies constants of unknown shapes, which no exporter writes")
        outer = _stretched(first.dims[:-2], second.dims[:-2])
        made = _Size.of((*outer, first.dims[-2], second.dims[-1]), first.width)
        self._work += made.count * first.dims[-1]
        return made


def _stored(tensor: Tensor) -> _Size:
    return _Size(tensor.count, SIZES[tensor.element], tensor.dims, tensor.values)


def _constant(node: Node) -> _Size:
    """Return the size of a Constant node's value: a tensor, a number or a list of numbers."""
    value = node.attributes.get("value")
    if isinstance(value, Tensor):
        return _stored(value)
    for name in ("value_ints", "value_floats"):
        if name in node.attributes:
            numbers = tuple(node.attributes[name])
            return _Size(len(numbers), 8, (len(numbers),), numbers if name == "value_ints" else None)
    return _Size(1, 8, ())


def _broadcast(sizes: list[_Size]) -> _Size:
    """Return the size after broadcasting; if a shape is unknown, the product of all counts."""
    dims = [size.dims for size in sizes if size.dims is not None]
    if len(dims) < len(sizes):
        return _Size(math.prod(size.count for size in sizes), sizes[0].width)
    return _Size.of(_stretched(*dims), sizes[0].width)


def _stretched(*dims: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(map(len, dims))
    sides = zip(*((1,) * (rank - len(one)) + one for one in dims), strict=True)
    return tuple(max(pair) for pair in sides)


def _reshaped(node: Node, given: list[_Size]) -> tuple[int, ...] | None:
    """Return the shape after Reshape or Transpose; None if it is not certain."""
    dims, count = given[0].dims, given[0].count
    if node.operator == "Transpose" and dims is not None:
        order = node.attributes.get("perm") or list(reversed(range(len(dims))))
        return tuple(dims[axis] for axis in order) if sorted(order) == list(range(len(dims))) else None
    if node.operator != "Reshape" or len(given) < 2 or (target := given[1].values) is None:
        return None
    if 0 in target or target.count(-1) > 1 or min(target, default=1) < -1:
        return None
    known = math.prod(size for size in target if size != -1)
    made = tuple(count // known if size == -1 else size for size in target)
    return made if math.prod(made) == count else None


def _gathered(node: Node, source: _Size, indices: _Size) -> _Size:
    """Return the size after Gather: the shape of the indices replaces one axis."""
    axis = node.attributes.get("axis", 0)
    if not source.dims or indices.dims is None or not -len(source.dims) <= axis < len(source.dims):
        return _Size(source.count * indices.count, source.width)
    axis %= len(source.dims)
    return _Size.of((*source.dims[:axis], *indices.dims, *source.dims[axis + 1 :]), source.width)
