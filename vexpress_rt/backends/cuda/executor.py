"""What engines on a GPU share: streams, one block of activation memory, and tensors that stay there between them."""

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
from vexpress_rt.backends.cuda.buffer_pool import Spares, when_dropped
from vexpress_rt.errors import BackendError
from vexpress_rt.utils.closable import Closable

_log = logging.getLogger("vexpress_rt")
_serials = itertools.count(1)
_BFLOAT16 = "bfloat16"  # unknown to NumPy: two bytes an element that never become an array


def tensor_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a contiguous tensor; dtype: NumPy's name, or bfloat16."""
    return math.prod(shape) * (2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize)


def becomes_array(dtype: str) -> bool:
    """Whether NumPy has it."""
    return dtype != _BFLOAT16


class Executor(Closable):
    """Runs engines one after another: what enters its `compute` stream is done in order.

    Its engines never run at once, so that one block of activation memory, as large as the largest asks for, serves
    them all. Finished outputs leave on the `copies` stream meanwhile. Whoever lets work enter `compute` holds `lock`,
    and only so long: several threads may run engines, and each waits for its own results alone. `spares` is where
    memory of tensors comes from.

    Close it after its engines. Raises BackendMissingError without cuda-python, BackendError without a GPU.
    """

    def __init__(self) -> None:
        runtime.check()
        self.lock = threading.RLock()
        self.compute = runtime.Stream()
        self.copies = runtime.Stream()
        self.spares = Spares()
        self.generation = 0  # of the block: what was set up with another one is to be set up anew
        self._block: runtime.Buffer | None = None
        self._open = True

    def reserve(self, size: int, purpose: str) -> runtime.Buffer:
        """The block, of at least `size` bytes; `lock` is held.

        A larger one replaces it once what has entered is done. The old one goes first, so that both need not fit.
        Raises BackendError when there is no room; whoever needs less can still run then.
        """
        if self._block is None or self._block.bytes < size:
            self.compute.synchronize()
            self._drop_block()
            self._block = self.spares.allocate(size, purpose)
        return self._block

    @contextmanager
    def entering(self) -> Iterator[runtime.Stream]:
        """Holds `lock` for a block that lets work enter `compute`, which it gives.

        When the block fails, what entered is done before anything that it uses can be freed.
        """
        with self.lock:
            try:
                yield self.compute
            except BaseException:
                self.settle()
                raise

    def settle(self) -> None:
        """Wait until everything that entered is done, whatever came of it."""
        with self.lock:  # or another thread may be capturing, which this would spoil
            for stream in (self.compute, self.copies):
                try:
                    stream.synchronize()
                except BackendError as error:
                    _log.debug("%s", str(error))

    def close(self) -> None:
        """Free the block, spares and streams; tensors that engines gave stay. Closing twice is allowed."""
        with self.lock:
            if self._open:
                self._open = False
                self.settle()
                self.spares.close()
                self._drop_block()
                self.compute.close()
                self.copies.close()

    def _drop_block(self) -> None:
        block, self._block = self._block, None
        self.generation += 1
        if block is not None:
            block.close()


class DeviceTensor:
    """A `Resident` on the GPU, contiguous.

    buffer: holds it; goes to `spares` in the end.  ready: passes when it is computed.
    serial: no other tensor of this process has the same.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: str, buffer: runtime.Buffer, ready: runtime.Event, spares: Spares
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.buffer = buffer
        self.ready = ready
        self.serial = next(_serials)
        self._uses = [ready]
        self._lock = threading.Lock()
        self._give_back = when_dropped(self, spares.put, buffer, self._uses)

    @property
    def bytes(self) -> int:
        """Its size."""
        return tensor_bytes(self.shape, self.dtype)

    def read_until(self, event: runtime.Event) -> None:
        """Somebody reads it until `event`; its memory is not used for anything else before."""
        with self._lock:  # readers may have executors of their own, and so other locks
            self._uses[:] = [use for use in self._uses if not use.done()] + [event]

    def check_open(self) -> None:
        """Raise BackendError if it was closed."""
        if not self._give_back.alive:
            raise BackendError(f"a tensor {self.shape} on the GPU was closed and is used again: compute it anew")

    def host(self) -> Array:
        """A copy as an array, once it is computed. Raises BackendError, also for bfloat16, which no array can hold."""
        self.check_open()
        if not becomes_array(self.dtype):
            raise BackendError(
                f"a tensor {self.shape} is {self.dtype}, which NumPy lacks; expected to stay on the GPU: pass it to "
                "engines as it is, or build the bundle with --precision fp16 or fp32"
            )
        with runtime.Stream() as stream, runtime.pinned(self.bytes) as host:
            try:
                stream.wait(self.ready)
                runtime.copy_out(host.array, self.buffer, stream)
            finally:
                stream.synchronize()  # also after Ctrl-C: pinned memory goes next
            return host.array.view(self.dtype).reshape(self.shape).copy()

    def close(self) -> None:
        """Free it, once it is computed and nobody reads it any more; does not wait. Closing twice is allowed."""
        self._give_back()
