"""The fake CUDA itself: its interface equals the real one, and it notices broken rules."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from cuda.bindings import runtime as real
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.fake_cuda import FakeCuda, installed
from tests.doubles.fake_machine import POISON, ViolationError
from tests.support.device_memory import fill
from vexpress_rt.backends.cuda import runtime


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from installed(monkeypatch, 1 << 20)


@pytest.fixture
def stream(cuda: FakeCuda) -> Iterator[runtime.Stream]:
    with runtime.Stream() as made:
        yield made
        made.synchronize()


def test_fake_has_no_function_that_cuda_lacks_and_the_same_number_of_arguments() -> None:
    functions = {name: value for name, value in vars(FakeCuda).items() if re.match("cuda[A-Z]", name)}
    for name, function in functions.items():
        assert hasattr(real, name)
        if inspect.isfunction(function):
            arguments = re.search(r"\((.*?)\)", getattr(real, name).__doc__.partition("\n")[0])[1]
            count = len(arguments.split(",")) if arguments else 0
            assert len(inspect.signature(function).parameters) - 1 == count, name


@pytest.mark.parametrize(
    "kind",
    [
        "cudaMemcpyKind",
        "cudaStreamCaptureMode",
        "cudaError_t",
        "cudaDeviceAttr",
        "cudaMemAllocationType",
        "cudaMemLocationType",
        "cudaMemPoolAttr",
    ],
)
def test_fakes_constants_are_those_of_cuda(kind: str) -> None:
    for constant in getattr(FakeCuda, kind):
        assert int(getattr(getattr(real, kind), constant.name)) == constant


def test_cuda_python_takes_the_arguments_that_it_is_given() -> None:
    # In a process without a GPU, every call returns an error code, unless its arguments are wrong.
    code = """
from vexpress_rt.backends.cuda import runtime
library = runtime._library()
modes, kinds = library.cudaStreamCaptureMode, library.cudaMemcpyKind
calls = {
    "cudaGetDeviceProperties": (0,), "cudaMemGetInfo": (), "cudaMalloc": (8,), "cudaFree": (4096,),
    "cudaHostAlloc": (8, library.cudaHostAllocDefault), "cudaFreeHost": (4096,),
    "cudaMemcpyAsync": (4096, 8192, 8, kinds.cudaMemcpyHostToDevice, 1), "cudaMemsetAsync": (4096, 1, 8, 1),
    "cudaStreamCreateWithFlags": (library.cudaStreamNonBlocking,), "cudaStreamDestroy": (1,),
    "cudaStreamSynchronize": (1,), "cudaStreamWaitEvent": (1, 2, 0), "cudaEventDestroy": (2,),
    "cudaEventCreateWithFlags": (library.cudaEventDisableTiming,), "cudaEventRecord": (2, 1),
    "cudaEventSynchronize": (2,), "cudaStreamBeginCapture": (1, modes.cudaStreamCaptureModeRelaxed),
    "cudaStreamEndCapture": (1,), "cudaGraphInstantiate": (3, 0), "cudaGraphLaunch": (3, 1),
    "cudaGraphDestroy": (3,), "cudaGraphExecDestroy": (3,), "cudaMemPoolTrimTo": (4, 0), "cudaMemPoolDestroy": (4,),
    "cudaMallocFromPoolAsync": (8, 4, 1), "cudaFreeAsync": (4096, 1),
    "cudaDeviceGetAttribute": (library.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported, 0),
}
for name, arguments in calls.items():
    try:
        runtime._call(name, *arguments)
    except runtime.BackendError as error:
        assert str(error).startswith(f"{name}: "), error
    else:
        raise SystemExit(f"{name} succeeded")
assert runtime.count() == 0
try:
    runtime.MemoryPool(1 << 20)
except runtime.BackendError as error:
    assert str(error).startswith("cudaMemPoolCreate: "), error
else:
    raise SystemExit("cudaMemPoolCreate succeeded")
create = library.cudaMemPoolCreate
library.cudaMemPoolCreate = lambda properties: (library.cudaError_t.cudaSuccess, library.cudaMemPool_t(4))
library.cudaMemPoolDestroy = lambda pool: (library.cudaError_t.cudaSuccess,)
try:
    runtime.MemoryPool(1 << 20)
except runtime.BackendError as error:
    assert str(error).startswith("cudaMemPoolSetAttribute: "), error
else:
    raise SystemExit("cudaMemPoolSetAttribute succeeded")
"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_fakes_pool_properties_are_those_of_cuda() -> None:
    for made in (FakeCuda.cudaMemPoolProps(), real.cudaMemPoolProps()):
        assert int(made.allocType) == int(made.location.type) == made.location.id == 0
        made.allocType = real.cudaMemAllocationType.cudaMemAllocationTypePinned
        made.location.type = real.cudaMemLocationType.cudaMemLocationTypeDevice
        assert (int(made.allocType), int(made.location.type)) == (1, 1)


@pytest.fixture
def pool(cuda: FakeCuda) -> Iterator[runtime.MemoryPool]:
    with runtime.MemoryPool(0) as made:
        yield made


def test_memory_of_a_pool_is_used_in_stream_order_alone(
    cuda: FakeCuda, stream: runtime.Stream, pool: runtime.MemoryPool
) -> None:
    buffer = pool.allocate(8, stream)
    with runtime.Stream() as other:
        with pytest.raises(ViolationError, match="writes what another stream may still use"):
            fill(buffer, 1, other)
        other.wait(stream.record())
        fill(buffer, 1, other)
        with pytest.raises(ViolationError, match="freed in a stream while another may use them"):
            buffer.free_on(stream)
        cuda.cudaStreamSynchronize(other.handle)
    pointer = buffer.pointer
    buffer.free_on(stream)
    with pytest.raises(ViolationError, match="are not in device memory"):
        cuda.launch(stream.handle, "work", [], [(pointer, 8)], lambda: None)


def test_freed_memory_of_a_pool_serves_again_after_the_work_before(
    cuda: FakeCuda, stream: runtime.Stream, pool: runtime.MemoryPool
) -> None:
    with runtime.Stream() as other, runtime.pinned(8) as host:
        first = pool.allocate(8, stream)
        fill(first, 1, stream)
        runtime.copy_to_host(host.array, first, stream)
        first.free_on(stream)
        second = pool.allocate(8, other)
        fill(second, 2, other)
        assert cuda.machine.used == 8
        other.synchronize()  # waits for `stream` too
        assert host.array.tolist() == [1] * 8
        second.free_on(other)
        other.synchronize()
    assert cuda.machine.used == 0  # the pool keeps nothing when the host synchronizes


def test_a_pool_keeps_what_its_threshold_allows_until_it_is_trimmed(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.MemoryPool(100) as pool:
        for buffer in [pool.allocate(64, stream) for _ in range(3)]:
            buffer.free_on(stream)
        assert cuda.machine.used == 192
        stream.synchronize()
        assert cuda.machine.used == 64
        pool.trim()
        assert cuda.machine.used == 0


def test_memory_of_a_pool_in_a_capture_is_a_violation(
    cuda: FakeCuda, stream: runtime.Stream, pool: runtime.MemoryPool
) -> None:
    buffer = pool.allocate(8, stream)
    stream.begin_capture()
    with pytest.raises(ViolationError, match="would be the graph's"):
        pool.allocate(8, stream)
    with pytest.raises(ViolationError, match="would be the graph's"):
        cuda.cudaFreeAsync(buffer.pointer, stream.handle)
    stream.end_capture().close()
    buffer.free_on(stream)


def test_freeing_other_memory_in_stream_order_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer, pytest.raises(ViolationError, match="no memory of a pool"):
        cuda.cudaFreeAsync(buffer.pointer, stream.handle)


def test_a_pool_that_is_closed_first_leaves_its_memory_to_whoever_has_it(
    cuda: FakeCuda, stream: runtime.Stream
) -> None:
    pool = runtime.MemoryPool(1 << 20)
    with pool.allocate(8, stream) as buffer:
        pool.close()
        fill(buffer, 3, stream)
        stream.synchronize()
    assert cuda.machine.used == 0


def test_results_are_not_there_before_somebody_waits(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer, runtime.pinned(8) as host:
        fill(buffer, 3, stream)
        runtime.copy_to_host(host.array, buffer, stream)
        assert host.array.tolist() == [POISON] * 8
        stream.synchronize()
        assert host.array.tolist() == [3] * 8


def test_freeing_memory_that_work_may_still_use_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    buffer = runtime.allocate(8)
    fill(buffer, 3, stream)
    pointer = buffer.pointer
    with pytest.raises(ViolationError, match="8 bytes of device memory were freed while work on them may run"):
        cuda.cudaFree(pointer)
    stream.synchronize()
    buffer.close()


def test_changing_host_memory_before_it_is_copied_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer, runtime.pinned(8) as host:
        host.array[:] = 1
        runtime.copy_from_host(buffer, host.array, stream)
        host.array[:] = 2
        with pytest.raises(ViolationError, match="host memory changed before it was copied"):
            stream.synchronize()


def test_copying_from_memory_that_is_not_pinned_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    array = np.zeros(64, np.uint8)
    with runtime.allocate(64) as buffer, pytest.raises(ViolationError, match="are not in pinned memory"):
        runtime.copy_from_host(buffer, array, stream)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), min_size=2, max_size=6))
def test_two_streams_may_share_memory_only_in_order(steps: list[tuple[int, bool, bool]]) -> None:
    fake = FakeCuda()
    runtime._runtime, before = fake, runtime._runtime
    try:
        streams, buffer = [runtime.Stream(), runtime.Stream()], runtime.allocate(8)
        touched: list[tuple[int, bool]] = []  # work in flight: index of its stream, whether it writes
        for index, writes, waits in steps:
            if waits:
                streams[1 - index].synchronize()
                touched = [(other, wrote) for other, wrote in touched if other == index]
            span = [(buffer.pointer, 8)]
            race = any(other != index and (wrote or writes) for other, wrote in touched)
            try:
                fake.launch(streams[index].handle, "work", [] if writes else span, span if writes else [], lambda: None)
                assert not race
            except ViolationError:
                assert race
                break
            touched.append((index, writes))
        for stream in streams:
            stream.synchronize()
            stream.close()
        buffer.close()
    finally:
        runtime._runtime = before
