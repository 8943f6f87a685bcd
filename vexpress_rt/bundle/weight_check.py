"""A search for weights that are NaN or infinite.

The outputs of an engine do not reveal them: frames are uint8, where NaN becomes 0, and a detector finds no face. So the
files are searched, once for each version. Numbers are compared as unsigned integers, which needs neither bfloat16 in
NumPy nor a copy: without the sign bit, every finite number is below the bits of infinity, and NaN is above.

Infinity is a fault as well: exporters do not write it, not even for masks or bounds.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

from vexpress_rt.bundle.onnx_graph import FLOAT16, SIZES, Graph, Tensor
from vexpress_rt.bundle.protobuf import Data, Span

BLOCK = 1 << 20  # bytes that are searched at once; they fit into a core's own cache

# For each element type, its name and the bits of infinity.
FLOATS = {
    1: ("float32", 0x7F800000),
    FLOAT16: ("float16", 0x7C00),
    11: ("float64", 0x7FF0000000000000),
    16: ("bfloat16", 0x7F80),
}


def find_in_graph(data: Data, graph: Graph) -> str | None:
    """Search the numbers that are stored in an ONNX file itself.

    Args:
        data: The content of the file.
        graph: The graph that was read from it.

    Returns:
        A description of the first number that is not finite; None if there is none.
    """
    constants = (value for node in graph.nodes for value in node.attributes.values() if isinstance(value, Tensor))
    for tensor in (*graph.initializers.values(), *constants):
        if tensor.element not in FLOATS:
            continue
        before = 0
        for block in _blocks(data, tensor):
            if (index := _first_wrong(block, tensor.element)) is not None:
                return _fault(tensor, before + index, block[index])
            before += len(block)
    return None


def find_in_weights(file: io.BufferedReader, tensors: Iterable[Tensor]) -> str | None:
    """Search the numbers of tensors in a weight file. Bytes that tensors share are read once for each element type.

    Args:
        file: The weight file.
        tensors: Tensors whose bytes are inside it.

    Returns:
        As for `find_in_graph`.

    Raises:
        OSError: The file cannot be read.
    """
    floats = sorted((tensor for tensor in tensors if tensor.element in FLOATS), key=lambda tensor: tensor.element)
    buffer = memoryview(bytearray(BLOCK))
    for element, group in groupby(floats, key=lambda tensor: tensor.element):
        own = list(group)
        for start, stop in _union(tensor.byte_range[1:] for tensor in own):
            file.seek(start)
            for at in range(start, stop, BLOCK):
                piece = buffer[: min(BLOCK, stop - at)]
                if file.readinto(piece) != len(piece):
                    raise OSError(f"the file ends before byte {stop}")
                block = np.frombuffer(piece, f"<u{SIZES[element]}")
                if (index := _first_wrong(block, element)) is not None:
                    where = at + index * SIZES[element]
                    tensor = next(one for one in own if one.byte_range[1] <= where < one.byte_range[2])
                    return _fault(tensor, (where - tensor.byte_range[1]) // SIZES[element], block[index])
    return None


def _first_wrong(block: Any, element: int) -> int | None:
    """Return the index of the first number that is not finite in an array of float bits; None if there is none."""
    if not block.size:
        return None
    infinity, signed = FLOATS[element][1], block.view(f"<i{block.itemsize}")
    sign = 1 << (8 * block.itemsize - 1)
    if int(signed.max()) < infinity and int(block.max()) < (infinity | sign):
        return None
    return int(np.flatnonzero((block & infinity) == infinity)[0])


def _fault(tensor: Tensor, index: int, bits: Any) -> str:
    """Describe the number with these bits at an index of a tensor."""
    name, infinity = FLOATS[tensor.element]
    infinite = int(bits) & (1 << (8 * SIZES[tensor.element] - 1)) - 1 == infinity
    too_large = " (float16 ends at 65504; --precision fp32 keeps more)" if tensor.element == FLOAT16 else ""
    found = f"infinity{too_large}" if infinite else "NaN"
    place = f"number {index + 1} of {tensor.count} of {name}"
    return f"the tensor {tensor.name!r} holds {found} as {place}; expected finite numbers"


def _union(spans: Iterable[Span]) -> Iterator[Span]:
    """Yield the spans in order, with those that touch or overlap merged."""
    start = stop = 0
    for first, end in sorted(spans):
        if first > stop:
            yield start, stop
            start = first
        stop = max(stop, end)
    yield start, stop


def _blocks(data: Data, tensor: Tensor) -> Iterator[Any]:
    """Yield the bits of a tensor's numbers as arrays of unsigned integers."""
    dtype = f"<u{SIZES[tensor.element]}"
    if not tensor.varints:
        for chunk in _chunks(data, tensor.pieces, BLOCK):
            yield np.frombuffer(chunk, dtype)
        return
    rest = b""
    for chunk in _chunks(data, tensor.pieces, BLOCK // 16):  # each byte becomes an index of 8 bytes, or several
        chunk = rest + chunk
        octets = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(octets < 0x80)
        rest = chunk[int(ends[-1]) + 1 :] if ends.size else chunk
        if ends.size:
            yield _decoded(octets, ends).astype(dtype)


def _chunks(data: Data, pieces: Iterable[Span | int], size: int) -> Iterator[bytes]:
    """Yield the content of pieces, of 4 bytes to 2 GB each, in chunks of at most twice `size` bytes."""
    parts, length = [], 0
    for piece in pieces:
        if isinstance(piece, int):  # the value of a varint
            found = iter([bytes((piece & 0x7F | 0x80, piece >> 7 & 0x7F | 0x80, piece >> 14 & 3))])
        else:
            found = (data[at : min(at + size, piece[1])] for at in range(*piece, size))
        for part in found:
            parts.append(part)
            length += len(part)
            if length >= size:
                yield parts[0] if len(parts) == 1 else b"".join(parts)
                parts, length = [], 0
    if parts:
        yield b"".join(parts)


def _decoded(octets: Any, ends: Any) -> Any:
    """Return the lowest 16 bits of varints that end at the indices `ends`."""
    starts = np.concatenate(([0], ends[:-1] + 1))
    values = octets[starts].astype(np.uint32) & 0x7F
    for index in (1, 2):
        at = np.minimum(starts + index, ends)
        more = (octets[at].astype(np.uint32) & 0x7F) << (7 * index)
        values |= np.where(starts + index <= ends, more, 0).astype(np.uint32)
    return values
