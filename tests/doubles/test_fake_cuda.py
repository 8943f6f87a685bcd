"""The fake CUDA itself: that it is like the real one, and that it notices when a rule is broken."""

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


@pytest.mark.parametrize("kind", ["cudaMemcpyKind", "cudaStreamCaptureMode", "cudaError_t"])
def test_fakes_constants_are_those_of_cuda(kind: str) -> None:
    for constant in getattr(FakeCuda, kind):
        assert int(getattr(getattr(real, kind), constant.name)) == constant


def test_cuda_python_takes_the_arguments_that_it_is_given() -> None:
    # A process that sees no GPU: every call ends in an error code there, unless its arguments are amiss.
    code = """
from vexpress_rt import device
library = device._library()
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
    "cudaGraphDestroy": (3,), "cudaGraphExecDestroy": (3,),
}
for name, arguments in calls.items():
    try:
        device._call(name, *arguments)
    except device.BackendError as error:
        assert str(error).startswith(f"{name}: "), error
    else:
        raise SystemExit(f"{name} succeeded")
assert device.count() == 0
"""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    finished = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_results_are_not_there_before_somebody_waits(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer, runtime.pinned(8) as host:
        runtime.fill(buffer, 3, stream)
        runtime.copy_out(host.array, buffer, stream)
        assert host.array.tolist() == [POISON] * 8
        stream.synchronize()
        assert host.array.tolist() == [3] * 8


def test_freeing_memory_that_work_may_still_use_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    buffer = runtime.allocate(8)
    runtime.fill(buffer, 3, stream)
    pointer = buffer.pointer
    with pytest.raises(ViolationError, match="8 bytes of device memory were freed while work on them may run"):
        cuda.cudaFree(pointer)
    stream.synchronize()
    buffer.close()


def test_changing_host_memory_before_it_is_copied_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    with runtime.allocate(8) as buffer, runtime.pinned(8) as host:
        host.array[:] = 1
        runtime.copy_in(buffer, host.array, stream)
        host.array[:] = 2
        with pytest.raises(ViolationError, match="host memory changed before it was copied"):
            stream.synchronize()


def test_copying_from_memory_that_is_not_pinned_is_a_violation(cuda: FakeCuda, stream: runtime.Stream) -> None:
    array = np.zeros(64, np.uint8)
    with runtime.allocate(64) as buffer, pytest.raises(ViolationError, match="are not in pinned memory"):
        runtime.copy_in(buffer, array, stream)


@given(st.lists(st.tuples(st.integers(0, 1), st.booleans(), st.booleans()), min_size=2, max_size=6))
def test_two_streams_may_share_memory_only_in_order(steps: list[tuple[int, bool, bool]]) -> None:
    fake = FakeCuda()
    runtime._runtime, before = fake, runtime._runtime
    try:
        streams, buffer = [runtime.Stream(), runtime.Stream()], runtime.allocate(8)
        touched: list[tuple[int, bool]] = []  # what is in flight: by which stream, whether written
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
