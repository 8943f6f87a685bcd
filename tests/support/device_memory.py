"""Device memory for tests: filled with one value."""

from __future__ import annotations

from vexpress_rt.backends.cuda import runtime


def fill(buffer: runtime.Buffer, value: int, stream: runtime.Stream) -> None:
    """Enqueue setting every byte of `buffer` to `value`, 0 to 255."""
    runtime._call("cudaMemsetAsync", buffer.pointer, value, buffer.bytes, stream.handle)
