"""Lowerings to forms that are fast on CPUs, mostly of composite functions of the networks.

Some consist of operators that ONNX Runtime alone has. Weights are stored in the layout that a form needs. Then little
is computed when a graph is loaded, and graphs that share a weights file can share its mapped memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from export.onnx.graph import ORT_DOMAIN
from export.onnx.lowering_framework import Lowering, handles
from export.onnx.trace import Value
from vexpress_rt.bundle.target import ONNXRUNTIME, OPENVINO

SMALL_CONVOLUTION = "small_convolution"
# Names of composite functions, and small 3x3 convolutions as matrix products. `benchmarks.cpu.changes` measures the
# speedup of each in ONNX Runtime.
FORMS = ("multi_head_attention", "gated_linear", "doubled_conv", SMALL_CONVOLUTION)
# OpenVINO fuses attention of plain operators itself. Small convolutions as products would be rounded more in bfloat16.
TARGET_FORMS = {ONNXRUNTIME.name: FORMS, OPENVINO.name: ("gated_linear", "doubled_conv")}
ONCE_PER_PHOTO = ("vae_encoder", "reference_net")  # engines that run once per photo: the larger weights do not pay off
KERNEL = 3  # size of the convolutions below
# Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): a tile of 2 x 2 outputs is
# OUTPUT [(KERNELS g) * (INPUT d)], for a kernel g and the 4 x 4 inputs d around the tile. Each matrix is applied along
# both axes.
INPUT = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
KERNELS = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUT = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
TILE, PATCH = 2, 4
# Nearest-neighbour upsampling by 2 repeats rows, so that two of a kernel's three rows meet the same input row. Even
# output rows depend on the previous and the present input row, odd ones on the present and the next.
DOUBLED = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
# Matrix products are faster than ONNX Runtime's direct convolution from WIDE channels on both sides, and up to a number
# of positions, beyond which the transformed inputs, four times the inputs, do not fit into caches. Time of the direct
# convolution over that of the products, with two threads:
#
#   images  size     channels      ratio
#   16      4x4      1280 -> 640   2.5
#   16      4x4      640 -> 640    1.6
#   16      8x8      640 -> 320    1.4
#   1       32x32    512 -> 512    1.3
#   1       64x64    256 -> 256    1.08
#   1       16x16    160           1.0
#   1       128x128  128           0.65
#
# The limit for a batch does not depend on its size: the denoisers with one and two halves share their weights.
WIDE, POSITIONS, POSITIONS_OF_SEVERAL = 256, 4096, 64


def forms_of(engine: str, target: str = ONNXRUNTIME.name) -> tuple[str, ...]:
    """Return the forms that an engine uses by default.

    As products, the weights of a 3x3 convolution take 16/9 of the room, on disk and in memory.

    Args:
        engine: Name of the engine.
        target: A key of `TARGETS`.
    """
    forms = TARGET_FORMS.get(target, ())
    return tuple(form for form in forms if form != SMALL_CONVOLUTION or engine not in ONCE_PER_PHOTO)


@handles("multi_head_attention")
def _multi_head_attention(lo: Lowering, queries: Value, keys: Value, values: Value, heads: int) -> str:
    names = [lo.name(x) for x in (queries, keys, values)]
    return lo.graph.add("MultiHeadAttention", names, domain=ORT_DOMAIN, num_heads=heads)


@handles("gated_linear")
def _gated_linear(lo: Lowering, x: Value, weight: Value, bias: Value) -> str:
    """Compute value and gate by two products, so that no result is split; bias and GELU of the gate in one kernel.

    OpenVINO fuses bias and GELU with the product.
    """
    add, inner = lo.graph.add, weight.shape[0]
    assert inner is not None
    half = inner // 2
    weights = lo.name(weight, ".value.T", lambda t: t[:half].T), lo.name(weight, ".gate.T", lambda t: t[half:].T)
    biases = lo.name(bias, ".value", lambda t: t[:half]), lo.name(bias, ".gate", lambda t: t[half:])
    value, gate = (add("MatMul", [lo.name(x), w]) for w in weights)
    value = add("Add", [value, biases[0]])
    if lo.graph.ort_operators:
        return add("Mul", [value, add("BiasGelu", [gate, biases[1]], domain=ORT_DOMAIN)])
    return add("Mul", [value, add("Gelu", [add("Add", [gate, biases[1]])])])


@handles("doubled_conv")
def _doubled_conv(lo: Lowering, x: Value, weight: Value, bias: Value) -> str:
    """Compute four 2x2 convolutions of the small image, one for each of the pixels that a pixel becomes."""
    add, count = lo.graph.add, weight.shape[0]
    corners = list(itertools.product(range(2), repeat=2))
    # The sums are computed when the graph is loaded: they are few, and float16 may not hold sums of its values exactly.
    matrix = torch.cat([torch.kron(DOUBLED[a], DOUBLED[b]) for a, b in corners])  # (corners * 4, 9)
    flat = add("MatMul", [_flat(lo, weight), lo.graph.constant(matrix.T.contiguous())])
    kernels = add("Reshape", [flat, lo.graph.ints(*weight.shape[:2], 4, 2, 2)])
    pictures = []
    for index, (a, b) in enumerate(corners):
        kernel = add("Gather", [kernels, lo.graph.constant(torch.tensor(index))], axis=2)
        pads = [1 - a, 1 - b, a, b]
        pictures.append(add("Conv", [lo.name(x), kernel, lo.name(bias)], kernel_shape=[2, 2], pads=pads))
    assert count is not None
    return add("DepthToSpace", [add("Concat", pictures, axis=1)], blocksize=2, mode="DCR")


def small_convolution(
    lo: Lowering, x: Value, weight: Value, bias: Value | None, strides: list[int], pads: list[int]
) -> str | None:
    """Lower a 3x3 convolution of a small image to matrix products.

    Args:
        lo: The lowering.
        x: Input (N, C, H, W).
        weight: Kernels (C', C, 3, 3).
        bias: (C',), or None.
        strides: Strides as in the ONNX operator Conv, along each axis.
        pads: Padding as in the ONNX operator Conv: at the start of each axis, then at the end of each.

    Returns:
        The name of the output (N, C', H, W); None if the direct convolution is faster.
    """
    n, channels, height, width = (size or 0 for size in x.shape)
    outputs = weight.shape[0] or 0
    fits = list(weight.shape[2:]) == [KERNEL] * 2 and weight.shape[1] == channels and pads == [1] * 4
    even = strides == [1, 1] and height % TILE == width % TILE == 0
    if not (fits and even and n and bias is not None):
        return None
    limit = POSITIONS if n == 1 else POSITIONS_OF_SEVERAL
    if height * width > limit or min(channels, outputs) < WIDE:
        return None
    return _winograd(lo, x, weight, bias)


def _winograd(lo: Lowering, x: Value, weight: Value, bias: Value) -> str:
    add, ints = lo.graph.add, lo.graph.ints
    n, channels, height, width = x.shape
    outputs = weight.shape[0]
    assert n and channels and height and width and outputs
    rows, columns, places = height // TILE, width // TILE, PATCH * PATCH
    # Positions are the first axis, so that a row holds all images and channels; an added row of zeros is the padding.
    # Axes are permuted only by gathering rows and by transposing matrices, which have fast kernels.
    maps = add("Transpose", [add("Reshape", [lo.name(x), ints(n * channels, height * width)])], perm=[1, 0])
    maps = add("Pad", [maps, ints(0, 0, 1, 0)])
    patches = add("Gather", [maps, lo.graph.constant(_patches(height, width))], axis=0)  # (places, tiles, n * C)
    flat = add("Reshape", [patches, ints(places, rows * columns * n * channels)])
    flat = add("MatMul", [lo.graph.constant(torch.kron(INPUT, INPUT)), flat])
    tiles = add("Reshape", [flat, ints(places, rows * columns * n, channels)])
    parts = lo.graph.add_many("Split", [tiles, ints(*[1] * places)], places, axis=0)
    products = [add("MatMul", [part, kernel]) for part, kernel in zip(parts, _kernels(lo, weight), strict=True)]
    flat = add("Reshape", [add("Concat", products, axis=0), ints(places, rows * columns * n * outputs)])
    flat = add("MatMul", [lo.graph.constant(torch.kron(OUTPUT, OUTPUT)), flat])
    result = add("Reshape", [flat, ints(height * width, n * outputs)])
    result = add("Gather", [result, lo.graph.constant(_tile_places(rows, columns))], axis=0)  # (h * w, n * C')
    result = add("Add", [add("Reshape", [result, ints(height * width, n, outputs)]), lo.name(bias)])
    result = add("Transpose", [add("Reshape", [result, ints(height * width, n * outputs)])], perm=[1, 0])
    return add("Reshape", [result, ints(n, outputs, height, width)])


def _patches(height: int, width: int) -> torch.Tensor:
    """Return the position at each place of each tile's patch, (16, tiles) int64; height * width is the padding."""
    places = torch.full((height + 2, width + 2), height * width)
    places[1:-1, 1:-1] = torch.arange(height * width).reshape(height, width)
    patches = places.unfold(0, PATCH, TILE).unfold(1, PATCH, TILE)  # (rows, columns, 4, 4)
    return patches.permute(2, 3, 0, 1).reshape(PATCH * PATCH, -1).contiguous()


def _tile_places(rows: int, columns: int) -> torch.Tensor:
    """Return the index of each position among the tiles' outputs, (height * width,) int64."""
    outputs = torch.arange(TILE * TILE * rows * columns).reshape(TILE, TILE, rows, columns)
    return outputs.permute(2, 0, 3, 1).flatten()


def _kernels(lo: Lowering, weight: Value) -> list[str]:
    """Return the names of the 16 transformed kernels, each (C, C')."""

    def at(place: int) -> Callable[[torch.Tensor], torch.Tensor]:
        row, column = divmod(place, PATCH)
        return lambda kernels: (kernels.flatten(2) @ torch.outer(KERNELS[row], KERNELS[column]).flatten()).T

    return [lo.name(weight, f".{place}", at(place)) for place in range(PATCH * PATCH)]


def _flat(lo: Lowering, weight: Value) -> str:
    """Reshape kernels (C', C, 3, 3) to (C' * C, 9)."""
    return lo.graph.add("Reshape", [lo.name(weight), lo.graph.ints(-1, KERNEL * KERNEL)])
