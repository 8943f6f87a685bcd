"""A face detector without trained weights, for synthetic checkpoints.

It finds skin-coloured blobs, higher than wide, on a background of another colour, and places a face's keypoints there
by fixed proportions. That suffices for drawn portraits and for some photos. It has the input, the nine outputs and the
anchors of SCRFD's det_10g.onnx, which real checkpoints have in its place.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
OPSET = 17

# Half the width of the blob of each anchor, in cells of its stride: 24 to 166 pixels in even ratios.
_HALF_WIDTHS = ((3.0, 4.42), (3.25, 4.79), (3.53, 5.2))
_HEIGHT = 1.3  # of a face, as a multiple of its width
_SURROUND = 1.5  # outer edge of the ring without skin, as a multiple of the blob
_MOMENTS = 1.25  # edge of the region whose centre and spread are measured, as a multiple of the blob
_CHIN = 1.1  # lower end of that region, as a multiple of the blob's half height

# Linear functions (r, g, b, constant) of R, G, B in [0, 255], clipped to [0, 1]. Skin is the smallest of them.
_SKIN = (
    (1 / 12, -1.12 / 12, 0, 0),  # red well above green,
    (-1 / 20, 1.9 / 20, 0, 0),  # but not red itself;
    (0, 1 / 10, -1 / 10, 0),  # green above blue,
    (-1 / 25, 0, 2.4 / 25, 0),  # but not as far as in blond hair or wood;
    (1 / 120, 1 / 120, 1 / 120, -1.2),  # not dark
)
# Difference of the shares of skin in blob and ring at which the score is 1/2, by stride; large blobs are preferred.
_CONTRAST = {8: 0.6, 16: 0.5, 32: 0.35}
_STEEPNESS = 12.0

# Keypoints relative to the centre of the blob, in half widths and half heights: x, y.
_POINTS = ((-0.44, -0.22), (0.44, -0.22), (0.0, 0.16), (-0.32, 0.5), (0.32, 0.5))


def write_synthetic_detector(path: Path) -> None:
    """Write the detector as an ONNX file with the interface of SCRFD's det_10g.onnx.

    Input `input.1`: (1, 3, H, W) float32 RGB, (x - 127.5) / 128, H and W multiples of 32. Outputs, in order: scores
    (N, 1), boxes (N, 4) and keypoints (N, 10), each for the strides 8, 16, 32 with two anchors per cell.

    Args:
        path: The file to write.
    """
    graph = _Graph()
    colour = graph.add("AveragePool", "input.1", kernel_shape=[8, 8], strides=[8, 8])
    weights, offsets = _skin_filter()
    steps = graph.add("Conv", colour, graph.constant(weights), graph.constant(offsets))
    clipped = graph.add("Clip", steps, graph.constant(np.float32(0)), graph.constant(np.float32(1)))
    skin = graph.add("ReduceMin", clipped, axes=[1], keepdims=1)
    levels = []
    for level, half_widths in enumerate(_HALF_WIDTHS):
        if level:
            skin = graph.add("AveragePool", skin, kernel_shape=[2, 2], strides=[2, 2])
        levels.append(_detect(graph, skin, STRIDES[level], half_widths))
    outputs = [name for kind in zip(*levels, strict=True) for name in kind]
    onnx.save(graph.model(outputs), path)


class _Graph:
    """Nodes and constants with consecutive names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: NDArray[np.generic] | np.generic) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def split(self, name: str, *widths: int) -> list[str]:
        """Split (N, sum of widths) into columns, and return the names of the outputs."""
        names = [f"{name}_{number}" for number in range(len(widths))]
        self.nodes.append(helper.make_node("Split", [name, self.constant(np.array(widths))], names, axis=1))
        return names

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        """Return the model; `outputs` are the names of scores, boxes and keypoints, each for three strides."""
        image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "H", "W"])
        widths = [width for width in (1, 4, 10) for _ in STRIDES]
        results = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
            for name, width in zip(outputs, widths, strict=True)
        ]
        graph = helper.make_graph(self.nodes, "skin_blob_detector", [image], results, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model


def _skin_filter() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `_SKIN` as a 1x1 convolution of the normalized image: weights (5, 3, 1, 1), offsets (5,)."""
    rules = np.array(_SKIN)
    weights = rules[:, :3] * 128
    offsets = rules[:, 3] + rules[:, :3].sum(axis=1) * 127.5
    return weights.astype(np.float32)[:, :, None, None], offsets.astype(np.float32)


def _detect(graph: _Graph, skin: str, stride: int, half_widths: tuple[float, ...]) -> tuple[str, str, str]:
    """Add the outputs of a stride: scores (N, 1), boxes (N, 4), keypoints (N, 10), by rows, columns, anchors."""
    kernels = np.concatenate([_kernels(half_width, max(half_widths), stride) for half_width in half_widths])
    reach = kernels.shape[-1] // 2
    # An image that is all skin is measured as well, so that shares refer to the area inside the image.
    nothing = graph.add("Mul", skin, graph.constant(np.float32(0)))
    everything = graph.add("Add", nothing, graph.constant(np.float32(1)))
    pair = graph.add("Concat", skin, everything, axis=0)
    measured = graph.add("Conv", pair, graph.constant(kernels), pads=[reach] * 4)
    by_cell = graph.add("Transpose", measured, perm=[0, 2, 3, 1])
    rows = graph.add("Reshape", by_cell, graph.constant(np.array([2, -1, 7])))
    found, possible = (graph.add("Gather", rows, graph.constant(np.int64(i)), axis=0) for i in (0, 1))  # (N, 7)
    areas, mass, first, second = graph.split(found, 2, 1, 2, 2)
    tiny = graph.constant(np.float32(1e-3))
    shares = graph.add("Div", areas, graph.add("Max", graph.split(possible, 2, 5)[0], tiny))  # of blob, of ring
    mass = graph.add("Max", mass, tiny)
    centre = graph.add("Div", first, mass)
    variance = graph.add("Sub", graph.add("Div", second, mass), graph.add("Mul", centre, centre))
    spread = graph.add("Sqrt", graph.add("Max", variance, tiny))
    both = graph.add("Concat", centre, spread, axis=1)
    boxes, keypoints = graph.split(graph.add("MatMul", both, graph.constant(_face())), 4, 10)
    return _score(graph, shares, stride), boxes, keypoints


def _score(graph: _Graph, shares: str, stride: int) -> str:
    """Add the score (N, 1) in [0, 1] from the shares of skin (N, 2) in the blob and in the ring around it."""
    difference = graph.constant(np.array([[_STEEPNESS], [-_STEEPNESS]], np.float32))
    least = graph.constant(np.float32(_STEEPNESS * _CONTRAST[stride]))
    return graph.add("Sigmoid", graph.add("Sub", graph.add("MatMul", shares, difference), least))


def _kernels(half_width: float, widest: float, stride: int) -> NDArray[np.float32]:
    """Return the kernels of seven measures around a cell, (7, 1, K, K).

    They are the areas of blob and ring, and the mass, means x and y, and mean squares x and y of the skin.
    """
    reach = math.ceil(widest * _HEIGHT * _SURROUND)
    across = np.arange(-reach, reach + 1)
    x, y = across[None, :], across[:, None]
    blob, inside, around = (_ellipse(half_width * factor, reach) for factor in (1.0, _MOMENTS, _SURROUND))
    neck = (y > 0) & (abs(x) < 0.8 * half_width)  # skin too, but no part of the face
    ring = np.where(neck, 0, around - blob)
    inside = np.where(y > _CHIN * _HEIGHT * half_width, 0, inside)
    mass = inside / inside.sum()
    # Anchors count from a cell's first pixel, not from its middle.
    right, down = x + (stride - 1) / 2 / stride, y + (stride - 1) / 2 / stride
    moments = [mass, mass * right, mass * down, mass * right**2, mass * down**2]
    return np.stack([blob / blob.sum(), ring / ring.sum(), *moments]).astype(np.float32)[:, None]


def _ellipse(half_width: float, reach: int, fine: int = 8) -> NDArray[np.float64]:
    """Return the share of each cell that an upright centred ellipse covers, (2 reach + 1, 2 reach + 1)."""
    points = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    covered = (points / half_width) ** 2 + (points[:, None] / (half_width * _HEIGHT)) ** 2 <= 1
    shares: NDArray[np.float64] = covered.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean(axis=(1, 3))
    return shares


def _face() -> NDArray[np.float32]:
    """Return the matrix (4, 14) from centre and standard deviation (4,) to box and keypoints (14,)."""
    columns: list[tuple[float, ...]] = [
        (-1, 0, 2, 0),
        (0, -1, 0, 2),
        (1, 0, 2, 0),
        (0, 1, 0, 2),
    ]  # an ellipse's half axis is two deviations
    for x, y in _POINTS:
        columns += [(1, 0, 2 * x, 0), (0, 1, 0, 2 * y)]
    return np.array(columns, np.float32).T
