"""Lowerings for ONNX Runtime's CPU kernels alone, of calls that `export.models.layers` marks as composite.

Weights are stored as a form needs them. Little is then computed as a graph is loaded, and graphs that share a file can
share the memory that it is mapped to.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from export.onnx.graph import ORT_DOMAIN
from export.onnx.lowering import Lowering, handles
from export.onnx.trace import Value

SMALL_CONVOLUTION = "small_convolution"
# What there are: names of composite functions, and small 3x3 convolutions as products; `benchmarks.cpu.changes`
# measures what each is worth.
FORMS = ("multi_head_attention", "gated_linear", "doubled_conv", SMALL_CONVOLUTION)
ONCE_A_PHOTO = ("vae_encoder", "reference_net")  # engines for which products would save less time than they take room
KERNEL = 3  # that the forms of convolutions below are for
# Minimal filtering F(2x2, 3x3) of Winograd (Lavin and Gray, arXiv 1509.09308): a tile of 2 x 2 outputs is
# OUTPUT [(KERNELS g) * (INPUT d)], for a kernel g and the 4 x 4 inputs d around the tile, each matrix along both axes.
INPUT = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
KERNELS = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
OUTPUT = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
TILE, PATCH = 2, 4
# A picture of twice the size by nearest neighbour repeats rows: of a kernel's three, two meet the same one. So even
# outputs take two rows from the one before on, odd ones two from their own on.
DOUBLED = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
# Where products beat ONNX Runtime's direct convolution: at least so many channels on both sides, and at most so many
# positions of one picture alone, or of each of several (beyond, the transformed inputs, four times the inputs, do not
# fit into caches). Direct took, of the time of products, two threads: 16 pictures of 4x4 with 1280 -> 640 channels 2.5,
# with 640 -> 640 1.6; of 8x8 with 640 -> 320 1.4; one picture of 32x32 with 512 -> 512 1.3, of 64x64 with 256 -> 256
# 1.08; but with 160 channels at 16x16 1.0, and with 128 at 128x128 0.65. How many several are must not matter, or the
# denoisers, with two halves and with one, would not share their weights.
WIDE, POSITIONS, POSITIONS_OF_SEVERAL = 256, 4096, 64


def forms_of(engine: str) -> tuple[str, ...]:
    """The forms that an engine ships with. A kernel's products take 16/9 of its room, on disk and in memory."""
    return tuple(form for form in FORMS if form != SMALL_CONVOLUTION or engine not in ONCE_A_PHOTO)


@handles("multi_head_attention")
def _multi_head_attention(lo: Lowering, queries: Value, keys: Value, values: Value, heads: int) -> str:
    names = [lo.name(x) for x in (queries, keys, values)]
    return lo.graph.add("MultiHeadAttention", names, domain=ORT_DOMAIN, num_heads=heads)


@handles("gated_linear")
def _gated_linear(lo: Lowering, x: Value, weight: Value, bias: Value) -> str:
    """Two products, so that no result has to be split; the gate's bias and GELU in one pass."""
    add, inner = lo.graph.add, weight.shape[0]
    assert inner is not None
    half = inner // 2
    weights = lo.name(weight, ".value.T", lambda t: t[:half].T), lo.name(weight, ".gate.T", lambda t: t[half:].T)
    biases = lo.name(bias, ".value", lambda t: t[:half]), lo.name(bias, ".gate", lambda t: t[half:])
    value, gate = (add("MatMul", [lo.name(x), w]) for w in weights)
    return add("Mul", [add("Add", [value, biases[0]]), add("BiasGelu", [gate, biases[1]], domain=ORT_DOMAIN)])


@handles("doubled_conv")
def _doubled_conv(lo: Lowering, x: Value, weight: Value, bias: Value) -> str:
    """Four convolutions of 2x2 on the small picture, one for each corner of the pixels that a pixel becomes."""
    add, count = lo.graph.add, weight.shape[0]
    corners = list(itertools.product(range(2), repeat=2))
    # Folded as the graph is loaded: these are few, and sums of weights do not fit float16 where single ones do.
    matrix = torch.cat([torch.kron(DOUBLED[a], DOUBLED[b]) for a, b in corners])  # (corners * 4, 9)
    flat = add("MatMul", [_flat(lo, weight), lo.graph.small(matrix.T.contiguous())])
    kernels = add("Reshape", [flat, lo.graph.ints(*weight.shape[:2], 4, 2, 2)])
    pictures = []
    for index, (a, b) in enumerate(corners):
        kernel = add("Gather", [kernels, lo.graph.small(torch.tensor(index))], axis=2)
        pads = [1 - a, 1 - b, a, b]
        pictures.append(add("Conv", [lo.name(x), kernel, lo.name(bias)], kernel_shape=[2, 2], pads=pads))
    assert count is not None
    return add("DepthToSpace", [add("Concat", pictures, axis=1)], blocksize=2, mode="DCR")


def small_convolution(
    lo: Lowering, x: Value, weight: Value, bias: Value | None, strides: list[int], pads: list[int]
) -> str | None:
    """A 3x3 convolution of a small map as products of matrices; None where ONNX Runtime's own is faster.

    bias: of the convolution.  strides, pads: as ONNX has them.
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
    # Positions first, so that a row holds all pictures and channels; one row of zeros for what lies outside. Orders
    # change by whole rows, or as a matrix is transposed: those have fast kernels.
    maps = add("Transpose", [add("Reshape", [lo.name(x), ints(n * channels, height * width)])], perm=[1, 0])
    maps = add("Pad", [maps, ints(0, 0, 1, 0)])
    patches = add("Gather", [maps, lo.graph.small(_patches(height, width))], axis=0)  # (places, tiles, n * C)
    flat = add("Reshape", [patches, ints(places, rows * columns * n * channels)])
    flat = add("MatMul", [lo.graph.small(torch.kron(INPUT, INPUT)), flat])
    tiles = add("Reshape", [flat, ints(places, rows * columns * n, channels)])
    parts = lo.graph.add_many("Split", [tiles, ints(*[1] * places)], places, axis=0)
    products = [add("MatMul", [part, kernel]) for part, kernel in zip(parts, _kernels(lo, weight), strict=True)]
    flat = add("Reshape", [add("Concat", products, axis=0), ints(places, rows * columns * n * outputs)])
    flat = add("MatMul", [lo.graph.small(torch.kron(OUTPUT, OUTPUT)), flat])
    result = add("Reshape", [flat, ints(height * width, n * outputs)])
    result = add("Gather", [result, lo.graph.small(_tile_places(rows, columns))], axis=0)  # (h * w, n * C')
    result = add("Add", [add("Reshape", [result, ints(height * width, n, outputs)]), lo.name(bias)])
    result = add("Transpose", [add("Reshape", [result, ints(height * width, n * outputs)])], perm=[1, 0])
    return add("Reshape", [result, ints(n, outputs, height, width)])


def _patches(height: int, width: int) -> torch.Tensor:
    """(16, tiles) int64: the position at each place of each tile's patch; height * width is outside."""
    places = torch.full((height + 2, width + 2), height * width)
    places[1:-1, 1:-1] = torch.arange(height * width).reshape(height, width)
    patches = places.unfold(0, PATCH, TILE).unfold(1, PATCH, TILE)  # (rows, columns, 4, 4)
    return patches.permute(2, 3, 0, 1).reshape(PATCH * PATCH, -1).contiguous()


def _tile_places(rows: int, columns: int) -> torch.Tensor:
    """(height * width,) int64: where each position is among the tiles' outputs, ordered by place in the tile first."""
    outputs = torch.arange(TILE * TILE * rows * columns).reshape(TILE, TILE, rows, columns)
    return outputs.permute(2, 0, 3, 1).flatten()


def _kernels(lo: Lowering, weight: Value) -> list[str]:
    """The 16 transformed kernels, each (C, C')."""

    def at(place: int) -> Callable[[torch.Tensor], torch.Tensor]:
        row, column = divmod(place, PATCH)
        return lambda kernels: (kernels.flatten(2) @ torch.outer(KERNELS[row], KERNELS[column]).flatten()).T

    return [lo.name(weight, f".{place}", at(place)) for place in range(PATCH * PATCH)]


def _flat(lo: Lowering, weight: Value) -> str:
    """(C', C, 3, 3) kernels as (C' * C, 9)."""
    return lo.graph.add("Reshape", [lo.name(weight), lo.graph.ints(-1, KERNEL * KERNEL)])
