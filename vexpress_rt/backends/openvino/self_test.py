"""The self-test of reduced precision: it compares kernels of the sizes of a bundle's engines with float32.

Faults of reduced precision are silent, and depend on version, CPU and size. Two examples of OpenVINO 2026.4: in bf16,
attention of the "snippets" is wrong where the number of queries equals the number of heads (6 dB of signal to
noise on a Zen 4, -1 to 2 dB with AMX), and products are wrong on a Zen 5 (issue 38256, open in November 2026). So
before a bundle runs in reduced precision on a CPU, this test runs the attentions, products and convolutions of its
denoiser and its decoder on random numbers, in one model in which each kernel is the one that the engines get: attention
lies between products, because the fault above needs their transposes, and a kernel before the last one has outputs of
reduced precision. The number of rows is limited, so that one wrong row shows in the sum.

The user's cache stores the result for this CPU, device, version of OpenVINO, configuration and these sizes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from vexpress_rt.backends.base import Array
from vexpress_rt.backends.validation import error_text
from vexpress_rt.bundle.engine_spec import ModelConfig, VideoShape, site_tokens
from vexpress_rt.utils.cpu_model import cpu_model
from vexpress_rt.utils.native_calls import native_call
from vexpress_rt.utils.user_cache import read_record, write_record

THRESHOLD = 35.0  # dB of signal to noise; correct bf16 kernels have 41 to 50 on all CPUs that were tried
KIND = "openvino_self_test"  # of the records in the user's cache
PRECISION_HINT = "INFERENCE_PRECISION_HINT"

# Attention takes up to 256 queries and keys of reduced sizes; larger ones run the same blocks more often.
_TOKENS, _POSITIONS, _ROWS, _SIDE = 256, 16, 64, 16
_VAE_CHANNELS = 512  # of the decoder's attention; the manifest does not name them
_SHOWN = 3  # failures that a message names

_log = logging.getLogger("vexpress_rt")


@dataclass(frozen=True)
class SelfTest:
    """The result of the self-test.

    Attributes:
        decibels: Signal to noise by case, in dB; None where a result is not finite.
        error: Why the test could not run; empty if it ran.
    """

    decibels: Mapping[str, float | None]
    error: str = ""

    @property
    def failures(self) -> dict[str, float | None]:
        """The cases below `THRESHOLD`, the worst first."""
        wrong = {case: value for case, value in self.decibels.items() if value is None or value < THRESHOLD}
        return dict(sorted(wrong.items(), key=lambda item: -math.inf if item[1] is None else item[1]))

    @property
    def passed(self) -> bool:
        """Whether every case ran, and none failed."""
        return not self.error and bool(self.decibels) and not self.failures

    def describe(self) -> str:
        """Return the reason of a failure as text: the worst cases with their signal to noise."""
        if self.error:
            return f"the self-test cannot run: {self.error}"
        failures = self.failures
        shown = [
            f"{case}: " + ("not finite" if value is None else f"{value:.1f} dB")
            for case, value in list(failures.items())[:_SHOWN]
        ]
        more = f"; and {len(failures) - _SHOWN} more" if len(failures) > _SHOWN else ""
        return (
            f"{len(failures)} of {len(self.decibels)} kernels differ from float32; expected {THRESHOLD:g} dB or more "
            f"of signal to noise, measured: {'; '.join(shown)}{more}"
        )


def check_reduced_precision(
    library: Any, core: Any, device: str, configuration: Mapping[str, Any], model: ModelConfig, shape: VideoShape
) -> SelfTest:
    """Return the result of the self-test for a bundle: from the user's cache, or from a run, which takes seconds.

    A failure is logged as a warning. A test that cannot run is not stored.

    Args:
        library: OpenVINO.
        core: Its Core.
        device: The device, by OpenVINO's name.
        configuration: The plugin configuration of the engines, with the precision.
        model: The bundle's model.
        shape: The bundle's sizes.
    """
    cases = bundle_cases(model, shape)
    key = _key(library, core, device, configuration, cases)
    result = _stored(key, cases)
    if result is None:
        result = run_self_test(library, core, device, configuration, cases)
        if not result.error:
            write_record(KIND, key, {"decibels": dict(result.decibels)})
    if not result.passed:
        _log.warning(
            "%s is not used on %s: %s. Engines compute in fp32",
            configuration[PRECISION_HINT], device, result.describe(),
        )  # fmt: skip
    return result


def run_self_test(
    library: Any, core: Any, device: str, configuration: Mapping[str, Any], cases: Mapping[str, Case]
) -> SelfTest:
    """Run the self-test: compile one model of all cases in reduced precision and in float32, and compare results.

    Args:
        library: OpenVINO.
        core: Its Core.
        device: The device, by OpenVINO's name.
        configuration: The plugin configuration of the engines, with the precision.
        cases: The cases by name.
    """
    graph = _Graph(library)
    # The reference is the CPU's float32, on any device: not all devices have it.
    exact = {**configuration, PRECISION_HINT: "f32"} if device == "CPU" else {PRECISION_HINT: "f32"}
    try:
        model = graph.model(cases)
        reference, reduced = (
            _results(core.compile_model, model, graph.inputs, *target)
            for target in (("CPU", exact), (device, dict(configuration)))
        )
        found = {name: signal_to_noise(reduced[name], reference[name]) for name in cases}
    except Exception as error:  # the library's exceptions have no common base
        return SelfTest({}, error_text(error))
    return SelfTest(found)


def signal_to_noise(found: Array, expected: Array) -> float | None:
    """Return the ratio of the expected values' power to the error's, in dB, at most 200.

    Args:
        found: Values.
        expected: The right values, of the same shape.

    Returns:
        The ratio, rounded to 0.1 dB; None if a value is not finite.
    """
    right = expected.astype(np.float64)
    noise, signal = float(np.square(found - right).sum()), float(np.square(right).sum())
    if not (np.isfinite(noise) and np.isfinite(signal) and signal):
        return None
    return round(10 * math.log10(signal / max(noise, signal * 1e-20)), 1)


@dataclass
class _Graph:
    """A model of many cases, each with inputs and an output of its own. Cases share weights of the same size.

    Attributes:
        library: OpenVINO.
        inputs: Numbers for each input, in order.
    """

    library: Any
    inputs: list[Array] = field(default_factory=list)
    _parameters: list[Any] = field(default_factory=list)
    _weights: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    _random: np.random.Generator = field(default_factory=partial(np.random.default_rng, 0))

    @property
    def ops(self) -> Any:
        """The operators."""
        return self.library.opset13

    def model(self, cases: Mapping[str, Case]) -> Any:
        """Return the model; its outputs have the names of the cases."""
        outputs = []
        for name, case in cases.items():
            output = self.ops.result(case(self))
            output.output(0).set_names({name})
            outputs.append(output)
        return self.library.Model(outputs, self._parameters, "self_test")

    def input(self, *shape: int) -> Any:
        """Return an input of numbers with variance 1."""
        self.inputs.append(self._random.standard_normal(shape, dtype=np.float32))
        self._parameters.append(self.ops.parameter(list(shape), self.library.Type.f32))
        return self._parameters[-1]

    def weight(self, *shape: int, sums: int, which: str = "") -> Any:
        """Return a constant that keeps the variance in sums of `sums` products; `which` tells those of a size apart."""
        key = (*shape, sums, which)
        if key not in self._weights:
            values = self._random.standard_normal(shape, dtype=np.float32) * np.float32(sums**-0.5)
            self._weights[key] = self.ops.constant(values)
        return self._weights[key]

    def ints(self, *values: int) -> Any:
        """Return a constant of int64."""
        return self.ops.constant(np.array(values))

    def linear(self, x: Any, inputs: int, outputs: int, which: str = "", *, transposed: bool = False) -> Any:
        """Return the product with a constant (inputs, outputs), or transposed (outputs, inputs)."""
        shape = (outputs, inputs) if transposed else (inputs, outputs)
        return self.ops.matmul(x, self.weight(*shape, sums=inputs, which=which), False, transposed)


Case = Callable[[_Graph], Any]  # adds a case to the graph, and returns its last node


def bundle_cases(model: ModelConfig, shape: VideoShape) -> dict[str, Case]:
    """Return the cases for a bundle by name: those of its sizes, and those of known faults.

    Args:
        model: The bundle's model.
        shape: The bundle's sizes.
    """
    return dict(_cases(model, shape))


def _cases(model: ModelConfig, shape: VideoShape) -> Iterator[tuple[str, Case]]:
    heads, frames, factor = model.attention_heads, shape.frames, model.vae_factor
    height, width = shape.height // factor, shape.width // factor
    first, context = model.block_out_channels[0], model.cross_attention_dim
    for masked in (False, True):  # the known fault of attention: the sizes of the released model, and these heads
        yield _attention("queries as heads", _POSITIONS, 8, 8, 8, 40, 320, masked=masked)
        yield _attention("queries as heads", _POSITIONS, heads, heads, heads, first // heads, first, masked=masked)
    yield _attention("queries as heads", _POSITIONS, heads, heads + 1, heads, first // heads, first)
    for number, site in enumerate({site.channels: site for site in model.attention_sites()}.values()):
        channels, size = site.channels, site.channels // heads
        tokens = min(_TOKENS, site_tokens(height, width, site))
        for masked in (False, True)[: 1 if number else 2]:
            yield _attention("motion module", _POSITIONS, frames, frames, heads, size, channels, masked=masked)
            yield _attention("self-attention", 1, tokens, tokens, heads, size, channels, masked=masked)
        queries = min(2 * _TOKENS, tokens * frames)
        yield _attention("reference attention", 1, queries, tokens, heads, size, channels)
        yield _attention("audio attention", 2, tokens, model.audio_tokens, heads, size, context)
    tokens = min(_TOKENS, height * width)
    yield _attention("attention of the VAE", 1, tokens, tokens, 1, _VAE_CHANNELS, _VAE_CHANNELS)
    for channels in dict.fromkeys(model.block_out_channels):
        yield f"gated product (64 x {channels})", partial(_gated, channels=channels)
        yield _convolution(channels, channels, min(height, _SIDE), min(width, _SIDE))
    yield _convolution(model.latent_channels, first, min(height, _SIDE), min(width, _SIDE))
    yield _products(1, (first, 4 * first, 4 * first))  # of the timestep
    for transposed in (False, True):
        yield _products(_ROWS, (512, 1024, 3072), transposed=transposed)  # those of issue 38256


def _attention(
    what: str, batch: int, queries: int, keys: int, heads: int, size: int, context: int, *, masked: bool = False
) -> tuple[str, Case]:
    """Return attention between its products.

    Keys and values are projected from the queries' input if they are as many, else from one of `context` channels.
    """
    channels = heads * size

    def build(graph: _Graph) -> Any:
        ops = graph.ops

        def split(x: Any, inputs: int, count: int, which: str) -> Any:
            projected = graph.linear(x, inputs, channels, which)
            by_head = ops.reshape(projected, graph.ints(batch, count, heads, size), special_zero=False)
            return ops.transpose(by_head, graph.ints(0, 2, 1, 3))

        x = graph.input(batch, queries, channels)
        source, inputs = (x, channels) if keys == queries else (graph.input(batch, keys, context), context)
        mask = [graph.input(1, 1, queries, keys)] if masked else []
        q = split(x, channels, queries, "queries")
        k, v = (split(source, inputs, keys, which) for which in ("keys", "values"))
        mixed = ops.transpose(ops.scaled_dot_product_attention(q, k, v, *mask), graph.ints(0, 2, 1, 3))
        merged = ops.reshape(mixed, graph.ints(batch, queries, channels), special_zero=False)
        return graph.linear(merged, channels, channels)

    sizes = f"{queries} queries, {keys} keys, {heads} heads of {size}"
    return f"{what} ({sizes}{', masked' if masked else ''})", build


def _gated(graph: _Graph, channels: int) -> Any:
    """Build a feed-forward with a GEGLU layer."""
    x, inner, ops = graph.input(1, _ROWS, channels), 4 * channels, graph.ops
    value, gate = (
        ops.add(graph.linear(x, channels, inner, which), graph.weight(inner, sums=1, which=which))
        for which in ("value", "gate")
    )
    return graph.linear(ops.multiply(value, ops.gelu(gate, "erf")), inner, channels)


def _products(rows: int, sizes: tuple[int, ...], *, transposed: bool = False) -> tuple[str, Case]:
    """Return products with constants from each size to the next, and back to the first."""

    def build(graph: _Graph) -> Any:
        x = graph.input(1, rows, sizes[0])
        for inputs, outputs in zip(sizes, (*sizes[1:], sizes[0]), strict=True):
            x = graph.linear(x, inputs, outputs, transposed=transposed)
        return x

    how = ", transposed" if transposed else ""
    return f"products ({rows} x {' x '.join(map(str, sizes))}{how})", build


def _convolution(inputs: int, outputs: int, height: int, width: int) -> tuple[str, Case]:
    """Return convolutions of 3 x 3, 1 x 1 and 3 x 3, to other channels and back."""

    def build(graph: _Graph) -> Any:
        x = graph.input(1, inputs, height, width)
        for count, result, side in ((inputs, outputs, 3), (outputs, outputs, 1), (outputs, inputs, 3)):
            kernels, pads = graph.weight(result, count, side, side, sums=side * side * count), [side // 2] * 2
            x = graph.ops.convolution(x, kernels, [1, 1], pads, pads, [1, 1])
        return x

    return f"convolutions ({inputs} x {outputs} channels, {height} x {width})", build


def _results(
    compile_model: Callable[..., Any], model: Any, inputs: list[Array], device: str, configuration: dict[str, Any]
) -> dict[str, Array]:
    """Compile and run the model; return copies of its outputs by name."""
    with native_call():
        compiled = compile_model(model, device, configuration)
    request = compiled.create_infer_request()
    with native_call():
        found = request.infer(dict(enumerate(inputs)))
    return {port.any_name: np.array(found[port]) for port in compiled.outputs}


def _key(library: Any, core: Any, device: str, configuration: Mapping[str, Any], cases: Mapping[str, Case]) -> str:
    """Return the key of a result: everything that could change it."""
    name = str(core.get_property(device, "FULL_DEVICE_NAME"))
    parts = [cpu_model().key, device, name, library.__version__, sorted(configuration.items()), [*cases]]
    return json.dumps(parts, default=str)


def _stored(key: str, cases: Mapping[str, Case]) -> SelfTest | None:
    """Return the result in the user's cache; None unless it has a number, or None, for every case."""
    record = read_record(KIND, key)
    found = record.get("decibels") if record else None
    if not isinstance(found, dict) or found.keys() != cases.keys():
        return None
    if not all(value is None or (type(value) in (int, float) and math.isfinite(value)) for value in found.values()):
        return None
    return SelfTest(found)
