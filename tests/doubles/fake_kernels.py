"""The module of CUDA kernels without a GPU: their C++, compiled for the CPU, on `fake_cuda`'s memory.

A kernel runs when its stream reaches it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.doubles.fake_cuda import FakeCuda
from vexpress_rt.native.device_kernels import EXTENSION

COMPILED: Any = importlib.import_module("vexpress_rt.native._native").kernels


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeKernels:
    """Install the kernels as the module that `device_kernels.load` imports."""
    kernels = FakeKernels(cuda)
    monkeypatch.setitem(sys.modules, EXTENSION, kernels)  # type: ignore[arg-type]
    return kernels


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `device_kernels.load` behave as if the kernels were not built."""
    monkeypatch.setitem(sys.modules, EXTENSION, None)  # type: ignore[arg-type]


class FakeKernels:
    """A stand-in for the compiled module.

    Attributes:
        cuda: The stand-in for CUDA.
        refused: Number of the next launches that fail.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refused = 0

    def guided_step(
        self, state: int, totals: int, unconditional: int, conditional: int, values: int, slots: int,
        updates: np.ndarray, scale: float, table: np.ndarray, stream: int,
    ) -> None:  # fmt: skip
        size = 4 * values
        window = size * len(updates)
        writes = [(state, size * slots * len(table)), (totals, size * slots)]
        reads = [(half, window) for half in (unconditional, conditional) if half]

        def run() -> None:
            COMPILED.guided_step(
                *(self._address(*span) for span in writes),
                self._address(unconditional, window), self._address(conditional, window),
                values, slots, updates, scale, table, 0,
            )  # fmt: skip

        self._launch(stream, "guided_step", [*reads, *writes], writes, run)

    def correct_predictions(
        self, unconditional: int, conditional: int, expected: int, out: int, values: int, frame: int,
        weights: np.ndarray, scale: float, stream: int,
    ) -> None:  # fmt: skip
        size = 4 * values
        window = size * len(weights)
        reads = [(half, window) for half in (unconditional, conditional) if half] + [(expected, size)]

        def run() -> None:
            COMPILED.correct_predictions(
                self._address(unconditional, window), self._address(conditional, window),
                self._address(expected, size), self._address(out, window), values, frame, weights, scale, 0,
            )  # fmt: skip

        self._launch(stream, "correct_predictions", reads, [(out, window)], run)

    def weighted_sum(
        self, first: int, second: int, out: int, rows: int, values: int, first_weight: float, second_weight: float,
        dtype: int, stream: int,
    ) -> None:  # fmt: skip
        size = (2 if dtype else 4) * rows * values

        def run() -> None:
            addresses = [self._address(pointer, size) for pointer in (first, second, out)]
            COMPILED.weighted_sum(*addresses, rows, values, first_weight, second_weight, dtype, 0)

        reads = [(pointer, size) for pointer in (first, second) if pointer]
        self._launch(stream, "weighted_sum", reads, [(out, size)], run)

    def median_3x3x3(
        self, previous: int, current: int, following: int, out: int, height: int, width: int, stream: int
    ) -> None:
        size = height * width * 3
        triple = [(frame, size) for frame in (previous, current, following)]

        def run() -> None:
            COMPILED.median_3x3x3(*(self._address(*span) for span in (*triple, (out, size))), height, width, 0)

        self._launch(stream, "median_3x3x3", triple, [(out, size)], run)

    def rgb_to_nv12(self, frame: int, out: int, height: int, width: int, stream: int) -> None:
        rgb, nv12 = (frame, height * width * 3), (out, height * width * 3 // 2)

        def run() -> None:
            COMPILED.rgb_to_nv12(self._address(*rgb), self._address(*nv12), height, width, 0)

        self._launch(stream, "rgb_to_nv12", [rgb], [nv12], run)

    def _launch(
        self, stream: int, name: str, reads: list[tuple[int, int]], writes: list[tuple[int, int]],
        run: Callable[[], None],
    ) -> None:  # fmt: skip
        if self.refused:
            self.refused -= 1
            raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
        self.cuda.launch(stream, name, reads, writes, run)

    def _address(self, pointer: int, size: int) -> int:
        """Return the address of the fake GPU's memory in this process; 0 for a null pointer."""
        return self.cuda.machine.view(pointer, size).ctypes.data if pointer else 0
