"""The CUDA kernels on device memory: each method checks its arguments and enqueues a kernel on a stream.

Each kernel has a reference implementation in NumPy: `latent_step.guided_step_numpy`,
`latent_step.correct_predictions_numpy`, `median.median_3x3x3_numpy`, `nv12.rgb_to_nv12_numpy` and
`weighted_sum.weighted_sum_numpy`. The arithmetic is in
`kernels.hpp`. It is compiled for the CPU too, so that tests can compare it with the reference implementations without a
GPU.

Memory is any object with an address and a size, and a stream any object with a handle; `backends.cuda.runtime` has
both. Memory must stay allocated, and the host must not access it, until the stream has passed the kernel.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

import numpy as np

from vexpress_rt.errors import BackendError, BackendMissingError, InputError
from vexpress_rt.native.latent_step import (
    FLOAT32_MAX,
    Coefficients,
    SlotUpdate,
    check_coefficients,
    check_updates,
)
from vexpress_rt.native.nv12 import check_even
from vexpress_rt.types import MAX_BUNDLE_SIDE, Float32

EXTENSION = "vexpress_rt.native._cuda"
VALUES_LIMIT = (1 << 31) - 1  # values of a frame's latent
FEATURE_DTYPES = ("float32", "float16", "bfloat16")  # in the order of the numbers that the module takes


class Memory(Protocol):
    """A piece of device memory."""

    @property
    def pointer(self) -> int:
        """The device address."""
        ...

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        ...


class Stream(Protocol):
    """A CUDA stream of the device that the memory is on."""

    @property
    def handle(self) -> int:
        """The cudaStream_t; 0 is the default stream."""
        ...


class Kernels:
    """The kernels of a compiled module; `load` returns the kernels for the GPU.

    Errors while a kernel runs appear at the next synchronization of the stream.

    Raises:
        InputError: From every method: memory is missing, too small, overlapping or misaligned, or a size is out of
            range.
        BackendError: From every method: CUDA refuses the launch.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def guided_step(
        self, state: Memory, totals: Memory, unconditional: Memory | None, conditional: Memory, *,
        values: int, slots: int, updates: Sequence[SlotUpdate], scale: float, coefficients: Coefficients,
        stream: Stream,
    ) -> None:  # fmt: skip
        """Add a window's predictions to the totals of its frames; frames with all their predictions take the step.

        Args:
            state: (state_size, slots, values) float32, changed in place.
            totals: (slots, values) float32, changed in place.
            unconditional: (F, values) float32 from the denoiser, or None for no guidance.
            conditional: (F, values) float32 from the denoiser.
            values: Number of values of a frame's latent, c * h * w.
            slots: Number of slots.
            updates: One for each of the F frames.
            scale: Guidance scale.
            coefficients: Coefficients of the step, (state_size, state_size + 1).
            stream: The stream to enqueue on.
        """
        _check_range("values", values, 1, VALUES_LIMIT)
        _check_scale(scale)
        numbers, table = check_coefficients(coefficients), check_updates(updates, slots)
        size = 4 * values
        outputs = {"state": (state, size * slots * len(numbers)), "totals": (totals, size * slots)}
        _check_memory(outputs, _predictions(unconditional, conditional, size * len(updates)), alignment=4)
        self._launch(
            "guided_step",
            state.pointer,
            totals.pointer,
            0 if unconditional is None else unconditional.pointer,
            conditional.pointer,
            values,
            slots,
            table,
            scale,
            numbers,
            stream.handle,
        )

    def correct_predictions(
        self, unconditional: Memory | None, conditional: Memory, expected: Memory, out: Memory, *,
        values: int, frame: int, weights: Float32, scale: float, stream: Stream,
    ) -> None:  # fmt: skip
        """Write a window's guided predictions, less the weighted error in one frame whose true prediction is known.

        Args:
            unconditional: (F, values) float32 from the denoiser, or None for no guidance.
            conditional: (F, values) float32 from the denoiser.
            expected: (values,) float32, the true prediction of `frame`.
            out: (F, values) float32.
            values: Number of values of a frame's latent, c * h * w.
            frame: Index in the window of the frame with the known prediction, 0 to F - 1.
            weights: (F,) float32, the share of its error to subtract from each frame.
            scale: Guidance scale.
            stream: The stream to enqueue on.
        """
        _check_range("values", values, 1, VALUES_LIMIT)
        _check_range("frame", frame, 0, len(weights) - 1)
        _check_scale(scale)
        size = 4 * values
        inputs = _predictions(unconditional, conditional, size * len(weights)) | {"expected": (expected, size)}
        _check_memory({"out": (out, size * len(weights))}, inputs, alignment=4)
        self._launch(
            "correct_predictions",
            0 if unconditional is None else unconditional.pointer,
            conditional.pointer,
            expected.pointer,
            out.pointer,
            values,
            frame,
            np.ascontiguousarray(weights, np.float32),
            scale,
            stream.handle,
        )

    def weighted_sum(
        self, first: Memory, second: Memory | None, out: Memory, *,
        rows: int, values: int, weights: Sequence[float], dtype: str, stream: Stream,
    ) -> None:  # fmt: skip
        """Write the sum of one or two features, each times its weight, as `weighted_sum.weighted_sum_numpy` returns it.

        Args:
            first: (rows, values) of `dtype`.
            second: (rows, values) of `dtype`, or None.
            out: (rows, values) of `dtype`, memory of its own.
            rows: Number of frames.
            values: Number of values of a frame.
            weights: A weight for each feature.
            dtype: float32, float16 or bfloat16. The sum is computed in float32 and rounded once.
            stream: The stream to enqueue on.
        """
        _check_range("rows", rows, 1, VALUES_LIMIT)
        _check_range("values", values, 1, VALUES_LIMIT)
        for weight in weights:
            _check_scale(weight)
        width = 4 if dtype == FEATURE_DTYPES[0] else 2
        size, inputs = width * rows * values, {"first": first} | ({} if second is None else {"second": second})
        _check_memory({"out": (out, size)}, {name: (memory, size) for name, memory in inputs.items()}, alignment=width)
        if len(weights) != len(inputs):
            raise InputError(f"weights are {list(weights)}; expected one for each of the {len(inputs)} features")
        self._launch(
            "weighted_sum",
            first.pointer,
            0 if second is None else second.pointer,
            out.pointer,
            rows,
            values,
            weights[0],
            0.0 if second is None else weights[1],
            FEATURE_DTYPES.index(dtype),
            stream.handle,
        )

    def median_3x3x3(
        self,
        previous: Memory,
        current: Memory,
        following: Memory,
        out: Memory,
        *,
        height: int,
        width: int,
        stream: Stream,
    ) -> None:
        """Write the 3x3x3 median of the middle one of three frames, as `native.median_3x3x3` returns it.

        Args:
            previous: (H, W, 3) uint8 RGB.
            current: (H, W, 3) uint8 RGB; may be the same memory as the others.
            following: (H, W, 3) uint8 RGB.
            out: (H, W, 3) uint8 RGB, memory of its own.
            height: H, 1 to 65536.
            width: W, 1 to 65536.
            stream: The stream to enqueue on.
        """
        _check_size(height, width)
        size = height * width * 3
        inputs = {"previous": (previous, size), "current": (current, size), "following": (following, size)}
        _check_memory({"out": (out, size)}, inputs)
        pointers = (memory.pointer for memory in (previous, current, following, out))
        self._launch("median_3x3x3", *pointers, height, width, stream.handle)

    def rgb_to_nv12(self, frame: Memory, out: Memory, *, height: int, width: int, stream: Stream) -> None:
        """Convert RGB to NV12 in BT.709, limited range, chroma sited left, as `nv12.rgb_to_nv12_numpy` does.

        Args:
            frame: (H, W, 3) uint8 RGB.
            out: (H * 3 / 2, W) uint8, luma above chroma.
            height: H, even, 2 to 65536.
            width: W, even, 2 to 65536.
            stream: The stream to enqueue on.
        """
        _check_size(height, width)
        check_even(height, width)
        _check_memory({"out": (out, height * width * 3 // 2)}, {"frame": (frame, height * width * 3)})
        self._launch("rgb_to_nv12", frame.pointer, out.pointer, height, width, stream.handle)

    def _launch(self, kernel: str, *arguments: object) -> None:
        try:
            getattr(self._module, kernel)(*arguments)
        except RuntimeError as error:
            raise BackendError(
                f"CUDA does not launch the kernel {kernel}: {error}; expected an NVIDIA GPU, a driver no older than "
                "the CUDA that the kernels were built with, and a stream of that GPU: look at what nvidia-smi says"
            ) from error


def load() -> Kernels:
    """Return the kernels for the GPU. Loading needs neither GPU nor driver; launches do.

    Raises:
        BackendMissingError: The kernels were not built, or do not load.
    """
    try:
        return Kernels(importlib.import_module(EXTENSION))
    except ImportError as error:
        raise BackendMissingError(
            f"the CUDA kernels {EXTENSION} do not load ({error}); expected the module that installing the package "
            "builds if it finds nvcc: install it again with nvcc 12 or newer on PATH and VEXPRESS_RT_CUDA=ON"
        ) from error


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; expected {low} to {high}")


def _check_scale(scale: float) -> None:
    if not abs(scale) <= FLOAT32_MAX:
        raise InputError(f"scale is {scale}; expected a number that float32 holds")


def _predictions(unconditional: Memory | None, conditional: Memory, size: int) -> dict[str, tuple[Memory, int]]:
    """Return the predictions by name, each with its size in bytes; without guidance only the conditional one."""
    inputs = {"conditional": (conditional, size)}
    return inputs if unconditional is None else {**inputs, "unconditional": (unconditional, size)}


def _check_size(height: int, width: int) -> None:
    _check_range("height", height, 1, MAX_BUNDLE_SIDE)
    _check_range("width", width, 1, MAX_BUNDLE_SIDE)


def _check_memory(
    outputs: dict[str, tuple[Memory, int]], inputs: dict[str, tuple[Memory, int]], *, alignment: int = 1
) -> None:
    """Raise InputError unless each memory is large enough and aligned, and no output overlaps with another memory."""
    spans = {name: (memory.pointer, needed) for name, (memory, needed) in (outputs | inputs).items()}
    for name, (memory, needed) in (outputs | inputs).items():
        if memory.pointer == 0 or memory.pointer % alignment or memory.bytes < needed:
            raise InputError(
                f"{name} is {memory.bytes} bytes at address {memory.pointer:#x}; "
                f"expected at least {needed} bytes, allocated and not freed, at a multiple of {alignment}"
            )
    for written in outputs:
        start, size = spans[written]
        for other, (at, length) in spans.items():
            if other != written and start < at + length and at < start + size:
                raise InputError(f"{written} and {other} overlap; expected separate memory for every output")
