"""Memory, streams, events and graphs of a GPU, on a fake CUDA that enforces its rules."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from tests.doubles.fake_cuda import NO_DRIVER, FakeCuda, installed
from tests.doubles.fake_machine import KernelError
from tests.support.device_memory import fill
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.errors import BackendError, BackendMissingError

ARRAY = np.arange(64, dtype=np.uint8)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A fake CUDA with 1 MiB, of which nothing is allocated after the test."""
    yield from installed(monkeypatch, 1 << 20)


@pytest.fixture
def stream(cuda: FakeCuda) -> Iterator[runtime.Stream]:
    with runtime.Stream() as made:
        yield made
        made.synchronize()


def upload(buffer: runtime.Buffer, array: np.ndarray, stream: runtime.Stream) -> None:
    with runtime.pinned(array.nbytes) as host:
        host.array[:] = array
        runtime.copy_from_host(buffer, host.array, stream)
        stream.synchronize()


def download(buffer: runtime.Buffer, stream: runtime.Stream) -> np.ndarray:
    with runtime.pinned(buffer.bytes) as host:
        runtime.copy_to_host(host.array, buffer, stream)
        stream.synchronize()
        return host.array.copy()


# The GPU


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_runtime", FakeCuda(gpus=2))
    assert runtime.count() == 2
    runtime.check()


def test_without_a_driver_there_is_no_gpu_and_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    fake.failures["cudaGetDeviceCount"] = [NO_DRIVER, NO_DRIVER]
    monkeypatch.setattr(runtime, "_runtime", fake)
    assert runtime.count() == 0
    with pytest.raises(
        BackendError, match=r"no NVIDIA GPU can be used \(CUDA driver version is insufficient .*nvidia-smi"
    ):
        runtime.check()


def test_without_a_gpu_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_runtime", FakeCuda(gpus=0))
    with pytest.raises(BackendError, match=r"no NVIDIA GPU can be used \(there is none\)"):
        runtime.check()


def test_without_cuda_python_there_is_no_gpu_and_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert runtime.count() == 0
    with pytest.raises(BackendMissingError, match=r"pip install 'vexpress-rt\[cuda\]'"):
        runtime.check()


def test_name_capability_and_memory_are_reported(cuda: FakeCuda) -> None:
    assert runtime.name_and_capability() == ("Fake GPU", (9, 0))
    with runtime.allocate(1 << 10):
        assert runtime.memory() == ((1 << 20) - (1 << 10), 1 << 20)


def test_the_driver_reports_the_newest_cuda_that_it_supports(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (0, 13020), raising=False)
    assert runtime.driver_version() == "13.2"


def test_without_a_driver_there_is_no_version(cuda: FakeCuda) -> None:
    cuda.failures["cudaGetDeviceCount"] = [NO_DRIVER]
    with pytest.raises(BackendError, match="driver version is insufficient"):
        runtime.driver_version()


def test_importing_it_does_not_load_cuda() -> None:
    code = "import sys, vexpress_rt.backends.cuda.runtime; sys.exit('cuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Memory


def test_copied_data_comes_back(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(ARRAY.nbytes) as buffer:
        upload(buffer, ARRAY, stream)
        np.testing.assert_array_equal(download(buffer, stream), ARRAY)


def test_memory_is_copied_and_filled_on_the_gpu(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(64) as source, runtime.allocate(64) as target:
        upload(source, ARRAY, stream)
        fill(target, 7, stream)
        runtime.copy_on_device(target, source, 16, stream)
        np.testing.assert_array_equal(download(target, stream), [*range(16), *[7] * 48])
    assert cuda.copies["DeviceToDevice"] == 1


def test_an_allocation_without_room_names_request_free_memory_and_remedy(cuda: FakeCuda) -> None:
    with runtime.allocate(768 << 10), pytest.raises(BackendError) as caught:
        runtime.allocate(512 << 10, "latents of engine denoiser")
    message = str(caught.value)
    assert message.startswith(
        "latents of engine denoiser: the GPU's memory ran out (cudaMalloc: out of memory, error 2;"
    )
    assert "requested 512.0 KiB, 256.0 KiB of 1.0 MiB are free" in message
    assert "fewer --frames" in message


def test_a_failed_allocation_is_not_blamed_on_the_next_launch(cuda: FakeCuda) -> None:
    with pytest.raises(BackendError):
        runtime.allocate(2 << 20)
    assert cuda.cudaGetLastError() == (0,)


def test_pinned_memory_that_cannot_be_allocated_names_the_request(cuda: FakeCuda) -> None:
    cuda.failures["cudaHostAlloc"] = [2]
    with pytest.raises(BackendError, match=r"image: 3\.0 KiB of pinned host memory .*ulimit -l"):
        runtime.pinned(3 << 10, "image")


def test_empty_buffers_are_fine(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(0) as buffer:
        assert buffer.bytes == 0
        assert download(buffer, stream).size == 0


@pytest.mark.parametrize("size", [65, 1 << 20])
def test_copies_beyond_a_buffer_are_refused(cuda: FakeCuda, stream: runtime.Stream, size: int) -> None:
    array = np.zeros(size, np.uint8)
    with runtime.allocate(64) as buffer:
        for copy in (runtime.copy_from_host, lambda b, a, s: runtime.copy_to_host(a, b, s)):
            with pytest.raises(BackendError, match=f"a buffer of 64 bytes and an array of {size} .*no more bytes"):
                copy(buffer, array, stream)
        with runtime.allocate(128) as larger, pytest.raises(BackendError, match="a copy of 100 bytes"):
            runtime.copy_on_device(buffer, larger, 100, stream)


def test_arrays_with_gaps_are_refused(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(64) as buffer, pytest.raises(BackendError, match=r"strides \(2,\)"):
        runtime.copy_from_host(buffer, ARRAY[::2], stream)


def test_closing_twice_is_allowed(cuda: FakeCuda) -> None:
    held = (runtime.allocate(8), runtime.pinned(8), runtime.Stream(), runtime.Event())
    for one in held * 2:
        one.close()
    assert cuda.calls["cudaFree"] == cuda.calls["cudaFreeHost"] == 1


def test_a_dropped_buffer_is_freed(cuda: FakeCuda) -> None:
    buffer = runtime.allocate(8)
    del buffer
    gc.collect()
    assert cuda.left() == []


def test_a_failure_to_free_a_dropped_buffer_is_logged(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    with runtime.Stream() as stream:
        buffer = runtime.allocate(8)
        buffer._free = "cudaStreamSynchronize"
        buffer._handle, pointer = stream.handle, buffer.pointer
        cuda.failures["cudaStreamSynchronize"] = [700]
        with caplog.at_level(logging.WARNING):
            del buffer
            gc.collect()
        cuda.cudaFree(pointer)
    assert caplog.messages == ["cudaStreamSynchronize: an illegal memory access was encountered, error 700"]


def test_a_closed_buffer_has_no_address_and_a_closed_stream_is_not_used(cuda: FakeCuda) -> None:
    buffer, stream = runtime.allocate(8), runtime.Stream()
    buffer.close()
    stream.close()
    assert buffer.pointer == 0
    with pytest.raises(BackendError, match="stream was closed"):
        stream.synchronize()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (3 << 19, "1.5 MiB"), (5 << 30, "5.0 GiB")],
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert runtime.readable(size) == text


# Streams, events, graphs


def test_an_event_completes_when_the_work_before_it_is_done(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer:
        before = stream.record()
        fill(buffer, 1, stream)
        event = stream.record()
        assert before.done()
        assert not event.done()
        event.synchronize()
        assert event.done()


def test_a_stream_waits_for_an_event_of_another(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.Stream() as other, runtime.allocate(8) as buffer:
        fill(buffer, 5, stream)
        other.wait(stream.record())
        assert download(buffer, other).tolist() == [5] * 8


def test_a_captured_graph_runs_as_often_as_it_is_launched(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer:
        fill(buffer, 1, stream)
        stream.begin_capture()
        fill(buffer, 2, stream)
        with stream.end_capture() as graph:
            assert download(buffer, stream).tolist() == [1] * 8
            for _ in range(2):
                fill(buffer, 1, stream)
                graph.launch(stream)
                assert download(buffer, stream).tolist() == [2] * 8


def test_work_that_cannot_be_captured_is_an_error_and_the_stream_goes_on(
    cuda: FakeCuda, stream: runtime.Stream
) -> None:
    stream.begin_capture()
    with pytest.raises(BackendError, match="cudaStreamSynchronize: operation not permitted when stream is capturing"):
        stream.synchronize()
    with pytest.raises(BackendError, match="cudaStreamEndCapture"):
        stream.end_capture()
    stream.synchronize()


def test_a_graph_that_cannot_be_made_leaves_nothing(cuda: FakeCuda, stream: runtime.Stream) -> None:
    stream.begin_capture()
    cuda.failures["cudaGraphInstantiate"] = [2]
    with pytest.raises(BackendError, match="cudaGraphInstantiate: out of memory"):
        stream.end_capture()


def test_an_error_on_the_gpu_is_raised_to_the_waiting_thread(cuda: FakeCuda, stream: runtime.Stream) -> None:
    def fail() -> None:
        raise KernelError

    cuda.launch(stream.handle, "broken", [], [], fail)
    with pytest.raises(BackendError, match="cudaStreamSynchronize: an illegal memory access"):
        stream.synchronize()


# On a GPU


@pytest.mark.gpu
def test_a_gpu_copies_fills_and_replays() -> None:
    with runtime.Stream() as stream, runtime.allocate(64) as buffer:
        upload(buffer, ARRAY, stream)
        np.testing.assert_array_equal(download(buffer, stream), ARRAY)
        stream.begin_capture()
        fill(buffer, 9, stream)
        with stream.end_capture() as graph:
            graph.launch(stream)
            assert download(buffer, stream).tolist() == [9] * 64


@pytest.mark.gpu
def test_a_gpu_without_room_says_what_is_free() -> None:
    _, total = runtime.memory()
    with pytest.raises(BackendError, match=r"requested .* are free: close other programs"):
        runtime.allocate(2 * total)
    with runtime.allocate(1 << 20):
        pass
