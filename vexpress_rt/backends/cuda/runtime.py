"""CUDA memory, streams, events and graphs. The only module that imports cuda-python.

Everything here is on device 0; CUDA_VISIBLE_DEVICES chooses which GPU that is. Work that is enqueued on a stream runs
later: memory that it uses must stay allocated, and the host must not touch it, until the stream has passed that work.

The classes are thin wrappers of `cuda.bindings.runtime`. `cuda.core` has classes like them, but is compiled and calls
the driver's C functions, so that tests need a GPU. The bindings are plain Python functions, which tests replace by
`tests.doubles.fake_cuda`: it enforces CUDA's rules of order, and tests compare its signatures with the real ones.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.closable import Closable
from vexpress_rt.utils.project_links import EXPORTER

REMEDY = (
    "close other programs that use the GPU, or build a bundle with smaller --height and --width, or fewer --frames "
    f"{EXPORTER}"
)

_runtime: Any = None  # cuda.bindings.runtime after its first use; tests replace it


def count() -> int:
    """Return the number of GPUs; 0 without a GPU, a driver for it, or cuda-python."""
    try:
        error, found = _library().cudaGetDeviceCount()
    except BackendMissingError:
        return 0
    return 0 if int(error) else int(found)


def check() -> None:
    """Check that there is a GPU that can be used.

    Raises:
        BackendMissingError: cuda-python is not installed.
        BackendError: There is no GPU, or no driver for it; the message quotes CUDA.
    """
    error, found = _library().cudaGetDeviceCount()
    if int(error) or not found:
        why = _message(error) if int(error) else "there is none"
        raise BackendError(
            f"no NVIDIA GPU can be used ({why}): see the output of `nvidia-smi`, install a driver for CUDA 13, or run "
            "an onnxruntime bundle with provider='cpu'"
        )


def name_and_capability() -> tuple[str, tuple[int, int]]:
    """Return the GPU's name and compute capability (major, minor)."""
    properties = _call("cudaGetDeviceProperties", 0)
    return properties.name.split(b"\0")[0].decode(), (int(properties.major), int(properties.minor))


def driver_version() -> str:
    """Return the newest version of CUDA that the driver supports, such as "13.0".

    Raises:
        BackendError: As `check` does.
    """
    check()  # without a driver, CUDA reports version 0
    number = int(_call("cudaDriverGetVersion"))
    return f"{number // 1000}.{number % 1000 // 10}"


def memory() -> tuple[int, int]:
    """Return the free and the total memory of the GPU, bytes."""
    free, total = _call("cudaMemGetInfo")
    return int(free), int(total)


def describe() -> str:
    """Return the GPU's name, compute capability and free memory as text."""
    title, (major, minor) = name_and_capability()
    free, total = memory()
    return f"{title}, compute capability {major}.{minor}, {readable(free)} of {readable(total)} of memory free"


class _Handle(Closable):
    """A CUDA object, freed by the function `_free`."""

    _free = ""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._open = True

    def close(self) -> None:
        """Free the object. Closing twice is allowed."""
        if self._open:
            _call(self._free, self._detach())

    def _detach(self) -> Any:
        """Return the handle, which the caller frees."""
        self._open = False
        handle, self._handle = self._handle, None
        return handle


class Stream(_Handle):
    """A queue of work on the GPU, which runs in order."""

    _free = "cudaStreamDestroy"

    def __init__(self) -> None:
        super().__init__(_call("cudaStreamCreateWithFlags", _library().cudaStreamNonBlocking))

    @property
    def handle(self) -> int:
        """The cudaStream_t.

        Raises:
            BackendError: The stream was closed.
        """
        if self._handle is None:
            raise BackendError("a CUDA stream was closed and is used again: load the engines again")
        return int(self._handle)

    def synchronize(self) -> None:
        """Wait for all work enqueued so far.

        Raises:
            BackendError: Some of it failed.
        """
        _call("cudaStreamSynchronize", self.handle)

    def record(self) -> Event:
        """Return an event that completes when all work enqueued so far is done."""
        event = Event()
        _call("cudaEventRecord", event.handle, self.handle)
        return event

    def wait(self, event: Event) -> None:
        """Make work that is enqueued after this call wait for the event. The host does not wait.

        Args:
            event: An event that was recorded in any stream.
        """
        _call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def begin_capture(self) -> None:
        """Capture the work that is enqueued until `end_capture` in a graph, instead of running it.

        The mode is relaxed, because Python may free memory at any time and in any thread.
        """
        _call("cudaStreamBeginCapture", self.handle, _library().cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)

    def end_capture(self) -> Graph:
        """Return the work enqueued since `begin_capture` as a graph.

        Raises:
            BackendError: Some of it cannot be captured.
        """
        captured = _call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(_call("cudaGraphInstantiate", captured, 0))
        finally:
            _call("cudaGraphDestroy", captured)


class Event(_Handle):
    """A point in a stream; made by `Stream.record`."""

    _free = "cudaEventDestroy"

    def __init__(self) -> None:
        super().__init__(_call("cudaEventCreateWithFlags", _library().cudaEventDisableTiming))

    @property
    def handle(self) -> int:
        """The cudaEvent_t."""
        return int(self._handle)

    def synchronize(self) -> None:
        """Wait until the stream has passed the event.

        Raises:
            BackendError: Work before it failed.
        """
        _call("cudaEventSynchronize", self.handle)

    def done(self) -> bool:
        """Return whether the stream has passed the event."""
        (error,) = _library().cudaEventQuery(self.handle)
        if error == _library().cudaError_t.cudaErrorNotReady:
            return False
        _raise("cudaEventQuery", error)
        return True


class Graph(_Handle):
    """Captured work that is launched as a unit; made by `Stream.end_capture`. Its addresses and shapes are fixed."""

    _free = "cudaGraphExecDestroy"

    def launch(self, stream: Stream) -> None:
        """Enqueue the graph on a stream.

        Args:
            stream: The stream.
        """
        _call("cudaGraphLaunch", self._handle, stream.handle)


class Buffer(_Handle):
    """Memory of the GPU; made by `allocate` or `MemoryPool.allocate`.

    It must not be closed before streams have passed its last use.

    Attributes:
        bytes: Its size.
        pooled: Whether it belongs to a memory pool, so that it can be freed in stream order.
    """

    _free = "cudaFree"

    def __init__(self, pointer: int, size: int, *, pooled: bool = False) -> None:
        super().__init__(pointer)
        self.bytes = size
        self.pooled = pooled

    @property
    def pointer(self) -> int:
        """Its address, a multiple of 256; 0 after it was closed."""
        return self._handle or 0

    def free_on(self, stream: Stream) -> None:
        """Free memory of a pool once the stream has passed the work enqueued so far. The host does not wait.

        Freeing or closing it twice is allowed.

        Args:
            stream: The stream that used the memory last.
        """
        if self._open:
            _call("cudaFreeAsync", self._handle, stream.handle)
            self._detach()


class MemoryPool(_Handle):
    """A pool of device memory that is allocated and freed in stream order, without waiting for the GPU.

    It is not the device's default pool, whose settings would apply to other libraries in the process as well.
    Closing it does not free buffers that are in use.

    Args:
        keep: Bytes of memory, in use or not, that the pool keeps when the host synchronizes with the GPU.

    Raises:
        BackendError: CUDA cannot create the pool.
    """

    _free = "cudaMemPoolDestroy"

    def __init__(self, keep: int) -> None:
        from cuda.bindings.driver import cuuint64_t

        library = _library()
        properties = library.cudaMemPoolProps()
        properties.allocType = library.cudaMemAllocationType.cudaMemAllocationTypePinned  # device memory is never paged
        properties.location.type = library.cudaMemLocationType.cudaMemLocationTypeDevice
        properties.location.id = 0
        super().__init__(_call("cudaMemPoolCreate", properties))
        threshold = library.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        _call("cudaMemPoolSetAttribute", self._handle, threshold, cuuint64_t(keep))

    @staticmethod
    def supported() -> bool:
        """Return whether the GPU and its driver have memory pools."""
        attribute = _library().cudaDeviceAttr.cudaDevAttrMemoryPoolsSupported
        return bool(_call("cudaDeviceGetAttribute", attribute, 0))

    def allocate(self, size: int, stream: Stream, purpose: str = "a buffer") -> Buffer:
        """Allocate memory for work that is enqueued on a stream after this call.

        Work on other streams may use it after it has waited for an event of that stream.

        Args:
            size: Bytes, 0 or more.
            stream: The stream of that work.
            purpose: What the memory is for, for the message of an error.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        try:
            pointer = int(_call("cudaMallocFromPoolAsync", max(1, size), self._handle, stream.handle))
            return Buffer(pointer, size, pooled=True)
        except BackendError as error:
            raise out_of_memory(purpose, size, str(error)) from error

    def trim(self) -> None:
        """Return unused memory to the GPU. It counts as unused once the host has synchronized with its release."""
        _call("cudaMemPoolTrimTo", self._handle, 0)


class Pinned(_Handle):
    """Page-locked host memory, for copies that do not block the host; made by `pinned`.

    Attributes:
        array: (bytes,) uint8. Neither it nor a view of it may be used after `close`.
    """

    _free = "cudaFreeHost"

    def __init__(self, pointer: int, size: int) -> None:
        super().__init__(pointer)
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))

    def close(self) -> None:
        """Free the memory. Closing twice is allowed."""
        self.array = np.empty(0, np.uint8)
        super().close()


def allocate(size: int, purpose: str = "a buffer") -> Buffer:
    """Allocate memory of the GPU. CUDA may wait for all work on the GPU.

    Args:
        size: Bytes, 0 or more.
        purpose: What the memory is for, for the message of an error.

    Raises:
        BackendError: The GPU's memory ran out.
    """
    try:
        return Buffer(int(_call("cudaMalloc", max(1, size))), size)
    except BackendError as error:
        raise out_of_memory(purpose, size, str(error)) from error


def pinned(size: int, purpose: str = "copies") -> Pinned:
    """Allocate page-locked host memory.

    Args:
        size: Bytes, 0 or more.
        purpose: What the memory is for, for the message of an error.

    Raises:
        BackendError: The host's memory ran out, or its limit of locked memory is reached.
    """
    try:
        return Pinned(int(_call("cudaHostAlloc", max(1, size), _library().cudaHostAllocDefault)), size)
    except BackendError as error:
        raise BackendError(
            f"{purpose}: {readable(size)} of pinned host memory cannot be allocated ({error}): close other programs, "
            "or raise the limit of locked memory (`ulimit -l`)"
        ) from error


def out_of_memory(purpose: str, size: int | None, why: str) -> BackendError:
    """Return the error to raise when the GPU's memory runs out. It names the requested and the free memory.

    Args:
        purpose: What the memory is for.
        size: Bytes requested; None if unknown.
        why: The library's message.
    """
    requested = "" if size is None else f"requested {readable(size)}, "
    try:
        free, total = memory()
        state = f"{readable(free)} of {readable(total)} are free"
    except BackendError as error:
        state = f"how much is free is unknown: {error}"
    return BackendError(f"{purpose}: the GPU's memory ran out ({why}; {requested}{state}): {REMEDY}")


def copy_from_host(buffer: Buffer, array: NDArray[Any], stream: Stream, *, at: int = 0) -> None:
    """Enqueue a copy of an array to a buffer.

    Args:
        buffer: The target.
        array: A contiguous array in pinned memory.
        stream: The stream that copies.
        at: Offset in the buffer, bytes.

    Raises:
        BackendError: The array is too large or not contiguous, or CUDA refuses the copy.
    """
    _check_room(buffer.bytes - at, array)
    _copy(buffer.pointer + at, array.ctypes.data, array.nbytes, "HostToDevice", stream)


def copy_to_host(array: NDArray[Any], buffer: Buffer, stream: Stream, *, at: int = 0) -> None:
    """Enqueue a copy of a buffer to an array.

    Args:
        array: A contiguous array in pinned memory, as long as the copy.
        buffer: The source.
        stream: The stream that copies.
        at: Offset in the buffer, bytes.

    Raises:
        BackendError: The array is too large or not contiguous, or CUDA refuses the copy.
    """
    _check_room(buffer.bytes - at, array)
    _copy(array.ctypes.data, buffer.pointer + at, array.nbytes, "DeviceToHost", stream)


def copy_on_device(
    target: Buffer, source: Buffer, size: int, stream: Stream, *, to_byte: int = 0, from_byte: int = 0
) -> None:
    """Enqueue a copy from one buffer to another.

    Args:
        target: The buffer to write.
        source: The buffer to read.
        size: Length of the copy, bytes.
        stream: The stream that copies.
        to_byte: Offset in `target`, bytes.
        from_byte: Offset in `source`, bytes.

    Raises:
        BackendError: A buffer is too small, or CUDA refuses the copy.
    """
    if size > min(target.bytes - to_byte, source.bytes - from_byte):
        raise BackendError(f"a copy of {size} bytes from {source.bytes} to {target.bytes}; expected room for all")
    _copy(target.pointer + to_byte, source.pointer + from_byte, size, "DeviceToDevice", stream)


def readable(size: int) -> str:
    """Return a number of bytes as text, such as `1.5 GiB`.

    Args:
        size: Number of bytes.
    """
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} bytes"


def _check_room(size: int, array: NDArray[Any]) -> None:
    """Raise BackendError unless an array can be copied from or to `size` bytes."""
    if array.nbytes > size or not array.flags.c_contiguous:
        raise BackendError(
            f"a copy between a buffer of {size} bytes and an array of {array.nbytes} with strides {array.strides}; "
            "expected no more bytes than the buffer has, contiguous"
        )


def _copy(target: int, source: int, size: int, kind: str, stream: Stream) -> None:
    direction = getattr(_library().cudaMemcpyKind, f"cudaMemcpy{kind}")
    _call("cudaMemcpyAsync", target, source, size, direction, stream.handle)


def _library() -> Any:
    global _runtime
    if _runtime is None:
        try:
            from cuda.bindings import runtime
        except (ImportError, OSError, RuntimeError) as error:
            raise BackendMissingError(
                f"cuda-python, which talks to the GPU, cannot be imported ({error}): "
                "install it with `pip install 'vexpress-rt[cuda]'`"
            ) from error
        _runtime = runtime
    return _runtime


def _call(name: str, *arguments: Any) -> Any:
    """Call a CUDA function and return its results; raise its error as BackendError."""
    error, *values = getattr(_library(), name)(*arguments)
    _raise(name, error)
    return values[0] if len(values) == 1 else tuple(values)


def _raise(name: str, error: Any) -> None:
    if int(error):
        _library().cudaGetLastError()  # clears the error, which a later call would report again
        raise BackendError(f"{name}: {_message(error)}")


def _message(error: Any) -> str:
    _, text = _library().cudaGetErrorString(error)
    return f"{text.decode()}, error {int(error)}"
