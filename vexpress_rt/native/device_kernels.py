"""The CUDA kernels on device memory: arguments checked, launched on a stream, not waited for.

Each has a twin in NumPy: `guided_step.guided_step_numpy`, `median.median_3x3x3_numpy`, `nv12.rgb_to_nv12_numpy`. The
arithmetic is in `kernels.hpp`, which is compiled for the CPU too, so that the tests hold it against the twins without
a GPU.

Memory is anything with an address and a size, and a stream anything with a handle, such as those of
`vexpress_rt.backends.cuda.runtime`. A launch is only enqueued: the memory must stay allocated, and the host must not
touch it, until the stream has passed the launch.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol

from vexpress_rt.errors import BackendError, BackendMissingError, InputError
from vexpress_rt.native.latent_step import FLOAT32_MAX, Coefficients, Share, check_coefficients, check_shares
from vexpress_rt.native.nv12 import check_even
from vexpress_rt.types import SIDE_LIMIT

__all__ = ["Kernels", "Memory", "Share", "Stream", "load"]

EXTENSION = "vexpress_rt.native._cuda"
VALUES_LIMIT = (1 << 31) - 1  # of a frame's latent


class Memory(Protocol):
    """A piece of device memory."""

    @property
    def pointer(self) -> int:
        """Its address."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...


class Stream(Protocol):
    """A CUDA stream of the device that the memory is on."""

    @property
    def handle(self) -> int:
        """The cudaStream_t; 0 is the default stream."""
        ...


class Kernels:
    """The kernels of a compiled module: `load()` gives those of the GPU.

    Every method raises InputError for memory that is missing, too small, overlapping or misaligned and for sizes out
    of range, and BackendError when CUDA refuses the launch. What goes wrong while a kernel runs shows at the stream's
    next synchronisation.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def guided_step(
        self, vectors: Memory, totals: Memory, unconditional: Memory | None, conditional: Memory, *,
        values: int, slots: int, shares: Sequence[Share], scale: float, coefficients: Coefficients, stream: Stream,
    ) -> None:  # fmt: skip
        """Add a window's predictions to its frames' totals; frames that all their windows cover by now take their step.

        vectors: (vectors, slots, values) float32, totals: (slots, values) float32, both changed in place.
        unconditional, conditional: (F, values) float32, the denoiser's outputs; None: no guidance, `scale` is unused.
        values: of a frame's latent, c h w.  shares: F of them.
        coefficients: of the step, (vectors, vectors + 1), for `samplers.take_step`.
        """
        _check_range("values", values, 1, VALUES_LIMIT)
        if not abs(scale) <= FLOAT32_MAX:
            raise InputError(f"scale is {scale}; expected a number that float32 holds")
        numbers, table = check_coefficients(coefficients), check_shares(shares, slots)
        size = 4 * values
        inputs = {"conditional": (conditional, size * len(shares))}
        if unconditional is not None:
            inputs["unconditional"] = (unconditional, size * len(shares))
        held = {"vectors": (vectors, size * slots * len(numbers)), "totals": (totals, size * slots)}
        _check_memory(held, inputs, alignment=4)
        self._launch(
            "guided_step",
            vectors.pointer,
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
        """The middle one of three frames, filtered: see `native.median_3x3x3`.

        previous, current, following, out: (H, W, 3) uint8 RGB; the first three may be the same.
        height, width: H and W, 1 to 65536.
        """
        _check_size(height, width)
        size = height * width * 3
        inputs = {"previous": (previous, size), "current": (current, size), "following": (following, size)}
        _check_memory({"out": (out, size)}, inputs)
        pointers = (memory.pointer for memory in (previous, current, following, out))
        self._launch("median_3x3x3", *pointers, height, width, stream.handle)

    def rgb_to_nv12(self, frame: Memory, out: Memory, *, height: int, width: int, stream: Stream) -> None:
        """RGB to NV12 in BT.709, limited range, chroma sited left: see `nv12.rgb_to_nv12_numpy`.

        frame: (H, W, 3) uint8 RGB.  out: (H * 3 / 2, W) uint8, luma above chroma.
        height, width: H and W, even, 2 to 65536.
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
    """The kernels for the GPU. Needs neither GPU nor driver: launches do.

    Raises BackendMissingError where they were not built, or do not load.
    """
    try:
        return Kernels(importlib.import_module(EXTENSION))
    except ImportError as error:
        raise BackendMissingError(
            f"the CUDA kernels {EXTENSION} do not load ({error}); expected the module that installing the package "
            "builds where it finds nvcc: install it anew with nvcc 12 or newer on PATH and VEXPRESS_RT_CUDA=ON"
        ) from error


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(f"{name} is {value}; expected {low} to {high}")


def _check_size(height: int, width: int) -> None:
    _check_range("height", height, 1, SIDE_LIMIT)
    _check_range("width", width, 1, SIDE_LIMIT)


def _check_memory(
    outputs: dict[str, tuple[Memory, int]], inputs: dict[str, tuple[Memory, int]], *, alignment: int = 1
) -> None:
    """Raise InputError unless each has the bytes that are used, and no output shares any with another."""
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
                raise InputError(f"{written} and {other} overlap; expected memory of its own for what is written")
