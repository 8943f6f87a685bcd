"""Tracing and lowering: an ONNX graph computes the same as the PyTorch module; unsupported functions are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from export.errors import ExportError
from export.networks.denoising_unet import DenoisingUNet
from export.networks.layers import FeedForward, GroupNorm, LayerNorm, timestep_sinusoid, to_precision
from export.onnx.engine_modules import TORCH_DTYPES
from export.onnx.graph import Graph
from export.onnx.lower import lower
from export.onnx.lowering_framework import HANDLERS
from export.onnx.trace import generalise
from tests.support.fused import COMPOSITES
from tests.support.lowered import Array, Module, compare, normal, run_file, tensor_specs, traced, write
from tests.support.micro import MICRO
from vexpress_rt.bundle.engine_spec import TensorSpec

attention = functional.scaled_dot_product_attention
# What is called -> a function of inputs and parameters, the inputs' shapes, the parameters' shapes.
CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], list[tuple[int, ...]]]] = {
    "conv2d": (lambda x, w, b: functional.conv2d(x, w, b, padding=1), [(2, 3, 5, 6)], [(4, 3, 3, 3), (4,)]),
    "conv2d without bias, stride 2": (lambda x, w: functional.conv2d(x, w, stride=2), [(1, 3, 7, 6)], [(4, 3, 3, 3)]),
    "conv2d with unequal sides": (
        lambda x, w: functional.conv2d(x, w, stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        [(1, 2, 7, 6)], [(4, 2, 2, 3)]),
    "conv1d in groups": (
        lambda x, w, b: functional.conv1d(x, w, b, padding=2, groups=2), [(2, 4, 9)], [(6, 2, 4), (6,)]),
    "linear": (lambda x, w, b: functional.linear(x, w, b), [(2, 3, 5)], [(4, 5), (4,)]),
    "linear without bias": (lambda x, w: functional.linear(x, w), [(3, 5)], [(4, 5)]),
    "group_norm, G < C": (lambda x, w, b: functional.group_norm(x, 2, w, b, 1e-6), [(2, 6, 3, 4)], [(6,), (6,)]),
    "group_norm, G = C": (lambda x, w, b: functional.group_norm(x, 6, w, b, 1e-2), [(2, 6, 5)], [(6,), (6,)]),
    "layer_norm": (lambda x, w, b: functional.layer_norm(x, (6,), w, b, 1e-3), [(2, 5, 6)], [(6,), (6,)]),
    "silu": (functional.silu, [(3, 4)], []),
    "relu": (functional.relu, [(3, 4)], []),
    "sigmoid": (torch.sigmoid, [(3, 4)], []),
    "average pooling": (lambda x: functional.avg_pool2d(x, 2), [(1, 3, 4, 6)], []),
    "average pooling that overlaps": (lambda x: functional.avg_pool2d(x, 3, 2), [(1, 3, 7, 9)], []),
    "gelu": (functional.gelu, [(3, 4)], []),
    "gelu by tanh": (lambda x: functional.gelu(x, approximate="tanh"), [(3, 4)], []),
    "attention": (attention, [(2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 8)], []),
    "attention with a scale": (
        lambda q, k, v: attention(q, k, v, scale=0.7), [(1, 4, 8), (1, 5, 8), (1, 5, 6)], []),
    "interpolate to double": (lambda x: functional.interpolate(x, size=(4, 6), mode="nearest"), [(1, 2, 2, 3)], []),
    "interpolate to odd sizes": (lambda x: functional.interpolate(x, size=(3, 5), mode="nearest"), [(1, 2, 2, 3)], []),
    "pad": (lambda x: functional.pad(x, (1, 2, 0, 3)), [(1, 2, 3, 4)], []),
    "cat": (lambda x, y: torch.cat([x, y, x], dim=-2), [(2, 3, 4), (2, 1, 4)], []),
    "cat of one": (lambda x: torch.cat([x], dim=1) + 1, [(2, 3)], []),
    "chunk": (lambda x: x.chunk(2, dim=-1), [(3, 6)], []),
    "chunk that leaves a rest": (lambda x: x.chunk(3, dim=0), [(7, 2)], []),
    "reshape": (lambda x: x.reshape(3, -1), [(2, 3, 4)], []),
    "view": (lambda x: x.view(4, 6), [(2, 3, 4)], []),
    "transpose": (lambda x: x.transpose(-1, 0), [(2, 3, 4)], []),
    "permute": (lambda x: x.permute(2, 0, 1), [(2, 3, 4)], []),
    "contiguous": (lambda x: x.transpose(0, 1).contiguous(), [(2, 3)], []),
    "getitem: slices": (lambda x: x[1:, :-1, ::2], [(3, 4, 5)], []),
    "getitem: one number": (lambda x: x[1], [(3, 4)], []),
    "getitem: numbers, None, slice": (lambda x: x[-1, None, :, 2:4], [(3, 4, 5)], []),
    "getitem: ellipsis": (lambda x: x[..., 1, None], [(3, 4, 5)], []),
    "getitem: negative start": (lambda x: x[:, -2:], [(3, 4)], []),
    "to": (lambda x: x.to(torch.float16) * 2, [(3, 4)], []),
    "clamp": (lambda x: x.clamp(-0.5, 0.25), [(3, 4)], []),
    "clamp below alone": (lambda x: x.clamp(min=0), [(3, 4)], []),
    "cos and sin": (lambda x: (x.cos(), x.sin()), [(3, 4)], []),
    "tensors on both sides": (
        lambda x, y: (x + y, x - y, x * y, x / (y * y + 1)), [(2, 3, 4), (3, 1)], []),
    "numbers on the right": (lambda x: (x + 2, x - 2, x * 2, x / 2), [(3, 4)], []),
    "numbers on the left": (lambda x: (2 + x, 2 - x, 2 * x, 2 / (x * x + 1)), [(3, 4)], []),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_a_call_gives_what_torch_gives(case: str, dtype: str) -> None:
    function, inputs, parameters = CASES[case]
    compare(Module(function, *parameters, dtype=TORCH_DTYPES[dtype]), *(normal(*s, dtype=dtype) for s in inputs))


def test_every_lowering_is_compared_with_torch() -> None:
    called = set(COMPOSITES)
    for function, inputs, parameters in CASES.values():
        called |= {call.name for call in traced(Module(function, *parameters), *(normal(*s) for s in inputs)).calls}
    assert called == set(HANDLERS)


def test_numbers_are_promoted_as_torch_promotes_them() -> None:
    compare(Module(lambda x: x / 127.5 - 1), np.arange(256, dtype=np.uint8))
    compare(Module(lambda x, w: x * w, (4,)), normal(3, 4, dtype="float16"))


sizes = st.integers(1, 7)


@settings(max_examples=15)
@given(st.tuples(sizes, sizes), st.tuples(sizes, sizes))
def test_any_size_is_resized_as_torch_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    compare(Module(lambda x: functional.interpolate(x, size=new, mode="nearest")), normal(1, 2, *old))


@settings(max_examples=15)
@given(sizes, sizes, sizes, st.integers(0, 2), st.integers(1, 2))
def test_any_convolution_is_torchs(channels: int, height: int, width: int, padding: int, stride: int) -> None:
    kernel = (min(3, height + 2 * padding), min(2, width + 2 * padding))
    module = Module(lambda x, w: functional.conv2d(x, w, padding=padding, stride=stride), (3, channels, *kernel))
    compare(module, normal(2, channels, height, width))


@settings(max_examples=15)
@given(sizes, sizes, sizes)
def test_any_group_normalisation_is_torchs(groups: int, each: int, side: int) -> None:
    channels = groups * each
    compare(
        Module(lambda x, w, b: functional.group_norm(x, groups, w, b), (channels,), (channels,)),
        normal(2, channels, side, 3),
    )


index = st.one_of(st.none(), st.integers(-2, 1), st.slices(2).filter(lambda s: s.step is None or s.step > 0))


@settings(max_examples=30)
@given(st.lists(index, max_size=4).filter(lambda items: sum(i is not None for i in items) <= 3))
def test_any_index_is_torchs(items: list[Any]) -> None:
    array = normal(2, 2, 2)
    if torch.from_numpy(array)[tuple(items)].numel() > 0:
        compare(Module(lambda x: x[tuple(items)] * 2), array)


ELSEWHERE = torch.ones(2, 4)
REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "a function without lowering": (lambda x: torch.tanh(x), "'tanh' cannot be exported: there is no lowering"),
    "an option without lowering": (lambda x: torch.sub(x, x, alpha=2), "'sub' cannot be exported: .*'alpha'"),
    "masks": (lambda x: attention(x, x, x, is_causal=True), "'scaled_dot_product_attention' .* without mask"),
    "smooth resizing": (lambda x: functional.interpolate(x[None], size=8, mode="linear"), "'interpolate' .* nearest"),
    "resizing by a factor": (
        lambda x: functional.interpolate(x[None], scale_factor=2.0),
        "'interpolate' .* given size",
    ),
    "padding with ones": (lambda x: functional.pad(x, (1, 1), value=1.0), "'pad' .* zeros"),
    "an index that is a tensor": (lambda x: x[torch.zeros(2, dtype=torch.int64)], "'__getitem__' .* index of Value"),
    "dropout": (lambda x: functional.dropout(x, 0.5, training=True), "'dropout' cannot be exported"),
    "a write into a tensor": (lambda x: (x + 1).add_(1), "'add_' writes into its input"),
    "a write into a part": (lambda x: (y := x + 1).__setitem__(0, 0) or y, "'__setitem__' writes into its input"),
    "a tensor from elsewhere": (lambda x: x + ELSEWHERE, r"shape \(2, 4\) that is neither an input"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_graph_cannot_express_is_refused_by_name(case: str) -> None:
    function, message = REFUSED[case]
    with pytest.raises(ExportError, match=message):
        lower(traced(Module(function), normal(2, 4)), Graph(), ["out"])


def at_any_length(function: Callable[..., Any], path: Path) -> Path:
    """`function` of (1, T, 4) as a graph for any T, traced at two of them."""
    module = Module(function)
    trace = generalise(traced(module, normal(1, 12, 4)), traced(module, normal(1, 20, 4)))
    outputs = [TensorSpec("out0", tuple("abcdef"[: len(v.shape)]), v.shape, "float32") for v in trace.outputs]
    write(trace, [TensorSpec("in0", ("1", "T", "4"), (1, None, 4), "float32")], outputs, path)
    return path


DYNAMIC: dict[str, Callable[..., Any]] = {
    "heads are split": lambda x: x.reshape(1, x.shape[1], 2, 2).transpose(1, 2),
    "the length moves to another place": lambda x: x.transpose(1, 2).reshape(4, -1),
    "the length becomes another one": lambda x: x.reshape(-1, 8),
    "all but the last": lambda x: x[:, :-1],
    "every other": lambda x: x[:, 1::2] * 2,
    "groups of channels": lambda x: functional.group_norm(x.transpose(1, 2), 2, torch.ones(4), torch.zeros(4)),
}


@pytest.mark.parametrize("case", DYNAMIC)
def test_a_size_known_at_run_time_alone_stays_open(case: str, tmp_path: Path) -> None:
    path = at_any_length(DYNAMIC[case], tmp_path / "graph.onnx")
    for length in (2, 8, 12, 34):
        x = normal(1, length, 4)
        (found,) = run_file(path, x)
        np.testing.assert_allclose(found, DYNAMIC[case](torch.from_numpy(x)).numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x[:, : x.shape[1] // 2], r"'__getitem__' is called with .*6.*, and with .*10.* for another size"),
        (lambda x: x * 2 if x.shape[1] > 15 else x + 2, "calls other functions for another size"),
        (lambda x: (x.reshape(-1, 1) * x.reshape(1, -1)).reshape(2 * x.shape[1], -1), "'reshape' .* several sizes"),
    ],
)
def test_a_graph_that_would_only_fit_the_traced_size_is_refused(
    function: Callable[..., Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        at_any_length(function, tmp_path / "graph.onnx")
    assert not any(tmp_path.iterdir())


def test_what_depends_on_no_input_is_computed_at_export(tmp_path: Path) -> None:
    time = np.array([37.0], np.float32)
    module = Module(lambda t: timestep_sinusoid(t, 10))
    write(
        traced(module, time), tensor_specs([time], "in"), tensor_specs([normal(1, 10)], "out"), tmp_path / "graph.onnx"
    )
    graph = onnx.load(tmp_path / "graph.onnx").graph
    assert [node.op_type for node in graph.node] == ["Unsqueeze", "Mul", "Cos", "Sin", "Concat"]
    compare(module, time)


def test_calls_that_no_output_needs_are_left_out() -> None:
    assert [call.name for call in traced(Module(lambda x: (x.cos(), x + 1)[1]), normal(2)).calls] == ["add"]


LARGE: dict[str, tuple[nn.Module, Array]] = {
    "layer norm": (LayerNorm(64), 3e4 * normal(2, 64)),
    "group norm": (GroupNorm(2, 8, 1e-5), 3e4 * normal(1, 8, 4, 4)),
    "GEGLU": (FeedForward(32), 8 * normal(2, 5, 32)),
    "attention": (Module(lambda x: attention(x, x, x)), 60 * normal(1, 4, 256)),
}


@pytest.mark.parametrize("case", LARGE)
def test_half_precision_neither_overflows_nor_drifts(case: str) -> None:
    """Squares, sums and exponents of such numbers do not fit float16."""
    module, x = LARGE[case]
    compare(to_precision(module.eval(), torch.float16), x.clip(-6e4, 6e4).astype(np.float16))


def test_half_precision_leaves_normalisations_and_the_time_embedding_alone() -> None:
    unet = DenoisingUNet(MICRO.unet)
    for name, parameter in to_precision(unet, torch.float16).named_parameters():
        precise = "norm" in name or "time_embedding" in name
        assert parameter.dtype == (torch.float32 if precise else torch.float16), name
