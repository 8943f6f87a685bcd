"""The module of CUDA kernels without a GPU: the twins in NumPy, on `fake_cuda`'s memory, when the stream gets there."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.doubles.fake_cuda import FakeCuda
from vexpress_rt.native import median_3x3x3_numpy
from vexpress_rt.native.device_kernels import EXTENSION
from vexpress_rt.native.latent_step import Share, guided_step_numpy
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy


def install(monkeypatch: pytest.MonkeyPatch, cuda: FakeCuda) -> FakeKernels:
    """Put them where `device_kernels.load` finds the real ones."""
    kernels = FakeKernels(cuda)
    monkeypatch.setitem(sys.modules, EXTENSION, kernels)  # type: ignore[arg-type]
    return kernels


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where they were not built."""
    monkeypatch.setitem(sys.modules, EXTENSION, None)  # type: ignore[arg-type]


class FakeKernels:
    """In the place of the compiled module.  refused: launches that CUDA is to refuse from here on."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refused = 0

    def guided_step(
        self, vectors: int, totals: int, unconditional: int, conditional: int, values: int, slots: int,
        shares: np.ndarray, scale: float, table: np.ndarray, stream: int,
    ) -> None:  # fmt: skip
        parts, size = [Share(*row) for row in shares.tolist()], 4 * values
        reads = [(half, size * len(parts)) for half in (unconditional, conditional) if half]
        writes = [(vectors, size * slots * len(table)), (totals, size * slots)]
        numbers = tuple(map(tuple, table.tolist()))

        def run() -> None:
            held, sums, *halves = (self._floats(*span, values) for span in (*writes, *reads))
            both = halves if unconditional else [None, *halves]
            guided_step_numpy(held.reshape(-1, slots, values), sums, *both, parts, scale, numbers)  # type: ignore[arg-type]

        self._launch(stream, "guided_step", [*reads, *writes], writes, run)

    def median_3x3x3(
        self, previous: int, current: int, following: int, out: int, height: int, width: int, stream: int
    ) -> None:
        size = height * width * 3
        triple = [(frame, size) for frame in (previous, current, following)]

        def run() -> None:
            frames = (self._bytes(*span).reshape(height, width, 3) for span in triple)
            self._bytes(out, size)[:] = median_3x3x3_numpy(*frames).reshape(-1)

        self._launch(stream, "median_3x3x3", triple, [(out, size)], run)

    def rgb_to_nv12(self, frame: int, out: int, height: int, width: int, stream: int) -> None:
        rgb, nv12 = (frame, height * width * 3), (out, height * width * 3 // 2)

        def run() -> None:
            self._bytes(*nv12)[:] = rgb_to_nv12_numpy(self._bytes(*rgb).reshape(height, width, 3)).reshape(-1)

        self._launch(stream, "rgb_to_nv12", [rgb], [nv12], run)

    def _launch(self, stream: int, name: str, reads: list, writes: list, run: object) -> None:  # type: ignore[type-arg]
        if self.refused:
            self.refused -= 1
            raise RuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
        self.cuda.launch(stream, name, reads, writes, run)  # type: ignore[arg-type]

    def _bytes(self, pointer: int, size: int) -> np.ndarray:
        return self.cuda.machine.view(pointer, size)

    def _floats(self, pointer: int, size: int, values: int) -> np.ndarray:
        return self._bytes(pointer, size).view(np.float32).reshape(-1, values)
