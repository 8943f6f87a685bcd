"""Device memory for tensors: allocated and freed in stream order, from one memory pool for each executor."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vexpress_rt.backends.cuda import runtime
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.closable import Closable

KEPT_BYTES = 256 << 20  # of the pool's memory, in use or not; a step and a frame at 512 x 512 need less

_log = logging.getLogger("vexpress_rt")


class BufferPool(Closable):
    """A memory pool whose buffers are acquired and released by any thread, also while Python drops tensors.

    Neither acquiring nor releasing a buffer blocks the host; streams wait for pending uses. `cudaFree` would wait for
    all work on the GPU, once a step.

    Buffers are freed on a stream of the pool's own. A tensor may be dropped while `compute` captures a graph, which
    would make the free a part of that graph; and uses on several streams have to be waited for.

    GPUs without memory pools get plain allocations: releasing a buffer waits for its uses then, and a warning says so.

    Raises:
        BackendError: CUDA makes no pool or stream.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # of `release` and `close`; Python may drop a tensor in the thread that holds it
        self._pool: runtime.MemoryPool | None = None
        self._free_stream = runtime.Stream()
        self._open = True
        if runtime.MemoryPool.supported():
            self._pool = runtime.MemoryPool(KEPT_BYTES)
        else:
            _log.warning(
                "this GPU has no memory pools, so that computing waits whenever a tensor is dropped: update the driver"
            )

    def acquire(self, size: int, purpose: str, stream: runtime.Stream) -> runtime.Buffer:
        """Return memory for work that is enqueued on a stream from here on.

        Args:
            size: Bytes, 0 or more.
            purpose: What the memory is for, for the message of an error.
            stream: The stream.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        pool = self._pool
        if pool is None:
            return runtime.allocate(size, purpose)
        return self._with_retry(lambda: pool.allocate(size, stream, purpose))

    def allocate(self, size: int, purpose: str) -> runtime.Buffer:
        """Return memory that serves for long, outside of the pool.

        Args:
            size: Bytes, 0 or more.
            purpose: What the memory is for, for the message of an error.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        return self._with_retry(lambda: runtime.allocate(size, purpose))

    def release(self, buffer: runtime.Buffer, uses: Sequence[runtime.Event]) -> None:
        """Free a buffer after its uses.

        Args:
            buffer: The buffer.
            uses: Events after which nothing uses it.
        """
        with self._lock:
            if self._pool is not None and buffer.pooled:
                try:
                    for event in uses:
                        self._free_stream.wait(event)
                    buffer.free_on(self._free_stream)
                    return
                except BackendError as error:
                    _log.warning("memory on the GPU is freed later than it could be: %s", str(error))
        free([buffer], uses)

    def trim(self) -> bool:
        """Return unused memory to the GPU, after a wait for pending releases.

        Returns:
            Whether there is a pool that could hold any.
        """
        if self._pool is None:
            return False
        _warn_of_failure(self._free_stream.synchronize)
        _warn_of_failure(self._pool.trim)
        return True

    def close(self) -> None:
        """Free unused memory; buffers in use are freed one by one when they are released. Closing twice is allowed."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            pool, self._pool = self._pool, None  # from here on, `release` waits
            _warn_of_failure(self._free_stream.synchronize)
            for owned in (pool, self._free_stream):
                if owned is not None:
                    _warn_of_failure(owned.close)

    def _with_retry(self, allocate: Callable[[], runtime.Buffer]) -> runtime.Buffer:
        """Allocate; if there is no room, once more without the pool's unused memory."""
        try:
            return allocate()
        except BackendError:
            if not self.trim():
                raise
        return allocate()


def free(memory: Iterable[Closable], uses: Sequence[runtime.Event]) -> None:
    """Free memory after a wait for its uses. Errors are logged: they come from a GPU that fails elsewhere as well.

    Args:
        memory: The memory.
        uses: Events after which nothing uses it.
    """
    for step in (*(event.synchronize for event in uses), *(one.close for one in memory)):
        _warn_of_failure(step)


def when_dropped(owner: object, function: Callable[..., None], *arguments: Any) -> weakref.finalize[..., Any]:
    """Call a function once: when the result is called, or else when Python drops `owner`.

    Unlike in `__del__`, the arguments are intact then, even if they are dropped at once with `owner` in a cycle, which
    Python finalizes in any order. At exit nothing is called: the driver frees all memory.

    Args:
        owner: The object to watch.
        function: The function.
        arguments: Its arguments; none may refer to `owner`.
    """
    finalizer = weakref.finalize(owner, function, *arguments)
    finalizer.atexit = False
    return finalizer


def _warn_of_failure(step: Callable[[], object]) -> None:
    """Call a step of cleaning up; log its BackendError, so that later steps follow."""
    try:
        step()
    except BackendError as error:
        _log.warning("%s", str(error))  # the exception itself would keep its frames' objects in the log record
