"""The machine below `fake_cuda`: memory, streams that run when somebody waits, and who may touch what when.

Vector clocks say which work is ordered before which: every piece of work carries, for each stream, how much of it is
done for certain when it starts. Memory remembers who touched it last.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

Clock = dict[int, int]  # for each stream how much of it is known to be done
Span = tuple[int, int]  # address, bytes
POISON = 0xCD  # what memory holds before anything arrives
ILLEGAL_ADDRESS = 700


class ViolationError(AssertionError):
    """A rule of CUDA's was broken, which it would not have noticed."""


class KernelError(Exception):
    """Work that fails while it runs: whoever waits for it gets the error."""


@dataclass
class Work:
    """Something that enters a stream; `run` does it."""

    name: str
    reads: tuple[Span, ...]
    writes: tuple[Span, ...]
    run: Callable[[], None]


@dataclass
class Memory:
    """An allocation, and who touched it: the last writer's place in its stream, and the readers' since."""

    base: int
    data: np.ndarray
    where: str
    writer: tuple[int, int] = (0, 0)
    readers: Clock = field(default_factory=dict)
    pool: int = 0  # handle of its memory pool; 0: none


@dataclass
class Freed:
    """Memory that a stream freed, which its pool keeps: by the work at `place` of `stream`, which knows `clock`."""

    memory: Memory
    stream: int
    place: int
    clock: Clock


@dataclass
class Queue:
    """A stream.

    pending: what entered and did not run yet.  entered, done: how much did.  captured: what did while it captures.
    """

    pending: list[Callable[[], None]] = field(default_factory=list)
    clock: Clock = field(default_factory=dict)
    entered: int = 0
    done: int = 0
    captured: list[Work] | None = None
    valid: bool = True


def merge(clock: Clock, other: Clock) -> None:
    """Know what both know."""
    for stream, place in other.items():
        clock[stream] = max(place, clock.get(stream, 0))


class Machine:
    """Memory and streams.

    used: bytes of device memory that are allocated, or kept by a pool.  violations: all so far, also those that nobody
    was told of.  pools: for each memory pool, how many bytes it keeps when the host synchronizes.
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
        in_use = sum(len(memory.data) for memory in self.memory.values() if memory.where == "device")
        return in_use + sum(len(freed.memory.data) for freed in self.freed)

    def violate(self, what: str) -> NoReturn:
        self.violations.append(what)
        raise ViolationError(what)

    def allocate(self, size: int, where: str) -> int:
        """Device memory at addresses that nothing in this process has, or pinned memory, which is real."""
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
        """Memory of a pool, from a place in a stream on; memory of the same size that was freed serves again.

        The stream waits for the free then, as CUDA makes it (`cudaMemPoolReuseAllowInternalDependencies`).
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
        """Free memory of a pool at a place in a stream, before which all uses have to be known to end."""
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
        """Give back what a pool keeps beyond a number of bytes, as far as it was freed for certain."""
        held = sum(len(memory.data) for memory in self.memory.values() if memory.pool == pool)
        held += sum(len(one.memory.data) for one in self.freed if one.memory.pool == pool)
        for one in [one for one in self.freed if one.memory.pool == pool]:
            queue = self.streams.get(one.stream)
            if held > keep and (queue is None or queue.done >= one.place):
                self.freed.remove(one)
                held -= len(one.memory.data)

    def synchronized(self) -> None:
        """The host waited for something: pools give back what is beyond their thresholds."""
        for pool in {one.memory.pool for one in self.freed}:
            self.trim(pool, self.pools.get(pool, 0))

    def _queue_outside_capture(self, stream: int) -> Queue:
        queue = self.queue(stream)
        if queue.captured is not None:
            self.violate("memory is allocated or freed in a stream that captures, and would be the graph's")
        return queue

    def find(self, pointer: int, size: int, where: str | None = None) -> Memory:
        """The allocation that holds these bytes."""
        for memory in self.memory.values():
            if memory.base <= pointer and pointer + size <= memory.base + len(memory.data):
                if where not in (None, memory.where):
                    break
                return memory
        self.violate(f"{size} bytes at {pointer:#x} are not in {where or 'any'} memory that is allocated")

    def view(self, pointer: int, size: int) -> np.ndarray:
        """Bytes of allocated memory; what runs on the device reads and writes them when it runs."""
        for freed in self.freed:  # by work that entered before the free, and runs now
            if freed.memory.base <= pointer and pointer + size <= freed.memory.base + len(freed.memory.data):
                return freed.memory.data[pointer - freed.memory.base : pointer - freed.memory.base + size]
        memory = self.find(pointer, size)
        return memory.data[pointer - memory.base : pointer - memory.base + size]

    def queue(self, stream: int) -> Queue:
        if stream not in self.streams:
            self.violate(f"stream {stream} does not exist, or was destroyed")
        return self.streams[stream]

    def enter(self, stream: int, work: Work) -> None:
        """Let work enter a stream, or the graph that it captures."""
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
        """Run what entered up to there; an error code."""
        if stream not in self.streams:
            return 0  # all of it was done when it was destroyed
        queue = self.streams[stream]
        try:
            while queue.done < place:
                queue.done += 1
                queue.pending.pop(0)()
        except KernelError:
            return ILLEGAL_ADDRESS
        return 0

    def follow(self, stream: int, place: int) -> None:
        """What a stream does that waits for another."""
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
