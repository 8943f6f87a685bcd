"""Cases for CUDA kernels on a GPU, shared by the tests and `benchmarks.gpu_check`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import numpy as np

from tests.support.kernel_cases import (
    Arena,
    Step,
    assert_same_bits,
    check_correction,
    check_guided_step,
    check_median,
    check_nv12,
    check_weighted_sum,
    random_picture,
)
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.native.device_kernels import FEATURE_DTYPES, Kernels, Memory


class DeviceArena:
    """Buffers on the GPU, freed at the end of a stack."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.stream = runtime.Stream()
        stack.callback(self.stream.close)

    def put(self, array: np.ndarray) -> Memory:
        buffer = runtime.allocate(array.nbytes)
        self._stack.callback(buffer.close)
        with runtime.pinned(array.nbytes) as host:
            host.array[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            runtime.copy_from_host(buffer, host.array, self.stream)
            self.stream.synchronize()
        return buffer

    def get(self, memory: Memory, like: np.ndarray) -> np.ndarray:
        assert isinstance(memory, runtime.Buffer)
        with runtime.pinned(like.nbytes) as host:
            runtime.copy_to_host(host.array, memory, self.stream)
            self.stream.synchronize()
            return host.array.copy().view(like.dtype).reshape(like.shape)


def check_captured_step(kernels: Kernels, arena: DeviceArena) -> None:
    """Assert that capturing a step into a graph changes nothing, and that replaying it equals the reference."""
    step = Step.random(frames=4, values=300)
    step.run(kernels, arena)  # CUDA loads kernels at their first launch, which may break a capture
    state, totals, conditional = (arena.put(a) for a in (step.state, step.totals, step.conditional))
    unconditional = None if step.unconditional is None else arena.put(step.unconditional)
    arena.stream.begin_capture()
    kernels.guided_step(
        state, totals, unconditional, conditional,
        values=300, slots=len(step.totals), updates=step.updates, scale=step.scale,
        coefficients=step.coefficients, stream=arena.stream,
    )  # fmt: skip
    graph = arena.stream.end_capture()
    assert_same_bits(arena.get(state, step.state), step.state)
    graph.launch(arena.stream)
    assert_same_bits(arena.get(state, step.state), step.reference()[0])
    graph.close()


def _guided_step(kernels: Kernels, arena: Arena, frames: int, values: int, guided: bool, state_size: int) -> None:
    check_guided_step(kernels, arena, Step.random(frames=frames, values=values, guided=guided, state_size=state_size))


def _correction(kernels: Kernels, arena: Arena, frames: int, values: int, guided: bool) -> None:
    check_correction(kernels, arena, frames=frames, values=values, guided=guided)


def _median(kernels: Kernels, arena: Arena, height: int, width: int, levels: int) -> None:
    check_median(kernels, arena, random_picture(3, height, width, 3, levels=levels))


def _nv12(kernels: Kernels, arena: Arena, height: int, width: int) -> None:
    check_nv12(kernels, arena, random_picture(height, width, 3))


STEPS = [(1, 1), (3, 257), (24, 4 * 64 * 64), (130, 1000)]  # frames, values of each
PICTURES = [(1, 1), (1, 5), (7, 1), (33, 50), (512, 512), (65536, 2)]  # height, width
EVEN_PICTURES = [(2, 2), (4, 6), (514, 510), (65536, 2)]

# Each case raises AssertionError if a kernel and its reference implementation in NumPy differ in any bit.
CASES: dict[str, Callable[[Kernels, Arena], None]] = {
    **{
        f"guided_step {frames} x {values}, state of {state_size}{'' if guided else ', no guidance'}": partial(
            _guided_step, frames=frames, values=values, guided=guided, state_size=state_size
        )
        for frames, values in STEPS
        for guided in (True, False)
        for state_size in (1, 2, 3)
    },
    **{
        f"correct_predictions {frames} x {values}{'' if guided else ', no guidance'}": partial(
            _correction, frames=frames, values=values, guided=guided
        )
        for frames, values in STEPS
        for guided in (True, False)
    },
    **{
        f"weighted_sum {frames} x {values}, {count} of {dtype}": partial(
            check_weighted_sum, dtype=dtype, frames=frames, values=values, count=count
        )
        for frames, values in STEPS
        for dtype in FEATURE_DTYPES
        for count in (1, 2)
    },
    **{
        f"median_3x3x3 {height} x {width}, {levels} levels": partial(_median, height=height, width=width, levels=levels)
        for height, width in PICTURES
        for levels in (2, 256)
    },
    **{
        f"rgb_to_nv12 {height} x {width}": partial(_nv12, height=height, width=width)
        for height, width in EVEN_PICTURES
    },
}  # fmt: skip
