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

KEPT_BYTES = 256 << 20  # bytes, used or free, that the pool keeps; a step and a frame at 512 x 512 need less

_log = logging.getLogger("vexpress_rt")


class BufferPool(Closable):
    """A memory pool. Any thread may acquire and release buffers, also while Python frees a tensor.

    Neither acquiring nor releasing a buffer blocks the host; streams wait for pending uses. `cudaFree` would wait for
    all work on the GPU, in every step.

    Buffers are freed on a separate stream, for two reasons. A tensor may be freed while `compute` captures a graph, and
    the call would become part of that graph. A buffer may also have pending uses on several streams.

    Not every device and driver has memory pools (`cudaDevAttrMemoryPoolsSupported`); virtual GPUs may lack them. So
    that engines run there as well, buffers are plain allocations then. Releasing one waits for its uses, and a warning
    is logged once.

    Raises:
        BackendError: CUDA cannot create a pool or a stream.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: Python may free a tensor in the thread that holds the lock
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
        """Return memory for work that is enqueued on a stream after this call.

        Args:
            size: Bytes, 0 or more.
            purpose: What the memory is for, for the message of an error.
            stream: The stream of that work.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        pool = self._pool
        if pool is None:
            return runtime.allocate(size, purpose)
        return self._with_retry(lambda: pool.allocate(size, stream, purpose))

    def allocate(self, size: int, purpose: str) -> runtime.Buffer:
        """Return long-lived memory, outside of the pool.

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
            uses: Events that complete when nothing uses the buffer any more.
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
        """Wait for pending releases, then return unused memory to the GPU.

        Returns:
            Whether there is a pool.
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
        """Allocate; if memory runs out, return the pool's unused memory to the GPU and try once more."""
        try:
            return allocate()
        except BackendError:
            if not self.trim():
                raise
        return allocate()


def free(memory: Iterable[Closable], uses: Sequence[runtime.Event]) -> None:
    """Wait for the uses of memory, then free it.

    Errors are logged and not raised: a GPU that fails here fails in other calls as well.

    Args:
        memory: The memory.
        uses: Events that complete when nothing uses the memory any more.
    """
    for step in (*(event.synchronize for event in uses), *(one.close for one in memory)):
        _warn_of_failure(step)


def when_dropped(owner: object, function: Callable[..., None], *arguments: Any) -> weakref.finalize[..., Any]:
    """Call a function once: when the returned finalizer is called, or when Python frees `owner`.

    Unlike in `__del__`, the arguments are still intact then, even if they are in a reference cycle with `owner`: Python
    finalizes the objects of a cycle in any order. At interpreter exit, where the driver frees all memory, the function
    is not called.

    Args:
        owner: The object to watch.
        function: The function.
        arguments: Its arguments; none may refer to `owner`.

    Returns:
        The finalizer.
    """
    finalizer = weakref.finalize(owner, function, *arguments)
    finalizer.atexit = False
    return finalizer


def _warn_of_failure(step: Callable[[], object]) -> None:
    """Call one step of a clean-up; log its BackendError, so that the later steps still run."""
    try:
        step()
    except BackendError as error:
        _log.warning("%s", str(error))  # the exception itself would keep its frames' objects in the log record
