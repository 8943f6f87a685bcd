"""Failures while denoising with latents on the GPU: an error is raised, memory is freed, and the next video works."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from tests.support.denoisers import window_inputs
from tests.support.engines import CAPACITY
from tests.support.gpu_denoiser import EXPECTED, FRAMES, LENGTH, VIDEO, WINDOWS, Gpu, gpus, values
from tests.support.kernel_cases import assert_same_bits
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.errors import BackendError


def noise_with(frame: int, value: float) -> Callable[[int], np.ndarray]:
    """Zeros, except for one frame."""
    return lambda asked: np.full((4, 2, 2), value if asked == frame else 0, np.float32)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    yield from gpus(monkeypatch)


def check_next_run(gpu: Gpu) -> None:
    """Assert that the failed run left no memory, and that the next run gives the expected latents."""
    gpu.executor.synchronize()
    assert_same_bits(values(gpu.denoiser(*VIDEO)), EXPECTED)


@pytest.mark.parametrize("function", ["cudaMalloc", "cudaMallocFromPoolAsync", "cudaHostAlloc"])
def test_memory_that_runs_out_anywhere_is_told_and_the_next_run_works(gpu: Gpu, function: str) -> None:
    gpu.engine("denoiser", FRAMES)
    told = []
    for call in range(100):
        before = gpu.cuda.calls[function]
        gpu.executor.pool.trim()
        gpu.cuda.failures[function] = [0] * call + [2, 2]
        try:
            assert_same_bits(values(gpu.denoiser(*VIDEO)), EXPECTED)
        except BackendError as error:
            told.append(str(error))
        if gpu.cuda.calls[function] - before <= call:
            break
    else:
        raise AssertionError("there is no end of allocations")
    gpu.cuda.failures.clear()
    assert len(told) >= {"cudaMalloc": 2, "cudaMallocFromPoolAsync": 3, "cudaHostAlloc": 1}[function]
    assert all("memory ran out" in text or "pinned host memory" in text for text in told)
    check_next_run(gpu)


def test_no_room_for_the_frames_in_flight_says_how_many_they_are(gpu: Gpu) -> None:
    gpu.engine("denoiser", FRAMES)
    with runtime.allocate(CAPACITY - gpu.cuda.machine.used - 100), pytest.raises(BackendError) as caught:
        values(gpu.denoiser(*VIDEO))
    assert str(caught.value).startswith("latents of 9 frames in flight: the GPU's memory ran out")
    check_next_run(gpu)


def test_a_launch_that_cuda_refuses_is_told(gpu: Gpu) -> None:
    gpu.kernels.refused = 1
    with pytest.raises(BackendError, match="does not launch the kernel guided_step"):
        values(gpu.denoiser(*VIDEO))
    check_next_run(gpu)


def test_a_computation_that_fails_on_the_gpu_is_told(gpu: Gpu) -> None:
    gpu.engine("denoiser", FRAMES)
    gpu.plans["denoiser"].broken = 1
    with pytest.raises(BackendError, match="illegal memory access"):
        values(gpu.denoiser(*VIDEO))
    check_next_run(gpu)


@pytest.mark.parametrize("window", range(WINDOWS))
def test_failing_conditions_leave_nothing_behind(gpu: Gpu, window: int) -> None:
    def conditions(asked: Window) -> Mapping[str, np.ndarray]:
        if asked.index == window:
            raise KeyboardInterrupt
        return window_inputs(asked)

    check_next_run(gpu)
    gpu.executor.pool.trim()
    used = len(gpu.cuda.machine.memory)
    with pytest.raises(KeyboardInterrupt):
        values(gpu.denoiser(*VIDEO, conditions=conditions))
    gpu.executor.pool.trim()
    assert len(gpu.cuda.machine.memory) == used


@pytest.mark.parametrize(("value", "told"), [(np.nan, "NaN"), (np.inf, "inf"), (1e38, "1e+38")])
@pytest.mark.parametrize("frame", [0, LENGTH - 1])
def test_latents_out_of_range_are_an_error_before_their_window_is_given(
    gpu: Gpu, frame: int, value: float, told: str
) -> None:
    given: list[int] = []
    video = gpu.denoiser(*VIDEO, noise=noise_with(frame, value)).run()
    with pytest.raises(
        BackendError, match=rf"the latents of frame \d .* the noise of frame {frame} .*{re.escape(told)}"
    ):
        given.extend(number for number, _ in video)
    assert len(given) <= frame + 1  # at most the first frame of its window, whose decoder has then begun
    check_next_run(gpu)
