"""The machine below `fake_cuda`: memory, streams that run when the host waits, and checks of the order of accesses.

Vector clocks hold the order of work: every piece of work knows, for each stream, how much of it is certainly done when
it starts. Memory keeps its last writer and the readers since.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

Clock = dict[int, int]  # for each stream, how much of it is known to be done
Span = tuple[int, int]  # address, bytes
POISON = 0xCD  # the content of new memory
ILLEGAL_ADDRESS = 700


class ViolationError(AssertionError):
    """A broken rule of CUDA that CUDA itself would not report."""


class KernelError(Exception):
    """A failure of work while it runs; the next wait for the work returns an error code."""


@dataclass
class Work:
    """Work on a stream; `run` does it."""

    name: str
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    run: Callable[[], None]


@dataclass
class Memory:
    """An allocation, with the places in their streams of its last writer and of the readers since."""

    base: int
    data: np.ndarray
    where: str
    writer: tuple[int, int] = (0, 0)
    readers: Clock = field(default_factory=dict)
    pool: int = 0  # handle of its memory pool; 0: none


@dataclass
class Freed:
    """Memory that its pool keeps: freed by the work at `place` in `stream`, with the clock `clock`."""

    memory: Memory
    stream: int
    place: int
    clock: Clock


@dataclass
class Queue:
    """A stream.

    Attributes:
        pending: Work that was enqueued and has not run.
        clock: The work of all streams that is done before further work of this one.
        entered: The number of works enqueued so far.
        done: The number of works that ran.
        captured: The work captured so far; None outside a capture.
        valid: Whether the capture can still succeed.
    """

    pending: list[Callable[[], None]] = field(default_factory=list)
    clock: Clock = field(default_factory=dict)
    entered: int = 0
    done: int = 0
    captured: list[Work] | None = None
    valid: bool = True


def merge(clock: Clock, other: Clock) -> None:
    """Add the knowledge of another clock to a clock."""
    for stream, place in other.items():
        clock[stream] = max(place, clock.get(stream, 0))


class Machine:
    """Memory and streams.

    Attributes:
        violations: All violations so far, including those whose exception was swallowed.
        host: The work that the host knows to be done.
        memory: Allocations by address.
        pools: For each memory pool, how many bytes it keeps when the host synchronizes.
        freed: Memory that pools keep.
        streams: Streams by handle.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.lock = threading.RLock()
        self.host: Clock = {}
        self.memory: dict[int, Memory] = {}
        self.pools: dict[int, int] = {}
        self.freed: list[Freed] = []
        self.streams: dict[int, Queue] = {}
        self.handles = itertools.count(1)
        self._next_address = 0x7000_0000_0000

    @property
    def used(self) -> int:
        """Bytes of device memory that are allocated, or kept by a pool."""
        in_use = sum(len(memory.data) for memory in self.memory.values() if memory.where == "device")
        return in_use + sum(len(freed.memory.data) for freed in self.freed)

    def violate(self, what: str) -> NoReturn:
        self.violations.append(what)
        raise ViolationError(what)

    def allocate(self, size: int, where: str) -> int:
        """Allocate device memory, at addresses that this process does not use, or pinned memory, at real ones."""
        data = np.full(size, POISON, np.uint8)
        base = data.ctypes.data
        if where == "device":
            base, self._next_address = self._next_address, self._next_address + (size // 256 + 2) * 256
        self.memory[base] = Memory(base, data, where)
        return base

    def free(self, pointer: int, where: str) -> None:
        memory = self.memory.get(pointer)
        if memory is None or memory.where != where:
            self.violate(f"{pointer:#x} is no {where} memory, or was freed before")
        for stream, place in (memory.writer, *memory.readers.items()):
            if place > self.host.get(stream, 0):
                self.violate(f"{len(memory.data)} bytes of {where} memory were freed while work on them may run")
        del self.memory[pointer]

    def allocate_on(self, stream: int, size: int, pool: int) -> int:
        """Allocate memory of a pool for later work of a stream; freed memory of the same size is used again.

        The stream waits for the free then (`cudaMemPoolReuseAllowInternalDependencies`).
        """
        queue = self._queue_outside_capture(stream)
        merge(queue.clock, self.host)
        reused = next((one for one in self.freed if one.memory.pool == pool and len(one.memory.data) == size), None)
        if reused is None:
            base = self.allocate(size, "device")
            self.append(stream, lambda: None)
            self.memory[base].pool = pool
        else:
            self.freed.remove(reused)
            merge(queue.clock, reused.clock)
            before = reused.stream, reused.place
            self.append(stream, lambda: self.follow(*before))
            base = reused.memory.base
            self.memory[base] = Memory(base, reused.memory.data, "device", pool=pool)
        self.memory[base].writer = (stream, queue.entered)
        return base

    def free_on(self, stream: int, pointer: int) -> None:
        """Free memory of a pool after the work of a stream so far, which all uses have to precede."""
        queue, memory = self._queue_outside_capture(stream), self.memory.get(pointer)
        if memory is None or not memory.pool:
            self.violate(f"{pointer:#x} is no memory of a pool, or was freed before")
        merge(queue.clock, self.host)
        for place in (memory.writer, *memory.readers.items()):
            self._check(place, queue, f"{len(memory.data)} bytes are freed in a stream while another may use them")
        self.append(stream, lambda: memory.data.fill(POISON))
        del self.memory[pointer]
        self.freed.append(Freed(memory, stream, queue.entered, dict(queue.clock)))

    def trim(self, pool: int, keep: int) -> None:
        """Return memory that a pool keeps beyond a number of bytes, if its free is done."""
        held = sum(len(memory.data) for memory in self.memory.values() if memory.pool == pool)
        held += sum(len(one.memory.data) for one in self.freed if one.memory.pool == pool)
        for one in [one for one in self.freed if one.memory.pool == pool]:
            queue = self.streams.get(one.stream)
            if held > keep and (queue is None or queue.done >= one.place):
                self.freed.remove(one)
                held -= len(one.memory.data)

    def synchronized(self) -> None:
        """Apply the thresholds of all pools, after a wait of the host."""
        for pool in {one.memory.pool for one in self.freed}:
            self.trim(pool, self.pools.get(pool, 0))

    def _queue_outside_capture(self, stream: int) -> Queue:
        queue = self.queue(stream)
        if queue.captured is not None:
            self.violate("memory is allocated or freed in a stream that captures, and would be the graph's")
        return queue

    def find(self, pointer: int, size: int, where: str | None = None) -> Memory:
        """Return the allocation that contains these bytes."""
        for memory in self.memory.values():
            if memory.base <= pointer and pointer + size <= memory.base + len(memory.data):
                if where not in (None, memory.where):
                    break
                return memory
        self.violate(f"{size} bytes at {pointer:#x} are not in {where or 'any'} memory that is allocated")

    def view(self, pointer: int, size: int) -> np.ndarray:
        """Return bytes of memory, for work that reads or writes them when it runs."""
        for freed in self.freed:  # for work that was enqueued before the free, and runs now
            if freed.memory.base <= pointer and pointer + size <= freed.memory.base + len(freed.memory.data):
                return freed.memory.data[pointer - freed.memory.base : pointer - freed.memory.base + size]
        memory = self.find(pointer, size)
        return memory.data[pointer - memory.base : pointer - memory.base + size]

    def queue(self, stream: int) -> Queue:
        if stream not in self.streams:
            self.violate(f"stream {stream} does not exist, or was destroyed")
        return self.streams[stream]

    def enter(self, stream: int, work: Work) -> None:
        """Enqueue work on a stream, or add it to the graph that the stream captures."""
        with self.lock:
            queue = self.queue(stream)
            if queue.captured is not None:
                queue.captured.append(work)
                return
            reads, writes = ([self.find(*span) for span in spans] for spans in (work.reads, work.writes))
            merge(queue.clock, self.host)
            self.append(stream, work.run)
            for memory in reads:
                self._read(memory, stream, queue, work.name)
            for memory in writes:
                self._write(memory, stream, queue, work.name)

    def append(self, stream: int, run: Callable[[], None]) -> None:
        queue = self.queue(stream)
        queue.pending.append(run)
        queue.entered += 1
        queue.clock[stream] = queue.entered

    def run_until(self, stream: int, place: int) -> int:
        """Run the work of a stream up to a place; return an error code."""
        if stream not in self.streams:
            return 0  # all its work was done when it was destroyed
        queue = self.streams[stream]
        try:
            while queue.done < place:
                queue.done += 1
                queue.pending.pop(0)()
        except KernelError:
            return ILLEGAL_ADDRESS
        return 0

    def follow(self, stream: int, place: int) -> None:
        """Wait for another stream, as work of a stream."""
        if self.run_until(stream, place):
            raise KernelError

    def _read(self, memory: Memory, stream: int, queue: Queue, name: str) -> None:
        self._check(memory.writer, queue, f"{name} reads what another stream may still write")
        memory.readers[stream] = queue.entered

    def _write(self, memory: Memory, stream: int, queue: Queue, name: str) -> None:
        for place in (memory.writer, *memory.readers.items()):
            self._check(place, queue, f"{name} writes what another stream may still use")
        memory.writer = (stream, queue.entered)
        memory.readers = {}

    def _check(self, place: tuple[int, int], queue: Queue, what: str) -> None:
        if place[1] > queue.clock.get(place[0], 0):
            self.violate(what)
