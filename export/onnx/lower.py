"""Lower traced torch calls to ONNX nodes: one function for each torch function that the networks use.

Where ONNX has several equivalent forms, these choose the one that ONNX Runtime has a CPU kernel for: group
normalization as InstanceNormalization over groups, attention as two matrix products around a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from export.onnx.graph import ONNX_DTYPES, Graph
from export.onnx.lower_fused import SMALL_CONVOLUTION, small_convolution
from export.onnx.lowering_framework import Lowering, handles
from export.onnx.trace import Trace, Value

END = 2**62  # of a slice to the end of a dynamic size


def lower(trace: Trace, graph: Graph, output_names: Sequence[str]) -> None:
    """Add the calls of a trace to a graph.

    Args:
        trace: The calls.
        graph: The graph; its inputs have the names of the traced inputs.
        output_names: One for each output of the trace.

    Raises:
        ExportError: A call has no lowering, or its lowering does not support the arguments.
    """
    Lowering(trace, graph).run(output_names)


def _sizes(lo: Lowering, shape: Sequence[int | None]) -> str:
    """Return the second input of a Reshape to `shape`. The size None is inferred from the others."""
    if shape.count(None) > 1:
        lo.refuse(f"a reshape to {tuple(shape)} has several sizes that are unknown until run time")
    return lo.graph.ints(*(-1 if size is None else size for size in shape))


def _pair(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value) * (count if len(value) == 1 else 1)


ATTENTION_OPSET = 23  # the first with attention as one operator, which TensorRT fuses
# Largest head size that TensorRT has fused attention kernels for, which accumulate in float32. It decomposes larger
# heads, and then computes the operator's softmax in float16: it refuses the attribute for another precision.
LARGEST_HEAD = 256


@handles("conv1d", "conv2d")
def _conv(
    lo: Lowering, x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> str:  # fmt: skip
    spatial = len(weight.shape) - 2
    pads = _pair(padding, spatial) * 2
    strides, dilations = _pair(stride, spatial), _pair(dilation, spatial)
    plain = spatial == 2 and groups == 1 and dilations == [1, 1] and weight.constant
    if plain and SMALL_CONVOLUTION in lo.graph.forms:
        products = small_convolution(lo, x, weight, bias, strides, pads)
        if products is not None:
            return products
    inputs = [lo.name(x), lo.name(weight)] + ([] if bias is None else [lo.name(bias)])
    kernel = list(weight.shape[2:])
    return lo.graph.add(
        "Conv", inputs, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, group=groups
    )


@handles("linear")
def _linear(lo: Lowering, x: Value, weight: Value, bias: Value | None = None) -> str:
    product = lo.graph.add("MatMul", [lo.name(x), lo.name(weight, ".T", lambda t: t.T)])
    return product if bias is None else lo.graph.add("Add", [product, lo.name(bias)])


@handles("group_norm")
def _group_norm(lo: Lowering, x: Value, groups: int, weight: Value, bias: Value, eps: float = 1e-5) -> str:
    n, channels, *spatial = x.shape
    if groups == channels:  # also serves a dynamic length: nothing is reshaped
        return lo.graph.add("InstanceNormalization", [lo.name(x), lo.name(weight), lo.name(bias)], epsilon=eps)
    grouped = lo.graph.add("Reshape", [lo.name(x), _sizes(lo, (n, groups, None))])
    one, zero = (lo.graph.constant(torch.full((groups,), v, dtype=x.dtype)) for v in (1, 0))
    normed = lo.graph.add("InstanceNormalization", [grouped, one, zero], epsilon=eps)
    normed = lo.graph.add("Reshape", [normed, _sizes(lo, x.shape)])
    wide = (channels,) + (1,) * len(spatial)
    scaled = lo.graph.add("Mul", [normed, lo.name(weight, ".wide", lambda t: t.reshape(wide))])
    return lo.graph.add("Add", [scaled, lo.name(bias, ".wide", lambda t: t.reshape(wide))])


@handles("layer_norm")
def _layer_norm(
    lo: Lowering, x: Value, normalized_shape: Sequence[int], weight: Value, bias: Value, eps: float = 1e-5
) -> str:
    return lo.graph.add(
        "LayerNormalization", [lo.name(x), lo.name(weight), lo.name(bias)], axis=-len(normalized_shape), epsilon=eps
    )


@handles("silu")
def _silu(lo: Lowering, x: Value, inplace: bool = False) -> str:
    return lo.graph.add("Mul", [lo.name(x), lo.graph.add("Sigmoid", [lo.name(x)])])


@handles("relu")
def _relu(lo: Lowering, x: Value, inplace: bool = False) -> str:
    return lo.graph.add("Relu", [lo.name(x)])


@handles("avg_pool2d")
def _avg_pool(lo: Lowering, x: Value, kernel: int, stride: int | None = None) -> str:
    return lo.graph.add("AveragePool", [lo.name(x)], kernel_shape=[kernel] * 2, strides=[stride or kernel] * 2)


@handles("gelu")
def _gelu(lo: Lowering, x: Value, approximate: str = "none") -> str:
    return lo.graph.add("Gelu", [lo.name(x)], approximate=approximate)


@handles("scaled_dot_product_attention")
def _attention(
    lo: Lowering, q: Value, k: Value, v: Value, attn_mask: None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> str:  # fmt: skip
    if attn_mask is not None or is_causal or enable_gqa or dropout_p:
        lo.refuse("only attention without mask and dropout has a lowering")
    add, half = lo.graph.add, q.dtype != torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if lo.graph.opset >= ATTENTION_OPSET and q.shape[-1] <= LARGEST_HEAD:
        return add("Attention", [lo.name(q), lo.name(k), lo.name(v)], scale=float(scale))
    queries = add(
        "Mul", [lo.name(q), lo.operand(scale, q.dtype)]
    )  # before the product, which then stays in float16's range
    order = [*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2]
    scores = add("MatMul", [queries, add("Transpose", [lo.name(k)], perm=order)])
    if half:  # a softmax in float16 would sum exponentials with eleven bits
        scores = add("Cast", [scores], to=ONNX_DTYPES[torch.float32])
    weights = add("Softmax", [scores], axis=-1)
    if half:
        weights = add("Cast", [weights], to=ONNX_DTYPES[q.dtype])
    return add("MatMul", [weights, lo.name(v)])


@handles("interpolate")
def _interpolate(lo: Lowering, x: Value, size: Sequence[int] | None, mode: str = "nearest", **others: Any) -> str:
    if size is None or mode != "nearest" or any(others.values()):
        lo.refuse("only nearest-neighbour interpolation to a given size has a lowering")
    old, new = x.shape[-2:], list(size)
    if new == [2 * side for side in old]:
        scales = lo.graph.constant(torch.tensor([1.0, 1, 2, 2]))
        return lo.graph.add(
            "Resize", [lo.name(x), "", scales], mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
    name = lo.name(x)
    for axis, (before, after) in enumerate(zip(old, new, strict=True), start=2):
        places = F.interpolate(
            torch.arange(before, dtype=torch.float32)[None, None], size=after
        )  # with the rounding of torch
        name = lo.graph.add("Gather", [name, lo.graph.ints(*places[0, 0].int().tolist())], axis=axis)
    return name


@handles("pad")
def _pad(lo: Lowering, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> str:
    if mode != "constant" or value:
        lo.refuse("only padding with zeros has a lowering")
    rank, before, after = len(x.shape), pad[0::2], pad[1::2]  # torch starts with the last dim, ONNX with the first
    rest = [0] * (rank - len(before))
    return lo.graph.add("Pad", [lo.name(x), lo.graph.ints(*rest, *before[::-1], *rest, *after[::-1])])


@handles("cat")
def _cat(lo: Lowering, tensors: Sequence[Value], dim: int = 0) -> str:
    if len(tensors) == 1:
        return lo.name(tensors[0])
    return lo.graph.add("Concat", [lo.name(t) for t in tensors], axis=dim)


@handles("chunk")
def _chunk(lo: Lowering, x: Value, chunks: int, dim: int = 0) -> list[str]:
    sizes = [value.shape[dim] for value in lo.call.outputs]
    return lo.graph.add_many("Split", [lo.name(x), lo.graph.ints(*sizes)], len(sizes), axis=dim)


@handles("reshape", "view")
def _reshape(lo: Lowering, x: Value, *shape: Any) -> str:
    """Take the new shape from the output of the call."""
    return lo.graph.add("Reshape", [lo.name(x), _sizes(lo, lo.output.shape)])


@handles("transpose")
def _transpose(lo: Lowering, x: Value, a: int, b: int) -> str:
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return lo.graph.add("Transpose", [lo.name(x)], perm=order)


@handles("permute")
def _permute(lo: Lowering, x: Value, *order: int) -> str:
    return lo.graph.add("Transpose", [lo.name(x)], perm=list(order))


@handles("__getitem__")
def _getitem(lo: Lowering, x: Value, index: Any) -> str:
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(x.shape) + 1 + items.count(None) - len(items))
    name, axis, shape = lo.name(x), 0, list(x.shape)
    for item in items:
        if item is None:
            name = lo.graph.add("Unsqueeze", [name, lo.graph.ints(axis)])
            shape.insert(axis, 1)
        elif type(item) is int:
            name = lo.graph.add("Gather", [name, lo.graph.constant(torch.tensor(item, dtype=torch.int64))], axis=axis)
            del shape[axis]
            continue  # the next dim is now at this axis
        elif not isinstance(item, slice):
            lo.refuse(f"an index of {type(item).__name__} has no lowering")
        elif item != slice(None):
            length = END if shape[axis] is None else shape[axis]
            start, stop = item.start or 0, length if item.stop is None else item.stop
            bounds = (lo.graph.ints(v) for v in (start, stop, axis, item.step or 1))
            name = lo.graph.add("Slice", [name, *bounds])
        axis += 1
    return name


@handles("to")
def _cast(lo: Lowering, x: Value, *args: Any, **kwargs: Any) -> str:
    return lo.operand(x, lo.output.dtype)


@handles("contiguous")
def _contiguous(lo: Lowering, x: Value) -> str:
    return lo.name(x)


@handles("clamp")
def _clamp(lo: Lowering, x: Value, min: float | None = None, max: float | None = None) -> str:
    bounds = ["" if bound is None else lo.operand(bound, x.dtype) for bound in (min, max)]
    return lo.graph.add("Clip", [lo.name(x), *bounds])


def _elementwise(op: str, *, swapped: bool = False) -> Callable[[Lowering, Any, Any], str]:
    def lower(lo: Lowering, a: Any, b: Any) -> str:
        first, second = (lo.operand(x, lo.output.dtype) for x in ((b, a) if swapped else (a, b)))
        return lo.graph.add(op, [first, second])

    return lower


for _name, _op in (("add", "Add"), ("mul", "Mul"), ("sub", "Sub"), ("div", "Div")):
    handles(_name)(_elementwise(_op))
for _name, _op in (("__rsub__", "Sub"), ("__rdiv__", "Div")):  # number - tensor, number / tensor
    handles(_name)(_elementwise(_op, swapped=True))
for _name, _op in (("cos", "Cos"), ("sin", "Sin"), ("sigmoid", "Sigmoid")):
    handles(_name)(lambda lo, x, op=_op: lo.graph.add(op, [lo.name(x)]))
