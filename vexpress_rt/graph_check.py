"""What an engine's graph may do: operators, weights in other files, and constants, held against what exporters write.

A graph is code that the library which loads it runs, so that a bundle from elsewhere is checked before any library sees
it. Loading computes at once whatever depends on constants alone, so that a file of a kilobyte can ask for gigabytes;
that is bounded here. What an engine then computes of a portrait is its own affair: see "A bundle" in README.md.
"""

from __future__ import annotations

import io
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vexpress_rt.onnx_graph import RANK_LIMIT, SIZES, Graph, Node, Tensor, read_graph
from vexpress_rt.protobuf import Data, refuse
from vexpress_rt.weight_check import find_in_graph


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Opset 11 is that of released face detectors, 20 and 23 are the exporter's; those in between are alike in kind.
OPSETS = {
    "": range(7, 26),
    "com.microsoft": range(1, 2),
    "ai.onnx.ml": range(1, 6),
}  # the last is declared by some, used by none

# What the exporter writes, and what released face detectors (SCRFD, YuNet) have beside it. None runs a graph within the
# graph, repeats itself, draws random numbers, reads a file, or makes a tensor of a size that stands in another.
OPERATORS = {
    "": _words("""
        Add Attention AveragePool BatchNormalization Cast Ceil Clip Concat Constant Conv Cos DepthToSpace Div Exp
        Flatten Floor Gather Gelu GlobalAveragePool HardSigmoid HardSwish Identity InstanceNormalization
        LayerNormalization LeakyRelu MatMul Max MaxPool Min Mul PRelu Pad Pow ReduceMax ReduceMean ReduceMin ReduceSum
        Relu Reshape Resize Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Transpose Unsqueeze Upsample
        """),
    "com.microsoft": frozenset({"BiasGelu", "MultiHeadAttention"}),
}
# Attributes that libraries divide by, or make memory of, without looking at them.
_POSITIVE = _words("strides dilations kernel_shape group num_heads q_num_heads kv_num_heads blocksize num_outputs")
_NOT_NEGATIVE = frozenset({"pads"})
_ATTRIBUTE_LIMIT = 1 << 16

# Operators that may have nothing but constants to work on, by how large their output can be. The exporter writes some
# of them: weights stored as float16 are widened, those of upsampling convolutions are gathered and summed.
_ELEMENTWISE = _words("Add Div Max Min Mul Pow Sub")
_RESHAPING = _words("Flatten Reshape Squeeze Transpose Unsqueeze")
_NO_LARGER = _words("Ceil Clip Exp Floor ReduceMax ReduceMean ReduceMin ReduceSum Relu Sigmoid Slice Split Sqrt")

CONSTANTS_RATIO = 8  # of the bytes computed of constants alone to those stored; the exporter's graphs stay below 4.
CONSTANTS_FLOOR = 16 << 20  # bytes that a graph of few weights may compute, too
CONSTANTS_DEPTH = 64  # multiplications a byte of them; the exporter's take 2


@dataclass(frozen=True)
class GraphWeights:
    """The weights of a graph that was checked.

    fault: what is wrong with numbers that lie in its file; None if they are finite.
    external: tensors whose numbers lie in other files, by name of the file.
    """

    fault: str | None
    external: Mapping[str, list[Tensor]]


def check_graph_file(file: io.BufferedReader, weights: Mapping[str, int]) -> GraphWeights:
    """As `check_graph`, of an open file, which is mapped: nothing large is copied. Raises OSError, too.

    Weights that are not finite are told, not refused: the graph is one of an engine.
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
    """Refuse a graph that an exporter of engines does not write.

    data: the ONNX file.  weights: sizes in bytes, by name, of the files beside it that it may take weights from.

    Raises BundleDamagedError saying what was found: a file that is not well formed; an operator, domain or opset that
    is not known here; values that are used before they are made, or made twice; weights from another file or beyond
    its end; constants that grow far beyond what is stored.
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
            refuse(f"{node} takes {missing[0]!r}, which nothing before it makes")
        for name in node.outputs:
            if name and name in made:
                refuse(f"{node} makes {name!r}, which is there already")
            made.add(name)
        constants.follow(node)
    if missing := [name for name in graph.outputs if name not in made]:
        refuse(f"it gives {missing[0]!r}, which nothing makes")
    return graph


def _check_opsets(graph: Graph) -> None:
    for domain, version in graph.opsets.items():
        if version not in OPSETS.get(domain, ()):
            known = OPSETS.get(domain)
            expected = f"{known[0]} to {known[-1]}" if known else "the domains ai.onnx and com.microsoft alone"
            refuse(f"it is of opset {version} of {domain or 'ai.onnx'!r}; expected {expected}")
    if "" not in graph.opsets:
        refuse("it names no opset of 'ai.onnx'")


def _check_names(graph: Graph) -> None:
    for side in (graph.inputs, graph.outputs):
        if not side or len(set(side)) != len(side):
            refuse(f"it has {len(side)} inputs or outputs, or one of them twice; expected at least one, each once")


def _check_external(tensor: Tensor, weights: Mapping[str, int]) -> None:
    """Whether its bytes lie in the file that holds the graph, or within one that the manifest lists for this engine."""
    external = tensor.external
    if external is None:
        return
    if external.location not in weights:
        held = ", ".join(weights) or "none"
        refuse(
            f"the tensor {tensor.name!r} takes its values from {external.location!r}; expected a file that "
            f"the manifest lists as this engine's data ({held})"
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
                refuse(f"{node} has a tensor as its attribute {name!r}; expected one in Constant alone")
            if value.external is not None:
                refuse(f"{node} takes its value from another file; expected initializers alone to do that")
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
    """How large a constant can be at most.

    count: elements.  width: bytes of each.  dims: None where they are not known, only how many elements in all.
    values: the numbers, of a short list of integers.
    """

    count: int
    width: int
    dims: tuple[int, ...] | None = None
    values: tuple[int, ...] | None = None

    @classmethod
    def of(cls, dims: tuple[int, ...], width: int) -> _Size:
        """Of known dims."""
        return cls(math.prod(dims), width, dims)


class _Constants:
    """Sizes of all that depends on nothing but constants, which a library computes when it loads the graph."""

    def __init__(self, graph: Graph) -> None:
        self._sizes = {tensor.name: _stored(tensor) for tensor in graph.initializers.values()}
        self._limit = CONSTANTS_FLOOR + CONSTANTS_RATIO * sum(size.count * size.width for size in self._sizes.values())
        self._bytes = self._work = 0

    def follow(self, node: Node) -> None:
        """Note what a node makes of constants, if nothing else goes into it."""
        if node.operator == "Shape":  # of anything: it is a constant where sizes are
            sizes = [_Size.of((RANK_LIMIT,), 8)]
        elif node.operator == "Constant":
            sizes = [_constant(node)]
        else:
            given = [self._sizes.get(name) for name in node.inputs if name]
            known = [size for size in given if size is not None]
            if len(known) < len(given) or not known:
                return
            sizes = self._made(node, known)
        self._bytes += sum(size.count * size.width for size in sizes)
        if self._bytes > self._limit or self._work > CONSTANTS_DEPTH * self._limit:
            refuse(
                f"{node} and those before it compute {self._bytes} bytes of constants alone, by {self._work} "
                f"multiplications; expected at most {self._limit} bytes for what the graph stores"
            )
        self._sizes.update(zip(node.outputs, sizes, strict=False))

    def _made(self, node: Node, given: list[_Size]) -> list[_Size]:
        """Upper bounds of what an operator makes of constants."""
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
        refuse(f"{node} has nothing but constants to work on, which no exporter writes for {operator}")

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
    """What the operator Constant gives: a tensor, a number, or a list of numbers."""
    value = node.attributes.get("value")
    if isinstance(value, Tensor):
        return _stored(value)
    for name in ("value_ints", "value_floats"):
        if name in node.attributes:
            numbers = tuple(node.attributes[name])
            return _Size(len(numbers), 8, (len(numbers),), numbers if name == "value_ints" else None)
    return _Size(1, 8, ())


def _broadcast(sizes: list[_Size]) -> _Size:
    """Of the operators that stretch sides of one: the larger of each pair of sides; without sides, the product."""
    dims = [size.dims for size in sizes if size.dims is not None]
    if len(dims) < len(sizes):
        return _Size(math.prod(size.count for size in sizes), sizes[0].width)
    return _Size.of(_stretched(*dims), sizes[0].width)


def _stretched(*dims: tuple[int, ...]) -> tuple[int, ...]:
    rank = max(map(len, dims))
    sides = zip(*((1,) * (rank - len(one)) + one for one in dims), strict=True)
    return tuple(max(pair) for pair in sides)


def _reshaped(node: Node, given: list[_Size]) -> tuple[int, ...] | None:
    """The dims after Reshape or Transpose where they are certain."""
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
    """Of Gather: the indices' dims in the place of one side."""
    axis = node.attributes.get("axis", 0)
    if not source.dims or indices.dims is None or not -len(source.dims) <= axis < len(source.dims):
        return _Size(source.count * indices.count, source.width)
    axis %= len(source.dims)
    return _Size.of((*source.dims[:axis], *indices.dims, *source.dims[axis + 1 :]), source.width)
