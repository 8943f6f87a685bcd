"""CUDA memory, streams, events and graphs. The only file that imports cuda-python; what runs on them is in `backends`.

Everything here is of device 0; CUDA_VISIBLE_DEVICES says which GPU that is. What enters a stream is not waited for:
memory that it touches must stay allocated, and the host must not touch it, until the stream is past it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import BackendError, BackendMissingError
from vexpress_rt.utils.closable import Closable

REMEDY = "close other programs that use the GPU, or build a bundle with smaller --height and --width, or fewer --frames"

_runtime: Any = None  # the CUDA runtime's functions, once they were needed; tests put a driver of their own here


def count() -> int:
    """Number of GPUs; 0 without a GPU, a driver for it, or cuda-python."""
    try:
        error, found = _library().cudaGetDeviceCount()
    except BackendMissingError:
        return 0
    return 0 if int(error) else int(found)


def check() -> None:
    """Raise BackendMissingError without cuda-python, and BackendError, in CUDA's words, without a usable GPU."""
    error, found = _library().cudaGetDeviceCount()
    if int(error) or not found:
        why = _words(error) if int(error) else "there is none"
        raise BackendError(
            f"no NVIDIA GPU can be used ({why}): look at what `nvidia-smi` says, install a driver for CUDA 13, or run "
            "an onnxruntime bundle with provider='cpu'"
        )


def name_and_capability() -> tuple[str, tuple[int, int]]:
    """The GPU's name and compute capability (major, minor)."""
    properties = _call("cudaGetDeviceProperties", 0)
    return properties.name.split(b"\0")[0].decode(), (int(properties.major), int(properties.minor))


def driver_version() -> str:
    """The newest version of CUDA that the driver knows, such as "13.0". Raises as `check` does."""
    check()  # without a driver, CUDA calls its version 0
    number = int(_call("cudaDriverGetVersion"))
    return f"{number // 1000}.{number % 1000 // 10}"


def memory() -> tuple[int, int]:
    """Bytes of the GPU's memory: free, total."""
    free, total = _call("cudaMemGetInfo")
    return int(free), int(total)


class _Owned(Closable):
    """Something that CUDA holds for us."""

    _free = ""

    def __init__(self, held: Any) -> None:
        self._object = held
        self._open = True

    def close(self) -> None:
        """Give it back. Closing twice is allowed."""
        if self._open:
            self._open = False
            held, self._object = self._object, None
            _call(self._free, held)


class Stream(_Owned):
    """A queue of work on the GPU, done in order."""

    _free = "cudaStreamDestroy"

    def __init__(self) -> None:
        super().__init__(_call("cudaStreamCreateWithFlags", _library().cudaStreamNonBlocking))

    @property
    def handle(self) -> int:
        """The cudaStream_t."""
        if self._object is None:
            raise BackendError("a CUDA stream was closed and is used again: load the engines anew")
        return int(self._object)

    def synchronize(self) -> None:
        """Wait until everything that entered is done. Raises BackendError for what went wrong in it."""
        _call("cudaStreamSynchronize", self.handle)

    def record(self) -> Event:
        """An event that passes when everything that has entered so far is done."""
        event = Event()
        _call("cudaEventRecord", event.handle, self.handle)
        return event

    def wait(self, event: Event) -> None:
        """What enters from here on starts after the event has passed. The host does not wait."""
        _call("cudaStreamWaitEvent", self.handle, event.handle, 0)

    def begin_capture(self) -> None:
        """From here to `end_capture` nothing runs: what enters becomes part of a graph.

        The relaxed mode, because Python may drop, and so free, memory at any time and in any thread.
        """
        _call("cudaStreamBeginCapture", self.handle, _library().cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)

    def end_capture(self) -> Graph:
        """What entered since `begin_capture`. Raises BackendError if something in it cannot be captured."""
        captured = _call("cudaStreamEndCapture", self.handle)
        try:
            return Graph(_call("cudaGraphInstantiate", captured, 0))
        finally:
            _call("cudaGraphDestroy", captured)


class Event(_Owned):
    """A place in a stream; made by `Stream.record`."""

    _free = "cudaEventDestroy"

    def __init__(self) -> None:
        super().__init__(_call("cudaEventCreateWithFlags", _library().cudaEventDisableTiming))

    @property
    def handle(self) -> int:
        """The cudaEvent_t."""
        return int(self._object)

    def synchronize(self) -> None:
        """Wait until the stream is past it. Raises BackendError for what went wrong there."""
        _call("cudaEventSynchronize", self.handle)

    def done(self) -> bool:
        """Whether the stream is past it."""
        (error,) = _library().cudaEventQuery(self.handle)
        if error == _library().cudaError_t.cudaErrorNotReady:
            return False
        _raise("cudaEventQuery", error)
        return True


class Graph(_Owned):
    """Captured work, to be launched as one; made by `Stream.end_capture`. Its addresses and shapes are frozen."""

    _free = "cudaGraphExecDestroy"

    def launch(self, stream: Stream) -> None:
        """Enter it into the stream."""
        _call("cudaGraphLaunch", self._object, stream.handle)


class Buffer(_Owned):
    """Memory of the GPU; made by `allocate`. It must not be closed before streams are past its last use."""

    _free = "cudaFree"

    def __init__(self, pointer: int, size: int) -> None:
        super().__init__(pointer)
        self.bytes = size

    @property
    def pointer(self) -> int:
        """Its address, a multiple of 256; 0 once it was closed."""
        return self._object or 0


class Pinned(_Owned):
    """Host memory that the GPU copies from and to by itself; made by `pinned`.

    array: (bytes,) uint8. Neither it nor a view of it may be used after `close`.
    """

    _free = "cudaFreeHost"

    def __init__(self, pointer: int, size: int) -> None:
        super().__init__(pointer)
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer))

    def close(self) -> None:
        """Give it back. Closing twice is allowed."""
        self.array = np.empty(0, np.uint8)
        super().close()


def allocate(size: int, purpose: str = "a buffer") -> Buffer:
    """`size` bytes of the GPU's memory, 0 or more. Raises BackendError, naming `purpose`, if it has no room."""
    try:
        return Buffer(int(_call("cudaMalloc", max(1, size))), size)
    except BackendError as error:
        raise out_of_memory(purpose, size, str(error)) from error


def pinned(size: int, purpose: str = "copies") -> Pinned:
    """`size` bytes of pinned host memory. Raises BackendError if the host has no room."""
    try:
        return Pinned(int(_call("cudaHostAlloc", max(1, size), _library().cudaHostAllocDefault)), size)
    except BackendError as error:
        raise BackendError(
            f"{purpose}: {readable(size)} of pinned host memory are not to be had ({error}): close other programs, or "
            "raise the limit of locked memory (`ulimit -l`)"
        ) from error


def out_of_memory(purpose: str, size: int | None, why: str) -> BackendError:
    """The error to raise when the GPU has no room: how much was asked for (None: unknown), what is free, what to do."""
    asked = "" if size is None else f"asked for {readable(size)}, "
    try:
        free, total = memory()
        state = f"{readable(free)} of {readable(total)} are free"
    except BackendError as error:
        state = f"what is free is unknown: {error}"
    return BackendError(f"{purpose}: the GPU's memory ran out ({why}; {asked}{state}): {REMEDY}")


def copy_in(buffer: Buffer, array: NDArray[Any], stream: Stream, *, at: int = 0) -> None:
    """Enter a copy of `array`, contiguous and in pinned memory, to `buffer` from byte `at` on."""
    _check_room(buffer.bytes - at, array)
    _copy(buffer.pointer + at, array.ctypes.data, array.nbytes, "HostToDevice", stream)


def copy_out(array: NDArray[Any], buffer: Buffer, stream: Stream, *, at: int = 0) -> None:
    """Enter a copy of `buffer` from byte `at` on to `array`, contiguous and in pinned memory."""
    _check_room(buffer.bytes - at, array)
    _copy(array.ctypes.data, buffer.pointer + at, array.nbytes, "DeviceToHost", stream)


def copy_across(
    target: Buffer, source: Buffer, size: int, stream: Stream, *, to_byte: int = 0, from_byte: int = 0
) -> None:
    """Enter a copy of `size` bytes of one buffer to another."""
    if size > min(target.bytes - to_byte, source.bytes - from_byte):
        raise BackendError(f"a copy of {size} bytes from {source.bytes} to {target.bytes}; expected room for all")
    _copy(target.pointer + to_byte, source.pointer + from_byte, size, "DeviceToDevice", stream)


def fill(buffer: Buffer, value: int, stream: Stream) -> None:
    """Enter setting every byte of `buffer` to `value`, 0 to 255."""
    _call("cudaMemsetAsync", buffer.pointer, value, buffer.bytes, stream.handle)


def readable(size: int) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} bytes"


def _check_room(size: int, array: NDArray[Any]) -> None:
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
    """What the function gives besides its error, which is raised."""
    error, *values = getattr(_library(), name)(*arguments)
    _raise(name, error)
    return values[0] if len(values) == 1 else tuple(values)


def _raise(name: str, error: Any) -> None:
    if int(error):
        _library().cudaGetLastError()  # else whoever asks for the last error next takes it for their own
        raise BackendError(f"{name}: {_words(error)}")


def _words(error: Any) -> str:
    _, text = _library().cudaGetErrorString(error)
    return f"{text.decode()}, error {int(error)}"
