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

    used: bytes of device memory that are allocated.  violations: all so far, also those that nobody was told of.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.lock = threading.RLock()
        self.host: Clock = {}
        self.memory: dict[int, Memory] = {}
        self.streams: dict[int, Queue] = {}
        self.handles = itertools.count(1)
        self._next_address = 0x7000_0000_0000

    @property
    def used(self) -> int:
        return sum(len(memory.data) for memory in self.memory.values() if memory.where == "device")

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
