"""Lowers traced torch calls to ONNX nodes: one small function for each torch function that the networks use.

Where ONNX offers several forms, the one that ONNX Runtime's CPU kernels run as a whole is taken: group
normalisation as InstanceNormalization over groups, attention as two products around a softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from export.errors import ExportError
from export.graph import ONNX_DTYPES, Graph
from export.trace import Call, Trace, Value

END = 2**62  # of a slice that goes on to a dynamic size's end
HANDLERS: dict[str, Callable[[Lowering, Call], list[str]]] = {}


def handles(*names: str) -> Callable[[Any], Any]:
    """Register a lowering for calls of these torch functions; it gives the names of the outputs."""

    def register(function: Any) -> Any:
        for name in names:
            HANDLERS[name] = lambda lowering, call: _as_list(function(lowering, *call.args, **call.kwargs))
        return function

    return register


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


class Lowering:
    """The state of one lowering: which ONNX name each traced value has."""

    def __init__(self, trace: Trace, graph: Graph):
        self.trace, self.graph = trace, graph
        self.constants: dict[int, int] = {}
        self.call = Call("", lambda: None, (), {})  # the one being lowered
        self.names: dict[int, str] = {id(v): v.input for v in trace.inputs if v.input is not None}

    def run(self, output_names: Sequence[str]) -> None:
        """Lower every call, then name the outputs."""
        for call in self.trace.calls:
            if call.name not in HANDLERS:
                raise ExportError(f"no ONNX lowering for torch function {call.name!r}: add one to export/lower.py")
            self.call = call
            names = HANDLERS[call.name](self, call)
            self.names.update({id(v): name for v, name in zip(call.outputs, names, strict=True)})
        for value, name in zip(self.trace.outputs, output_names, strict=True):
            self.graph.rename(self.name(value), name)

    def name(self, value: Value, suffix: str = "", change: Callable[[torch.Tensor], torch.Tensor] | None = None) -> str:
        """The ONNX name of a value. Weights and constants become initializers, changed by `change` if given."""
        if id(value) in self.names and change is None:
            return self.names[id(value)]
        assert value.constant, "a value was used before it was computed"
        base = value.weight or f"constant_{self.constants.setdefault(id(value), len(self.constants))}"

        def make() -> torch.Tensor:
            tensor = self.trace.constant(value)
            return tensor if change is None else change(tensor)

        return self.graph.weight(base + suffix, make)

    def operand(self, x: Any, like: torch.dtype) -> str:
        """The name of a tensor or of a Python number, the latter as a constant of dtype `like`."""
        if isinstance(x, Value):
            return self.name(x)
        return self.graph.small(torch.tensor(x, dtype=like).numpy())


def _pair(value: int | Sequence[int], count: int) -> list[int]:
    return [value] * count if isinstance(value, int) else list(value) * (count if len(value) == 1 else 1)


@handles("conv1d", "conv2d")
def _conv(
    lo: Lowering, x: Value, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> str:  # fmt: skip
    spatial = len(weight.shape) - 2
    inputs = [lo.name(x), lo.name(weight)] + ([] if bias is None else [lo.name(bias)])
    pads = _pair(padding, spatial) * 2
    strides, dilations = _pair(stride, spatial), _pair(dilation, spatial)
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
    grouped = lo.graph.add("Reshape", [lo.name(x), lo.graph.ints(n, groups, -1)])
    one, zero = (lo.graph.small(np.full(groups, v, np.float32)) for v in (1, 0))
    normed = lo.graph.add("InstanceNormalization", [grouped, one, zero], epsilon=eps)
    normed = lo.graph.add("Reshape", [normed, lo.graph.ints(*x.shape)])
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


@handles("gelu")
def _gelu(lo: Lowering, x: Value, approximate: str = "none") -> str:
    return lo.graph.add("Gelu", [lo.name(x)], approximate=approximate)


@handles("scaled_dot_product_attention")
def _attention(
    lo: Lowering, q: Value, k: Value, v: Value, attn_mask: None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> str:  # fmt: skip
    assert attn_mask is None and not is_causal and not enable_gqa
    add, half = lo.graph.add, q.dtype != torch.float32
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    # In half precision the scale goes on both factors, and the softmax is computed in float32: neither overflows.
    queries = add("Mul", [lo.name(q), lo.operand(scale**0.5 if half else scale, q.dtype)])
    keys = add("Mul", [lo.name(k), lo.operand(scale**0.5, k.dtype)]) if half else lo.name(k)
    order = [*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2]
    scores = add("MatMul", [queries, add("Transpose", [keys], perm=order)])
    if half:
        scores = add("Cast", [scores], to=ONNX_DTYPES[torch.float32])
    weights = add("Softmax", [scores], axis=-1)
    if half:
        weights = add("Cast", [weights], to=ONNX_DTYPES[q.dtype])
    return add("MatMul", [weights, lo.name(v)])


@handles("interpolate")
def _interpolate(lo: Lowering, x: Value, size: Sequence[int], mode: str = "nearest", **others: Any) -> str:
    assert mode == "nearest" and not any(others.values())
    height, width = x.shape[-2:]
    if (size[0] == 2 * height) and (size[1] == 2 * width):
        scales = lo.graph.small(np.array([1, 1, 2, 2], np.float32))
        return lo.graph.add(
            "Resize", [lo.name(x), "", scales], mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
    name = lo.name(x)
    for axis, (old, new) in enumerate(zip((height, width), size, strict=True), start=2):
        name = lo.graph.add("Gather", [name, lo.graph.ints(*(i * old // new for i in range(new)))], axis=axis)
    return name


@handles("pad")
def _pad(lo: Lowering, x: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> str:
    assert mode == "constant" and not value
    rank, before, after = len(x.shape), pad[0::2], pad[1::2]  # torch counts from the last dim, ONNX from the first
    rest = [0] * (rank - len(before))
    return lo.graph.add("Pad", [lo.name(x), lo.graph.ints(*rest, *before[::-1], *rest, *after[::-1])])


@handles("cat")
def _cat(lo: Lowering, tensors: Sequence[Value], dim: int = 0) -> str:
    if len(tensors) == 1:
        return lo.name(tensors[0])
    return lo.graph.add("Concat", [lo.name(t) for t in tensors], axis=dim)


@handles("chunk")
def _chunk(lo: Lowering, x: Value, chunks: int, dim: int = 0) -> list[str]:
    assert x.shape[dim] % chunks == 0
    return lo.graph.add_many("Split", [lo.name(x)], chunks, axis=dim, num_outputs=chunks)


@handles("reshape", "view")
def _reshape(lo: Lowering, x: Value, *shape: Any) -> str:
    """The shape asked for is that of the call's output; 0 copies a dynamic size from the same place of the input."""
    kept = [*x.shape, *[1] * len(lo.call.outputs[0].shape)]
    sizes = [size if size is not None else 0 if old is None else -1
             for size, old in zip(lo.call.outputs[0].shape, kept, strict=False)]  # fmt: skip
    if sizes.count(-1) > 1:
        raise ExportError(
            f"a reshape of {x.shape} to {lo.call.outputs[0].shape} has two dynamic sizes: keep one static"
        )
    return lo.graph.add("Reshape", [lo.name(x), lo.graph.ints(*sizes)])


@handles("transpose")
def _transpose(lo: Lowering, x: Value, a: int, b: int) -> str:
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return lo.graph.add("Transpose", [lo.name(x)], perm=order)


@handles("permute")
def _permute(lo: Lowering, x: Value, *order: int) -> str:
    return lo.graph.add("Transpose", [lo.name(x)], perm=list(order))


@handles("unsqueeze")
def _unsqueeze(lo: Lowering, x: Value, dim: int) -> str:
    return lo.graph.add("Unsqueeze", [lo.name(x), lo.graph.ints(dim)])


@handles("__getitem__")
def _getitem(lo: Lowering, x: Value, index: Any) -> str:
    name, axis, shape = lo.name(x), 0, list(x.shape)
    for item in index if isinstance(index, tuple) else (index,):
        if item is None:
            name = lo.graph.add("Unsqueeze", [name, lo.graph.ints(axis)])
            shape.insert(axis, 1)
        elif isinstance(item, int):
            name = lo.graph.add("Gather", [name, lo.graph.small(np.array(item, np.int64))], axis=axis)
            del shape[axis]
            continue
        elif item != slice(None):
            length = END if shape[axis] is None else shape[axis]
            start, stop = item.start or 0, length if item.stop is None else item.stop
            bounds = (lo.graph.ints(v) for v in (start, stop, axis, item.step or 1))
            name = lo.graph.add("Slice", [name, *bounds])
        axis += 1
    return name


@handles("to", "float", "half")
def _to(lo: Lowering, x: Value, dtype: torch.dtype = torch.float32) -> str:
    return lo.graph.add("Cast", [lo.name(x)], to=ONNX_DTYPES[dtype])


@handles("dropout", "contiguous")
def _same(lo: Lowering, x: Value, *args: Any, **kwargs: Any) -> str:
    assert not kwargs.get("training", False)
    return lo.name(x)


@handles("clamp")
def _clamp(lo: Lowering, x: Value, low: float, high: float) -> str:
    return lo.graph.add("Clip", [lo.name(x), lo.operand(low, x.dtype), lo.operand(high, x.dtype)])


def _elementwise(op: str) -> Callable[[Lowering, Any, Any], str]:
    def lower(lo: Lowering, a: Any, b: Any) -> str:
        dtype = a.dtype if isinstance(a, Value) else b.dtype
        return lo.graph.add(op, [lo.operand(a, dtype), lo.operand(b, dtype)])

    return lower


for _name, _op in (("add", "Add"), ("mul", "Mul"), ("sub", "Sub"), ("div", "Div")):
    handles(_name, f"__{_name}__", f"__i{_name}__")(_elementwise(_op))
for _name, _op in (("cos", "Cos"), ("sin", "Sin")):
    handles(_name)(lambda lo, x, op=_op: lo.graph.add(op, [lo.name(x)]))
