"""Frames on the GPU: the host's values, copied while the next ones are computed, and nothing left behind."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from tests.doubles.fake_cuda import FakeCuda
from tests.doubles.fakes import FakeEngine, fake_specs
from tests.doubles.loopback import Loopback, upload
from vexpress_rt.backends.cuda import buffer_pool
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.errors import BackendError
from vexpress_rt.native.nv12 import rgb_to_nv12_numpy
from vexpress_rt.pipeline import device_operations
from vexpress_rt.stages import device_frames
from vexpress_rt.stages.frame_decoder import FramePostprocessing, HostFrames, make_frames, median
from vexpress_rt.utils.stopwatch import Stopwatch

SHAPE = (6, 10, 3)


@pytest.fixture
def path(executor: Executor) -> FramePostprocessing:
    return device_operations.choose_device_operations(executor, None).frames


def clip(length: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 256, (length, *shape), np.uint8)


def on_gpu(executor: Executor, frames: np.ndarray) -> Iterator[CudaTensor]:
    return (upload(executor, frame) for frame in frames)


@pytest.mark.parametrize("length", range(5))
def test_frames_arrive_in_order_and_whole(executor: Executor, path: FramePostprocessing, length: int) -> None:
    found = list(path.arrays(on_gpu(executor, clip(length))))
    assert len(found) == length
    for frame, expected in zip(found, clip(length), strict=True):
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("length", range(1, 6))
def test_the_median_on_the_gpu_gives_the_hosts_frames(
    executor: Executor, path: FramePostprocessing, length: int
) -> None:
    found = path.arrays(median(on_gpu(executor, clip(length)), path.median_3x3x3))
    expected = median(clip(length), HostFrames().median_3x3x3)
    for frame, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(frame, other)


def test_a_frame_is_given_out_when_the_copy_of_the_next_has_been_entered(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda
) -> None:
    entered = [cuda.calls["cudaMemcpyAsync"] for _ in path.arrays([upload(executor, frame) for frame in clip(4)])]
    assert entered == [6, 7, 8, 8]  # four of them are uploads


def test_the_copy_of_a_frame_runs_only_when_it_is_waited_for(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda
) -> None:
    ran = []
    for _ in path.arrays(on_gpu(executor, clip(4))):
        ran.append(cuda.copies["DeviceToHost"])
    assert ran == [1, 2, 3, 4]


def test_pinned_memory_is_as_much_as_two_frames_need(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda
) -> None:
    tensors = [upload(executor, frame) for frame in clip(9)]
    before = cuda.calls["cudaHostAlloc"]
    for _ in path.arrays(tensors):
        pass
    assert cuda.calls["cudaHostAlloc"] - before == 2


def test_frames_are_the_callers_own(executor: Executor, path: FramePostprocessing) -> None:
    for frame, expected in zip(path.arrays(on_gpu(executor, clip(4))), clip(4), strict=True):
        np.testing.assert_array_equal(frame, expected)
        frame[:] = 0


def test_memory_is_back_when_frames_are_no_longer_wanted(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda
) -> None:
    frames = path.arrays(median(on_gpu(executor, clip(6)), path.median_3x3x3))
    next(frames)
    del frames
    gc.collect()
    executor.pool.trim()
    assert len(cuda.machine.memory) == 0


def test_frames_that_fail_take_the_pinned_memory_with_them(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda
) -> None:
    def source() -> Iterator[CudaTensor]:
        yield from on_gpu(executor, clip(3))
        raise BackendError("engine vae_decoder failed")

    with pytest.raises(BackendError, match="vae_decoder failed"):
        list(path.arrays(source()))
    executor.pool.trim()
    assert len(cuda.machine.memory) == 0


@pytest.mark.parametrize("ahead", [1, 4])
@pytest.mark.parametrize("kept", [0, 1 << 20])
@pytest.mark.parametrize("filtered", [True, False])
def test_memory_of_a_frame_is_not_used_again_before_its_last_use(
    cuda: FakeCuda,
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
    kept: int,
    filtered: bool,
) -> None:
    monkeypatch.setattr(device_frames, "AHEAD", ahead)
    monkeypatch.setattr(buffer_pool, "KEPT_BYTES", kept)
    with Executor() as executor:
        check_filtered_frames(executor, filtered=filtered)


def check_filtered_frames(executor: Executor, *, filtered: bool) -> None:
    path = device_operations.choose_device_operations(executor, None).frames
    made, expected = iter(on_gpu(executor, clip(9))), iter(clip(9))
    found = path.arrays(median(made, path.median_3x3x3) if filtered else made)
    for frame, other in zip(found, median(expected, HostFrames().median_3x3x3) if filtered else expected, strict=True):
        np.testing.assert_array_equal(frame, other)


@pytest.mark.parametrize("function", ["cudaMallocFromPoolAsync", "cudaHostAlloc"])
@pytest.mark.parametrize("call", range(2))
def test_memory_that_runs_out_is_told_and_the_next_frames_come(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda, function: str, call: int
) -> None:
    tensors = [upload(executor, frame) for frame in clip(3)]
    cuda.failures[function] = [0] * call + [2, 2]
    frames = path.arrays(median(tensors, path.median_3x3x3))
    with pytest.raises(BackendError, match=r"(frames copied to the host|a frame): "):
        list(frames)
    cuda.failures.clear()
    assert len(list(path.arrays(median(tensors, path.median_3x3x3)))) == 3


def test_frames_from_latents_do_not_touch_the_host_before_the_end(
    executor: Executor, path: FramePostprocessing, cuda: FakeCuda
) -> None:
    decoder = Loopback(FakeEngine(fake_specs()["vae_decoder"]), executor)
    latents = [(frame, upload(executor, np.full((1, 4, 8, 8), frame, np.float32))) for frame in range(3)]
    watch = Stopwatch()
    frames = list(make_frames(decoder, latents, path, watch, median_filter=True, rgb=True))
    assert [frame.shape for frame in frames] == [(64, 64, 3)] * 3
    assert decoder.kept_inputs == [{"latent"}] * 3
    assert set(watch.finish()) == {"decode", "median", "total"}


def test_frames_for_an_encoder_are_converted_on_the_gpu(executor: Executor, path: FramePostprocessing) -> None:
    decoded = clip(3, (64, 64, 3))
    pictures = iter(decoded)
    decoder = Loopback(
        FakeEngine(fake_specs()["vae_decoder"], lambda spec, inputs: {"frame": next(pictures)}), executor
    )
    latents = [(frame, upload(executor, np.zeros((1, 4, 8, 8), np.float32))) for frame in range(3)]
    found = list(make_frames(decoder, latents, path, Stopwatch(), median_filter=False, rgb=False))
    for frame, picture in zip(found, decoded, strict=True):
        np.testing.assert_array_equal(frame, rgb_to_nv12_numpy(picture))


# On a GPU


@pytest.mark.gpu
@pytest.mark.nvcc
@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_gpu_gives_the_hosts_frames(length: int) -> None:
    frames = clip(length, (512, 384, 3))
    with Executor() as executor:
        path = device_operations.choose_device_operations(executor, None).frames
        assert path.keep_on_device
        assert path.rgb_to_nv12 is not None
        found = list(path.arrays(median(on_gpu(executor, frames), path.median_3x3x3)))
        converted = list(path.arrays(map(path.rgb_to_nv12, on_gpu(executor, frames))))
    for frame, other in zip(found, median(frames, HostFrames().median_3x3x3), strict=True):
        np.testing.assert_array_equal(frame, other)
    for frame, other in zip(converted, frames, strict=True):
        np.testing.assert_array_equal(frame, rgb_to_nv12_numpy(other))
