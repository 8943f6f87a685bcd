"""Device memory in stream order: when it is freed and used again, and how much of it is kept. On a fake CUDA."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.doubles.fake_cuda import FakeCuda, installed
from tests.support.device_memory import fill
from tests.support.engines import CAPACITY
from vexpress_rt.backends.cuda import buffer_pool as module
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import BufferPool, free
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.errors import BackendError


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    for fake in installed(monkeypatch, CAPACITY):
        yield fake
        assert fake.machine.violations == []


@pytest.fixture
def executor(cuda: FakeCuda) -> Iterator[Executor]:
    with Executor() as made:
        yield made


def filled(executor: Executor, value: int, size: int = 64) -> CudaTensor:
    """A tensor whose bytes are being set to `value`."""
    with executor.enqueuing() as compute:
        buffer = executor.pool.acquire(size, "a test's tensor", compute)
        fill(buffer, value, compute)
        return CudaTensor((size,), "uint8", buffer, compute.record(), executor.pool)


def test_memory_of_a_dropped_tensor_is_used_again_without_a_wait(executor: Executor, cuda: FakeCuda) -> None:
    for value in range(5):
        filled(executor, value)
    assert cuda.machine.used == 64
    assert cuda.calls["cudaEventSynchronize"] == cuda.calls["cudaStreamSynchronize"] == 0
    np.testing.assert_array_equal(filled(executor, 9).numpy(), [9] * 64)


def test_unused_memory_of_any_size_is_given_back_on_request(executor: Executor, cuda: FakeCuda) -> None:
    filled(executor, 1, size=64)
    kept = filled(executor, 1, size=65)
    assert executor.pool.trim()
    assert cuda.machine.used == 65
    kept.close()
    assert executor.pool.trim()
    assert cuda.machine.used == 0


def test_tensors_are_dropped_while_a_graph_is_captured(executor: Executor, cuda: FakeCuda) -> None:
    tensor = filled(executor, 1)
    executor.compute.begin_capture()
    tensor.close()  # a violation, if the free becomes a part of the graph
    executor.compute.end_capture().close()
    executor.pool.trim()
    assert cuda.machine.used == 0


def test_memory_is_not_used_again_before_another_stream_has_read_it(executor: Executor) -> None:
    tensor = filled(executor, 3)
    with runtime.pinned(64) as host:
        executor.copies.wait(tensor.ready)
        runtime.copy_to_host(host.array, tensor.buffer, executor.copies)
        done = executor.copies.record()
        tensor.read_until(done)
        tensor.close()
        other = filled(executor, 4)  # the same memory: a violation, unless the stream waits for the copy
        done.synchronize()
        np.testing.assert_array_equal(host.array, 3)
        np.testing.assert_array_equal(other.numpy(), 4)


def test_readers_on_several_threads_are_all_waited_for(
    executor: Executor, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor, events = filled(executor, 1), [executor.copies.record() for _ in range(3)]
    tensor.ready.synchronize()
    tensor.read_until(events[0])
    others = [threading.Thread(target=tensor.read_until, args=events[1:2])]

    def look_slowly(event: runtime.Event) -> bool:
        while others:
            other = others.pop()
            other.start()
            other.join(0.1)  # it comes in between, or waits for its turn
            started.append(other)
        return event is tensor.ready

    started: list[threading.Thread] = []
    with monkeypatch.context() as patch:
        patch.setattr(runtime.Event, "done", look_slowly)
        tensor.read_until(events[2])
        started[0].join()
    tensor.close()
    assert cuda.calls["cudaStreamWaitEvent"] == 3  # for each of the readers


@pytest.mark.parametrize("function", ["cudaStreamWaitEvent", "cudaFreeAsync"])
def test_memory_that_cannot_be_freed_in_stream_order_is_freed_after_a_wait_with_a_warning(
    executor: Executor, cuda: FakeCuda, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    tensor = filled(executor, 1)
    cuda.failures[function] = [700]
    tensor.close()
    (message,) = caplog.messages
    assert message.startswith(f"memory on the GPU is freed later than it could be: {function}: an illegal memory")
    executor.pool.trim()
    assert cuda.machine.used == 0


def test_failures_while_memory_is_freed_are_warnings(
    executor: Executor, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    filled(executor, 1)
    cuda.failures = {"cudaStreamSynchronize": [700], "cudaMemPoolTrimTo": [700]}
    assert executor.pool.trim()
    cuda.failures = {"cudaEventSynchronize": [700]}
    buffer = runtime.allocate(8)
    free([buffer], [executor.compute.record()])
    functions = ("cudaStreamSynchronize", "cudaMemPoolTrimTo", "cudaEventSynchronize")
    assert caplog.messages == [f"{name}: an illegal memory access was encountered, error 700" for name in functions]
    assert buffer.pointer == 0


def test_work_that_failed_is_a_warning_when_the_executor_synchronizes(
    executor: Executor, cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.failures["cudaStreamSynchronize"] = [700, 0]
    executor.synchronize()
    (message,) = caplog.messages
    assert message.startswith("work on the GPU failed: cudaStreamSynchronize: an illegal memory access")


def test_no_more_is_kept_than_the_limit(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", 100)
    with Executor() as executor:
        tensors = [filled(executor, value) for value in range(3)]
        tensors[-1].numpy()
        tensors.clear()
        assert cuda.machine.used == 192
        executor.pool._free_stream.synchronize()
        assert cuda.machine.used == 64


def test_without_memory_pools_dropping_a_tensor_waits_and_a_warning_says_so(
    cuda: FakeCuda, caplog: pytest.LogCaptureFixture
) -> None:
    cuda.has_pools = False
    with Executor() as executor:
        assert not executor.pool.trim()
        tensor = filled(executor, 5)
        np.testing.assert_array_equal(tensor.numpy(), [5] * 64)
        del tensor
        assert cuda.machine.used == 0
        filled(executor, 6)
        assert cuda.machine.used == 0
    (message,) = caplog.messages
    assert message.startswith("this GPU has no memory pools, so that computing waits whenever a tensor is dropped")


def test_a_pool_that_cuda_does_not_make_is_an_error_that_leaves_nothing(cuda: FakeCuda) -> None:
    cuda.failures["cudaMemPoolCreate"] = [2]
    with pytest.raises(BackendError, match="cudaMemPoolCreate: out of memory"):
        Executor()


def test_what_is_kept_makes_room_before_memory_runs_out(executor: Executor, cuda: FakeCuda) -> None:
    most = CAPACITY * 3 // 4
    filled(executor, 1, most)
    filled(executor, 2, most + 1)
    assert executor.reserve(most + 2, "a block").bytes == most + 2
    with pytest.raises(BackendError, match="a test's tensor: the GPU's memory ran out"):
        filled(executor, 3, most)


def test_a_tensor_that_is_dropped_after_the_end_is_freed_at_once(cuda: FakeCuda) -> None:
    with Executor() as executor:
        tensor, other = filled(executor, 1), filled(executor, 2)
        other.close()
    assert cuda.machine.used == 64
    tensor.close()
    assert cuda.machine.used == 0


def test_a_tensor_that_is_dropped_with_its_events_in_a_cycle_is_freed_after_its_last_use(
    executor: Executor, cuda: FakeCuda
) -> None:
    for value in range(20):  # Python finalizes the objects of a cycle in any order
        cycle: list[object] = [filled(executor, value)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        executor.pool.trim()
        assert cuda.machine.used == 0


def test_closing_twice_and_trimming_nothing_are_allowed(cuda: FakeCuda) -> None:
    pool = BufferPool()
    assert pool.trim()
    pool.close()
    assert not pool.trim()
    pool.close()


def test_a_block_that_fails_ends_with_the_streams_synchronized(executor: Executor, cuda: FakeCuda) -> None:
    with pytest.raises(KeyboardInterrupt), executor.enqueuing() as compute:  # noqa: PT012
        buffer = runtime.allocate(8)
        fill(buffer, 1, compute)
        raise KeyboardInterrupt
    buffer.close()  # a violation, if this is too early
    assert cuda.machine.used == 0


# On a GPU


@pytest.mark.gpu
def test_a_gpu_uses_memory_of_dropped_tensors_again_in_stream_order() -> None:
    with Executor() as executor:
        kept = filled(executor, 7, 1 << 20)
        for value in range(100):
            np.testing.assert_array_equal(filled(executor, value, 1 << 20).numpy(), value)
        np.testing.assert_array_equal(kept.numpy(), 7)
        assert executor.pool.trim() == runtime.MemoryPool.supported()
    np.testing.assert_array_equal(kept.numpy(), 7)  # it outlives the executor
    kept.close()


@pytest.mark.gpu
def test_a_gpu_frees_tensors_that_are_dropped_while_a_graph_is_captured() -> None:
    with Executor() as executor:
        tensor, other = filled(executor, 1), filled(executor, 2)
        executor.compute.begin_capture()
        fill(other.buffer, 3, executor.compute)
        tensor.close()
        with executor.compute.end_capture() as graph:
            graph.launch(executor.compute)
            executor.compute.synchronize()
        np.testing.assert_array_equal(other.numpy(), 3)
