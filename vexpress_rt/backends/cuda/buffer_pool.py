"""Device memory that is used again."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.closable import Closable

SPARE_BYTES = 128 << 20  # kept at most: what a step and a frame at 512 x 512 need, many times

_log = logging.getLogger("vexpress_rt")


class Spares(Closable):
    """Memory of tensors that were dropped, for tensors of the same size.

    CUDA waits for all work on the GPU when it takes memory back. Without spares every step would do so, and nothing
    would be computed meanwhile. Who drops a tensor does not wait here, nor who takes one: the stream does, where the
    one before is still in use.

    Any thread may use it, also while Python drops tensors in between.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # Python may drop a tensor in the thread that holds it
        self._kept: dict[int, deque[tuple[runtime.Buffer, Sequence[runtime.Event]]]] = {}
        self._bytes = 0
        self._open = True

    def take(self, size: int, purpose: str, stream: runtime.Stream) -> runtime.Buffer:
        """`size` bytes for work that enters `stream` from here on. Raises BackendError when there is no room."""
        with self._lock:
            kept = self._kept.get(size)
            if kept:
                buffer, events = kept[0]  # the oldest, whose uses are over most likely
                for event in events:
                    stream.wait(event)
                kept.popleft()  # only now, so that a failure does not lose it
                self._bytes -= size
                return buffer
        return self.allocate(size, purpose)

    def allocate(self, size: int, purpose: str) -> runtime.Buffer:
        """As `device.allocate`; where that finds no room, all that is kept here goes first."""
        try:
            return runtime.allocate(size, purpose)
        except BackendError:
            if not self.clear():
                raise
        return runtime.allocate(size, purpose)

    def put(self, buffer: runtime.Buffer, uses: Sequence[runtime.Event]) -> None:
        """Take memory whose uses are over when these events have passed."""
        with self._lock:
            if self._open and self._bytes + buffer.bytes <= SPARE_BYTES:
                self._kept.setdefault(buffer.bytes, deque()).append((buffer, uses))
                self._bytes += buffer.bytes
                return
        free([buffer], uses)

    def clear(self) -> bool:
        """Free all that is kept; whether there was any."""
        with self._lock:
            kept, self._kept, self._bytes = self._kept, {}, 0  # Python may drop a tensor from here on
        entries = [entry for same_size in kept.values() for entry in same_size]
        for buffer, uses in entries:
            free([buffer], uses)
        return bool(entries)

    def close(self) -> None:
        """Free all that is kept, and keep nothing any more. Closing twice is allowed."""
        self._open = False
        self.clear()


def free(memory: Iterable[Closable], uses: Sequence[runtime.Event]) -> None:
    """Free memory whose uses are over when these events have passed; waits for that.

    Complaints are of a broken GPU: whoever works on gets the same, and is the one to tell them.
    """
    for end in (*(event.synchronize for event in uses), *(one.close for one in memory)):
        try:
            end()
        except BackendError as error:
            _log.debug("%s", str(error))


def when_dropped(owner: object, function: Callable[..., None], *arguments: Any) -> weakref.finalize[..., Any]:
    """Have `function` called once: when the result is, or else when Python drops `owner`.

    Unlike in `__del__`, the arguments are whole then even if owner and arguments are dropped at once, in a cycle, in
    which Python finalizes objects in any order. At the end of the process the driver takes everything back.
    """
    finalizer = weakref.finalize(owner, function, *arguments)
    finalizer.atexit = False
    return finalizer
