"""Device memory that is used again: by whom, when, and how much of it is kept. On a fake that enforces CUDA's order."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from tests.doubles.fake_cuda import FakeCuda, installed
from tests.support.engines import CAPACITY
from vexpress_rt.backends.cuda import buffer_pool as module
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import Spares
from vexpress_rt.backends.cuda.executor import DeviceTensor, Executor
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


def filled(executor: Executor, value: int, size: int = 64) -> DeviceTensor:
    """A tensor whose bytes are being set to `value`."""
    with executor.entering() as compute:
        buffer = executor.spares.take(size, "a test's tensor", compute)
        runtime.fill(buffer, value, compute)
        return DeviceTensor((size,), "uint8", buffer, compute.record(), executor.spares)


def test_memory_of_a_dropped_tensor_is_used_again_without_a_wait(executor: Executor, cuda: FakeCuda) -> None:
    for value in range(5):
        filled(executor, value)
    assert cuda.calls["cudaMalloc"] == 1
    assert cuda.calls["cudaEventSynchronize"] == cuda.calls["cudaStreamSynchronize"] == 0
    np.testing.assert_array_equal(filled(executor, 9).host(), [9] * 64)


def test_memory_of_another_size_is_not(executor: Executor, cuda: FakeCuda) -> None:
    filled(executor, 1, size=64)
    filled(executor, 1, size=65)
    assert cuda.calls["cudaMalloc"] == 2


def test_memory_is_not_used_again_before_another_stream_has_read_it(executor: Executor) -> None:
    tensor = filled(executor, 3)
    with runtime.pinned(64) as host:
        executor.copies.wait(tensor.ready)
        runtime.copy_out(host.array, tensor.buffer, executor.copies)
        done = executor.copies.record()
        tensor.read_until(done)
        tensor.close()
        other = filled(executor, 4)  # the same memory: the fake complains unless this waits for the copy
        done.synchronize()
        np.testing.assert_array_equal(host.array, 3)
        np.testing.assert_array_equal(other.host(), 4)


def test_readers_on_several_threads_are_all_waited_for(
    executor: Executor, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensor, events = filled(executor, 1), [executor.copies.record() for _ in range(3)]
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
    filled(executor, 2)
    assert cuda.calls["cudaStreamWaitEvent"] == 3  # for each of the readers


def test_memory_that_could_not_be_taken_stays_for_whoever_takes_it_next(executor: Executor, cuda: FakeCuda) -> None:
    filled(executor, 1)
    cuda.failures["cudaStreamWaitEvent"] = [700]
    with pytest.raises(BackendError, match="cudaStreamWaitEvent: an illegal memory access"):
        filled(executor, 2)
    filled(executor, 3)
    assert cuda.calls["cudaMalloc"] == 1


def test_no_more_is_kept_than_the_limit(executor: Executor, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 100)
    tensors = [filled(executor, value) for value in range(3)]
    tensors.clear()
    assert cuda.machine.used == 64


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
    executor: Executor, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SPARE_BYTES", 0)
    for value in range(20):  # Python finalizes what is in a cycle in any order
        cycle: list[object] = [filled(executor, value)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        assert cuda.machine.used == 0


def test_closing_twice_and_clearing_nothing_are_allowed(cuda: FakeCuda) -> None:
    spares = Spares()
    assert not spares.clear()
    spares.close()
    spares.close()


def test_a_block_that_fails_ends_with_the_streams_settled(executor: Executor, cuda: FakeCuda) -> None:
    with pytest.raises(KeyboardInterrupt), executor.entering() as compute:  # noqa: PT012
        buffer = runtime.allocate(8)
        runtime.fill(buffer, 1, compute)
        raise KeyboardInterrupt
    buffer.close()  # the fake complains if that is too early
    assert cuda.machine.used == 0
