"""A CUDA runtime without a GPU, in place of `cuda.bindings.runtime`, that enforces CUDA's rules.

Enqueued work runs only when the host waits for it, so that results that are read too early are wrong. A ViolationError
is raised for memory that is used without order between streams, or freed before the work on it is known to be done; for
copies out of bounds or from memory that is not pinned; for host memory that changes before it is copied; and for
handles that are used after their end. Errors that CUDA itself reports are returned as error codes.
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Callable, Iterator
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.doubles.fake_machine import POISON, Clock, Machine, Queue, Span, Work, merge

OUT_OF_MEMORY, NO_DRIVER, NOT_READY, CAPTURING, SPOILT = 2, 35, 600, 900, 901
WORDS = {
    OUT_OF_MEMORY: "out of memory",
    NO_DRIVER: "CUDA driver version is insufficient for CUDA runtime version",
    NOT_READY: "device not ready",
    700: "an illegal memory access was encountered",
    CAPTURING: "operation not permitted when stream is capturing",
    SPOILT: "operation failed due to a previous error during capture",
}
KINDS = ("HostToHost", "HostToDevice", "DeviceToHost", "DeviceToDevice")
MODES = ("Global", "ThreadLocal", "Relaxed")


def installed(monkeypatch: pytest.MonkeyPatch, capacity: int) -> Iterator[FakeCuda]:
    """Yield a fake in place of CUDA, for a fixture; afterwards nothing may be left allocated."""
    from vexpress_rt.backends.cuda import runtime as device

    fake = FakeCuda(capacity)
    monkeypatch.setattr(device, "_runtime", fake)
    yield fake
    if fake.left():  # in cycles, perhaps
        gc.collect()
    assert fake.left() == []


class PoolProperties:
    """The argument of `cudaMemPoolCreate`, in place of CUDA's struct."""

    def __init__(self) -> None:
        self.allocType = 0
        self.location = SimpleNamespace(type=0, id=0)


class FakeCuda:
    """The functions of the CUDA runtime.

    Attributes:
        capacity: Bytes of the GPU's memory.
        gpus: The number of GPUs.
        has_pools: Whether the GPU has memory pools.
        copies: The number of copies that ran, by kind.
        calls: The number of calls, by function.
        failures: Error codes that the next calls of a function return, by function.
        machine: Memory and streams.
    """

    cudaError_t = IntEnum("cudaError_t", {"cudaSuccess": 0, "cudaErrorNotReady": NOT_READY})
    cudaMemcpyKind = IntEnum("cudaMemcpyKind", [(f"cudaMemcpy{kind}", i) for i, kind in enumerate(KINDS)])
    cudaStreamCaptureMode = IntEnum(
        "cudaStreamCaptureMode", [(f"cudaStreamCaptureMode{mode}", i) for i, mode in enumerate(MODES)]
    )
    cudaDeviceAttr = IntEnum("cudaDeviceAttr", {"cudaDevAttrMemoryPoolsSupported": 115})
    cudaMemAllocationType = IntEnum("cudaMemAllocationType", {"cudaMemAllocationTypePinned": 1})
    cudaMemLocationType = IntEnum("cudaMemLocationType", {"cudaMemLocationTypeDevice": 1})
    cudaMemPoolAttr = IntEnum("cudaMemPoolAttr", {"cudaMemPoolAttrReleaseThreshold": 4})
    cudaMemPoolProps = PoolProperties
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(self, capacity: int = 1 << 30, gpus: int = 1) -> None:
        self.capacity, self.gpus, self.has_pools = capacity, gpus, True
        self.copies: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, list[int]] = {}
        self.machine = Machine()
        self._events: dict[int, tuple[int, int, Clock] | None] = {}
        self._graphs: dict[int, tuple[str, list[Work]]] = {}
        self._launched: dict[int, tuple[int, int]] = {}  # of each graph, the place in a stream where it ends
        self._last_error = 0

    # For tests, and for fakes of what runs on CUDA

    def left(self) -> list[str]:
        """Return descriptions of everything that was not freed."""
        kept = [f"{len(memory.data)} bytes of {memory.where} memory" for memory in self.machine.memory.values()]
        kept += [f"{len(freed.memory.data)} bytes in a pool" for freed in self.machine.freed]
        kinds = {"stream": self.machine.streams, "event": self._events, "graph": self._graphs}
        for kind, handles in (*kinds.items(), ("memory pool", self.machine.pools)):
            kept += [kind] * len(handles)
        return kept

    def launch(self, stream: int, name: str, reads: list[Span], writes: list[Span], run: Callable[[], None]) -> None:
        """Enqueue a kernel on a stream."""
        for span in (*reads, *writes):
            self.machine.find(*span, "device")
        self.machine.enter(stream, Work(name, tuple(reads), tuple(writes), run))

    def capturing(self, stream: int) -> bool:
        """Return whether a stream captures its work in a graph."""
        return self.machine.queue(stream).captured is not None

    def spoil_capture(self, stream: int) -> None:
        """Enqueue work that cannot be captured."""
        self.machine.queue(stream).valid = False

    # Devices and memory

    def cudaGetDeviceCount(self) -> tuple[int, int | None]:
        with self._call("cudaGetDeviceCount") as error:
            return (error, None) if error else (0, self.gpus)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return 0, SimpleNamespace(name=b"Fake GPU\0\0\0", major=9, minor=0)

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return 0, WORDS[int(error)].encode()

    def cudaGetLastError(self) -> tuple[int]:
        error, self._last_error = self._last_error, 0
        return (error,)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.capacity - self.machine.used, self.capacity

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        with self._call("cudaMalloc") as error:
            if error or self.machine.used + size > self.capacity:
                self._last_error = OUT_OF_MEMORY
                return error or OUT_OF_MEMORY, None
            return 0, self.machine.allocate(size, "device")

    def cudaFree(self, pointer: int) -> tuple[int]:
        with self._call("cudaFree"):
            self.machine.free(pointer, "device")
            return (0,)

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        assert attribute == self.cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported
        return 0, int(self.has_pools)

    def cudaMemPoolCreate(self, properties: Any) -> tuple[int, int | None]:
        with self._call("cudaMemPoolCreate") as error:
            if error:
                return error, None
            assert properties.allocType == self.cudaMemAllocationType.cudaMemAllocationTypePinned
            assert properties.location.type == self.cudaMemLocationType.cudaMemLocationTypeDevice
            handle = next(self.machine.handles)
            self.machine.pools[handle] = 0
            return 0, handle

    def cudaMemPoolSetAttribute(self, pool: int, attribute: int, value: Any) -> tuple[int]:
        assert attribute == self.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        self._check_pool(pool)
        self.machine.pools[pool] = int(value)
        return (0,)

    def cudaMemPoolTrimTo(self, pool: int, keep: int) -> tuple[int]:
        with self._call("cudaMemPoolTrimTo") as error:
            self._check_pool(pool)
            self.machine.trim(pool, keep)
            return (error,)

    def cudaMemPoolDestroy(self, pool: int) -> tuple[int]:
        with self._call("cudaMemPoolDestroy"):
            self._check_pool(pool)
            del self.machine.pools[pool]
            self.machine.trim(pool, 0)
            return (0,)

    def cudaMallocFromPoolAsync(self, size: int, pool: int, stream: int) -> tuple[int, int | None]:
        with self._call("cudaMallocFromPoolAsync") as error:
            self._check_pool(pool)
            kept = any(one.memory.pool == pool and len(one.memory.data) == size for one in self.machine.freed)
            if error or (not kept and self.machine.used + size > self.capacity):
                self._last_error = OUT_OF_MEMORY
                return error or OUT_OF_MEMORY, None
            return 0, self.machine.allocate_on(stream, size, pool)

    def cudaFreeAsync(self, pointer: int, stream: int) -> tuple[int]:
        with self._call("cudaFreeAsync") as error:
            if not error:
                self.machine.free_on(stream, pointer)
            return (error,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int | None]:
        with self._call("cudaHostAlloc") as error:
            return (error, None) if error else (0, self.machine.allocate(size, "pinned"))

    def cudaFreeHost(self, pointer: int) -> tuple[int]:
        with self._call("cudaFreeHost"):
            self.machine.free(pointer, "pinned")
            return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        with self._call("cudaMemcpyAsync"):
            name, machine = KINDS[kind], self.machine
            sides = {"Host": "pinned", "Device": "device"}
            machine.find(source, size, sides[name.partition("To")[0]])
            machine.find(target, size, sides[name.partition("To")[2]])
            before = machine.view(source, size).copy()
            if name == "DeviceToHost":
                machine.view(target, size)[:] = POISON

            def run() -> None:
                if name == "HostToDevice" and not np.array_equal(before, machine.view(source, size)):
                    machine.violate("host memory changed before it was copied")
                self.copies[name] += 1
                machine.view(target, size)[:] = machine.view(source, size)

            machine.enter(stream, Work(name, ((source, size),), ((target, size),), run))
            return (0,)

    def cudaMemsetAsync(self, pointer: int, value: int, size: int, stream: int) -> tuple[int]:
        self.launch(stream, "fill", [], [(pointer, size)], lambda: self.machine.view(pointer, size).fill(value))
        return (0,)

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaStreamNonBlocking
        handle = next(self.machine.handles)
        self.machine.streams[handle] = Queue()
        return 0, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        with self._call("cudaStreamDestroy"):
            if self.machine.queue(stream).entered > self.machine.host.get(stream, 0):
                self.machine.violate(f"stream {stream} was destroyed before its work was known to be done")
            del self.machine.streams[stream]
            return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        with self._call("cudaStreamSynchronize") as error:
            queue = self.machine.queue(stream)
            if self._forbidden(queue):
                return (CAPTURING,)
            merge(self.machine.host, queue.clock)
            failed = self.machine.run_until(stream, queue.entered)
            self.machine.synchronized()
            return (failed or error,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[int]:
        with self._call("cudaStreamWaitEvent") as error:
            queue, recorded = self.machine.queue(stream), self._recorded(event)
            if error or self._forbidden(queue):
                return (error or CAPTURING,)
            if recorded is not None:
                source, place, clock = recorded
                merge(queue.clock, clock)
                self.machine.append(stream, lambda: self.machine.follow(source, place))
            return (0,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        assert flags == self.cudaEventDisableTiming
        handle = next(self.machine.handles)
        self._events[handle] = None
        return 0, handle

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        self._recorded(event)
        del self._events[event]
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        with self._call("cudaEventRecord"):
            queue = self.machine.queue(stream)
            self._recorded(event)
            if self._forbidden(queue):
                return (CAPTURING,)
            self._events[event] = (stream, queue.entered, dict(queue.clock))
            return (0,)

    def cudaEventQuery(self, event: int) -> tuple[int]:
        with self._call("cudaEventQuery"):
            stream, place, _ = self._recorded(event) or (0, 0, {})
            queue = self.machine.streams.get(stream)
            waits = queue is not None and queue.done < place
            return (self.cudaError_t.cudaErrorNotReady if waits else self.cudaError_t.cudaSuccess,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        with self._call("cudaEventSynchronize") as error:
            stream, place, clock = self._recorded(event) or (0, 0, {})
            merge(self.machine.host, clock)
            failed = self.machine.run_until(stream, place)
            self.machine.synchronized()
            return (failed or error,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        with self._call("cudaStreamBeginCapture") as error:
            if error:
                return (error,)
            assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
            queue = self.machine.queue(stream)
            assert queue.captured is None
            queue.captured, queue.valid = [], True
            return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        with self._call("cudaStreamEndCapture") as error:
            queue = self.machine.queue(stream)
            assert queue.captured is not None
            captured, queue.captured = queue.captured, None
            if error or not queue.valid:
                return error or SPOILT, None
            return 0, self._graph("captured", captured)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int | None]:
        with self._call("cudaGraphInstantiate") as error:
            return (error, None) if error else (0, self._graph("executable", self._works(graph, "captured")))

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[int]:
        with self._call("cudaGraphLaunch"):
            for work in self._works(graph, "executable"):
                self.machine.enter(stream, work)
            self._launched[graph] = (stream, self.machine.queue(stream).entered)
            return (0,)

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        self._works(graph, "captured")
        del self._graphs[graph]
        return (0,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[int]:
        self._works(graph, "executable")
        stream, place = self._launched.pop(graph, (0, 0))
        if place > self.machine.host.get(stream, 0):
            self.machine.violate("a graph was destroyed while it may run")
        del self._graphs[graph]
        return (0,)

    @contextlib.contextmanager
    def _call(self, name: str) -> Iterator[int]:
        """Hold the lock for a call of a function; yields the error that it has to return, or 0."""
        with self.machine.lock:
            self.calls[name] += 1
            planned = self.failures.get(name)
            yield planned.pop(0) if planned else 0

    def _check_pool(self, pool: int) -> None:
        if pool not in self.machine.pools:
            self.machine.violate(f"memory pool {pool} does not exist, or was destroyed")

    def _forbidden(self, queue: Queue) -> bool:
        """Return whether a stream captures, which this call then invalidates."""
        queue.valid = queue.valid and queue.captured is None
        return queue.captured is not None

    def _recorded(self, event: int) -> tuple[int, int, Clock] | None:
        if event not in self._events:
            self.machine.violate(f"event {event} does not exist, or was destroyed")
        return self._events[event]

    def _graph(self, kind: str, works: list[Work]) -> int:
        handle = next(self.machine.handles)
        self._graphs[handle] = (kind, works)
        return handle

    def _works(self, graph: int, kind: str) -> list[Work]:
        if self._graphs.get(graph, ("", []))[0] != kind:
            self.machine.violate(f"{graph} is no {kind} graph, or was destroyed")
        return self._graphs[graph][1]
