"""Memory, streams, events and graphs of a GPU, on a fake CUDA that enforces its rules."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from tests.fake_cuda import NO_DRIVER, FakeCuda, installed
from tests.fake_machine import KernelError
from vexpress_rt import device
from vexpress_rt.errors import BackendError, BackendMissingError

ARRAY = np.arange(64, dtype=np.uint8)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A fake CUDA with 1 MiB, of which nothing is left allocated when the test has passed."""
    yield from installed(monkeypatch, 1 << 20)


@pytest.fixture
def stream(cuda: FakeCuda) -> Iterator[device.Stream]:
    with device.Stream() as made:
        yield made
        made.synchronize()


def upload(buffer: device.Buffer, array: np.ndarray, stream: device.Stream) -> None:
    with device.pinned(array.nbytes) as host:
        host.array[:] = array
        device.copy_in(buffer, host.array, stream)
        stream.synchronize()


def download(buffer: device.Buffer, stream: device.Stream) -> np.ndarray:
    with device.pinned(buffer.bytes) as host:
        device.copy_out(host.array, buffer, stream)
        stream.synchronize()
        return host.array.copy()


# The GPU


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_runtime", FakeCuda(gpus=2))
    assert device.count() == 2
    device.check()


def test_without_a_driver_there_is_no_gpu_and_cuda_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    fake.failures["cudaGetDeviceCount"] = [NO_DRIVER, NO_DRIVER]
    monkeypatch.setattr(device, "_runtime", fake)
    assert device.count() == 0
    with pytest.raises(
        BackendError, match=r"no NVIDIA GPU can be used \(CUDA driver version is insufficient .*nvidia-smi"
    ):
        device.check()


def test_without_a_gpu_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_runtime", FakeCuda(gpus=0))
    with pytest.raises(BackendError, match=r"no NVIDIA GPU can be used \(there is none\)"):
        device.check()


def test_without_cuda_python_there_is_no_gpu_and_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert device.count() == 0
    with pytest.raises(BackendMissingError, match=r"pip install 'vexpress-rt\[cuda\]'"):
        device.check()


def test_name_capability_and_memory_are_told(cuda: FakeCuda) -> None:
    assert device.name_and_capability() == ("Fake GPU", (9, 0))
    with device.allocate(1 << 10):
        assert device.memory() == ((1 << 20) - (1 << 10), 1 << 20)


def test_the_driver_tells_the_newest_cuda_that_it_knows(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (0, 13020), raising=False)
    assert device.driver_version() == "13.2"


def test_without_a_driver_there_is_no_version(cuda: FakeCuda) -> None:
    cuda.failures["cudaGetDeviceCount"] = [NO_DRIVER]
    with pytest.raises(BackendError, match="driver version is insufficient"):
        device.driver_version()


def test_importing_it_does_not_load_cuda() -> None:
    code = "import sys, vexpress_rt.device; sys.exit('cuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Memory


def test_what_goes_in_comes_out(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.allocate(ARRAY.nbytes) as buffer:
        upload(buffer, ARRAY, stream)
        np.testing.assert_array_equal(download(buffer, stream), ARRAY)


def test_memory_is_copied_and_filled_on_the_gpu(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.allocate(64) as source, device.allocate(64) as target:
        upload(source, ARRAY, stream)
        device.fill(target, 7, stream)
        device.copy_across(target, source, 16, stream)
        np.testing.assert_array_equal(download(target, stream), [*range(16), *[7] * 48])
    assert cuda.copies["DeviceToDevice"] == 1


def test_an_allocation_without_room_says_what_was_asked_for_what_is_free_and_what_to_do(cuda: FakeCuda) -> None:
    with device.allocate(768 << 10), pytest.raises(BackendError) as caught:
        device.allocate(512 << 10, "latents of engine denoiser")
    message = str(caught.value)
    assert message.startswith(
        "latents of engine denoiser: the GPU's memory ran out (cudaMalloc: out of memory, error 2;"
    )
    assert "asked for 512.0 KiB, 256.0 KiB of 1.0 MiB are free" in message
    assert "fewer --frames" in message


def test_a_failed_allocation_is_not_blamed_on_whoever_launches_next(cuda: FakeCuda) -> None:
    with pytest.raises(BackendError):
        device.allocate(2 << 20)
    assert cuda.cudaGetLastError() == (0,)


def test_pinned_memory_that_is_not_to_be_had_says_how_much_was_asked_for(cuda: FakeCuda) -> None:
    cuda.failures["cudaHostAlloc"] = [2]
    with pytest.raises(BackendError, match=r"image: 3\.0 KiB of pinned host memory .*ulimit -l"):
        device.pinned(3 << 10, "image")


def test_empty_buffers_are_fine(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.allocate(0) as buffer:
        assert buffer.bytes == 0
        assert download(buffer, stream).size == 0


@pytest.mark.parametrize("size", [65, 1 << 20])
def test_copies_beyond_a_buffer_are_refused(cuda: FakeCuda, stream: device.Stream, size: int) -> None:
    array = np.zeros(size, np.uint8)
    with device.allocate(64) as buffer:
        for copy in (device.copy_in, lambda b, a, s: device.copy_out(a, b, s)):
            with pytest.raises(BackendError, match=f"a buffer of 64 bytes and an array of {size} .*no more bytes"):
                copy(buffer, array, stream)
        with device.allocate(128) as larger, pytest.raises(BackendError, match="a copy of 100 bytes"):
            device.copy_across(buffer, larger, 100, stream)


def test_arrays_with_gaps_are_refused(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.allocate(64) as buffer, pytest.raises(BackendError, match=r"strides \(2,\)"):
        device.copy_in(buffer, ARRAY[::2], stream)


def test_closing_twice_is_allowed(cuda: FakeCuda) -> None:
    held = (device.allocate(8), device.pinned(8), device.Stream(), device.Event())
    for one in held * 2:
        one.close()
    assert cuda.calls["cudaFree"] == cuda.calls["cudaFreeHost"] == 1


def test_what_is_dropped_is_freed(cuda: FakeCuda) -> None:
    buffer = device.allocate(8)
    del buffer
    gc.collect()
    assert cuda.left() == []


def test_a_failure_to_free_what_was_dropped_is_logged(cuda: FakeCuda, caplog: pytest.LogCaptureFixture) -> None:
    with device.Stream() as stream:
        buffer = device.allocate(8)
        buffer._free = "cudaStreamSynchronize"
        buffer._object, pointer = stream.handle, buffer.pointer
        cuda.failures["cudaStreamSynchronize"] = [700]
        with caplog.at_level(logging.WARNING):
            del buffer
            gc.collect()
        cuda.cudaFree(pointer)
    assert caplog.messages == ["cudaStreamSynchronize: an illegal memory access was encountered, error 700"]


def test_a_closed_buffer_has_no_address_and_a_closed_stream_is_not_used(cuda: FakeCuda) -> None:
    buffer, stream = device.allocate(8), device.Stream()
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
    assert device.readable(size) == text


# Streams, events, graphs


def test_an_event_passes_when_what_entered_before_it_is_done(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.allocate(8) as buffer:
        before = stream.record()
        device.fill(buffer, 1, stream)
        event = stream.record()
        assert before.done()
        assert not event.done()
        event.synchronize()
        assert event.done()


def test_a_stream_waits_for_an_event_of_another(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.Stream() as other, device.allocate(8) as buffer:
        device.fill(buffer, 5, stream)
        other.wait(stream.record())
        assert download(buffer, other).tolist() == [5] * 8


def test_a_captured_graph_runs_as_often_as_it_is_launched(cuda: FakeCuda, stream: device.Stream) -> None:
    with device.allocate(8) as buffer:
        device.fill(buffer, 1, stream)
        stream.begin_capture()
        device.fill(buffer, 2, stream)
        with stream.end_capture() as graph:
            assert download(buffer, stream).tolist() == [1] * 8
            for _ in range(2):
                device.fill(buffer, 1, stream)
                graph.launch(stream)
                assert download(buffer, stream).tolist() == [2] * 8


def test_what_cannot_be_captured_is_an_error_and_the_stream_goes_on(cuda: FakeCuda, stream: device.Stream) -> None:
    stream.begin_capture()
    with pytest.raises(BackendError, match="cudaStreamSynchronize: operation not permitted when stream is capturing"):
        stream.synchronize()
    with pytest.raises(BackendError, match="cudaStreamEndCapture"):
        stream.end_capture()
    stream.synchronize()


def test_a_graph_that_cannot_be_made_leaves_nothing(cuda: FakeCuda, stream: device.Stream) -> None:
    stream.begin_capture()
    cuda.failures["cudaGraphInstantiate"] = [2]
    with pytest.raises(BackendError, match="cudaGraphInstantiate: out of memory"):
        stream.end_capture()


def test_what_goes_wrong_on_the_gpu_is_told_to_whoever_waits(cuda: FakeCuda, stream: device.Stream) -> None:
    def fail() -> None:
        raise KernelError

    cuda.launch(stream.handle, "broken", [], [], fail)
    with pytest.raises(BackendError, match="cudaStreamSynchronize: an illegal memory access"):
        stream.synchronize()


# On a GPU


@pytest.mark.gpu
def test_a_gpu_copies_fills_and_replays() -> None:
    with device.Stream() as stream, device.allocate(64) as buffer:
        upload(buffer, ARRAY, stream)
        np.testing.assert_array_equal(download(buffer, stream), ARRAY)
        stream.begin_capture()
        device.fill(buffer, 9, stream)
        with stream.end_capture() as graph:
            graph.launch(stream)
            assert download(buffer, stream).tolist() == [9] * 64


@pytest.mark.gpu
def test_a_gpu_without_room_says_what_is_free() -> None:
    _, total = device.memory()
    with pytest.raises(BackendError, match=r"asked for .* are free: close other programs"):
        device.allocate(2 * total)
    with device.allocate(1 << 20):
        pass
