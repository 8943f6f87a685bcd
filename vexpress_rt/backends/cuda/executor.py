"""The executor that engines on a GPU share, and the tensors that stay there between them."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from vexpress_rt.backends.base import Array
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import BufferPool, when_dropped
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.closable import Closable
from vexpress_rt.utils.project_links import EXPORTER

_log = logging.getLogger("vexpress_rt")
_serials = itertools.count(1)
_BFLOAT16 = "bfloat16"  # unknown to NumPy: two bytes an element that never become an array


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Return the size of a contiguous tensor in bytes.

    Args:
        shape: The tensor's shape.
        dtype: NumPy's name of its dtype, or `bfloat16`.
    """
    return math.prod(shape) * (2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize)


def becomes_array(dtype: str) -> bool:
    """Return whether NumPy has the dtype.

    Args:
        dtype: Name of a dtype in an engine's specification.
    """
    return dtype != _BFLOAT16


class Executor(Closable):
    """The order in which engines run on a GPU: work on its `compute` stream runs one item after another.

    Because its engines never run at once, they share one block of activation memory, as large as the largest needs.
    Finished outputs are copied to the host on the `copies` stream meanwhile.

    Several threads may run engines. Each holds `lock` only while it enqueues work on `compute`, and waits only
    for its own results. Close the executor after its engines.

    Attributes:
        lock: Hold it while enqueuing work.
        compute: The stream of all computation.
        copies: The stream of copies to the host.
        pool: The source of memory for tensors.
        generation: Number of blocks of activation memory so far. An engine that uses an earlier block must take the new
            one.

    Raises:
        BackendMissingError: cuda-python is not installed.
        BackendError: There is no GPU.
    """

    def __init__(self) -> None:
        runtime.check()
        self.lock = threading.RLock()
        self.compute = runtime.Stream()
        self.copies = runtime.Stream()
        self.pool = BufferPool()
        self.generation = 0
        self._block: runtime.Buffer | None = None
        self._open = True

    def reserve(self, size: int, purpose: str) -> runtime.Buffer:
        """Return the block of activation memory, enlarged if it is smaller than `size`. Call this with `lock` held.

        A larger block replaces the old one after all enqueued work is done. The old one is freed first, so that both
        need not fit. If there is no room for the larger one, engines that need less can still run.

        Args:
            size: Bytes.
            purpose: What the memory is for, for the message of an error.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        if self._block is None or self._block.bytes < size:
            self.compute.synchronize()
            self._drop_block()
            self._block = self.pool.allocate(size, purpose)
        return self._block

    @contextmanager
    def enqueuing(self) -> Iterator[runtime.Stream]:
        """Hold `lock` for a `with` block that enqueues work; yields the `compute` stream.

        If the block raises, this waits for all enqueued work, so that nothing is freed while that work uses it.
        """
        with self.lock:
            try:
                yield self.compute
            except BaseException:
                self.synchronize()
                raise

    def synchronize(self) -> None:
        """Wait until all enqueued work is done. Errors of that work are logged."""
        with self.lock:  # another thread may be capturing a graph, which synchronizing would break
            for stream in (self.compute, self.copies):
                try:
                    stream.synchronize()
                except BackendError as error:
                    _log.warning("work on the GPU failed: %s", str(error))

    def close(self) -> None:
        """Free the block, unused memory and the streams; tensors stay valid. Closing twice is allowed."""
        with self.lock:
            if self._open:
                self._open = False
                self.synchronize()
                self.pool.close()
                self._drop_block()
                self.compute.close()
                self.copies.close()

    def _drop_block(self) -> None:
        block, self._block = self._block, None
        self.generation += 1
        if block is not None:
            block.close()


class CudaTensor:
    """A `DeviceTensor` on the GPU, contiguous.

    Args:
        shape: The tensor's shape.
        dtype: NumPy's name of its dtype, or `bfloat16`.
        buffer: Its memory, which is released to `pool` when the tensor is closed.
        ready: The event that completes when it is computed.
        pool: The pool of the buffer.

    Attributes:
        serial: A number that is unique in this process.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: str, buffer: runtime.Buffer, ready: runtime.Event, pool: BufferPool
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.buffer = buffer
        self.ready = ready
        self.serial = next(_serials)
        self._uses = [ready]
        self._lock = threading.Lock()
        self._release = when_dropped(self, pool.release, buffer, self._uses)

    @property
    def bytes(self) -> int:
        """Its size in bytes."""
        return tensor_bytes(self.shape, self.dtype)

    def read_until(self, event: runtime.Event) -> None:
        """Note that work before `event` reads the tensor, so that its memory is not reused before the event.

        Args:
            event: Recorded after the last work that reads the tensor.
        """
        with self._lock:  # readers may have executors of their own, and so other locks
            self._uses[:] = [use for use in self._uses if not use.done()] + [event]

    def check_open(self) -> None:
        """Raise BackendError if the tensor was closed."""
        if not self._release.alive:
            raise BackendError(f"a tensor {self.shape} on the GPU was closed and is used again: compute it again")

    def numpy(self) -> Array:
        """Wait until the tensor is computed, and return a copy of it as an array.

        Raises:
            BackendError: Computing or copying failed, or the dtype is bfloat16, which NumPy lacks.
        """
        self.check_open()
        if not becomes_array(self.dtype):
            raise BackendError(
                f"a tensor {self.shape} is {self.dtype}, which NumPy lacks; expected to stay on the GPU: pass it to "
                f"engines as it is, or build the bundle with --precision fp16 or fp32 {EXPORTER}"
            )
        with runtime.Stream() as stream, runtime.pinned(self.bytes) as host:
            try:
                stream.wait(self.ready)
                runtime.copy_to_host(host.array, self.buffer, stream)
            finally:
                stream.synchronize()  # also after Ctrl-C: pinned memory is freed next
            return host.array.view(self.dtype).reshape(self.shape).copy()

    def close(self) -> None:
        """Free the tensor once it is computed and read. This does not wait. Closing twice is allowed."""
        self._release()
