"""Frames on a GPU: filtered there, and copied to the host while the next ones are computed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from numpy.typing import NDArray

from vexpress_rt.backends.base import Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.errors import BackendError
from vexpress_rt.native.device_kernels import Kernels
from vexpress_rt.types import UInt8

AHEAD = 1  # frames whose copy to the host is enqueued before the caller gets the frame before them


class DeviceFrames:
    """`FramePostprocessing` on a GPU, with the same values as `HostFrames`."""

    keep_on_device = True

    def __init__(self, executor: Executor, kernels: Kernels) -> None:
        """Run on the GPU of the decoder, with its executor and kernels."""
        self._executor = executor
        self._kernels = kernels

    def median_3x3x3(self, previous: Tensor, current: Tensor, following: Tensor) -> CudaTensor:
        """See `FramePostprocessing`. The host does not wait."""
        height, width, _ = current.shape
        launch = partial(self._kernels.median_3x3x3, height=height, width=width)
        return self._run_kernel((height, width, 3), launch, previous, current, following)

    def rgb_to_nv12(self, frame: Tensor) -> CudaTensor:
        """See `FramePostprocessing`. The host does not wait."""
        height, width, _ = frame.shape
        launch = partial(self._kernels.rgb_to_nv12, height=height, width=width)
        return self._run_kernel((height * 3 // 2, width), launch, frame)

    def _run_kernel(self, shape: tuple[int, ...], launch: Callable[..., None], *frames: Tensor) -> CudaTensor:
        """Enqueue a kernel on frames and return its output."""
        executor, inputs = self._executor, [_on_gpu(frame) for frame in frames]
        with executor.enqueuing() as compute:
            out = executor.pool.acquire(math.prod(shape), "a frame", compute)
            for frame in inputs:
                compute.wait(frame.ready)
            launch(*(frame.buffer for frame in inputs), out, stream=compute)
            done = compute.record()
        for frame in inputs:
            frame.read_until(done)
        return CudaTensor(shape, "uint8", out, done, executor.pool)

    def arrays(self, frames: Iterable[Tensor]) -> Iterator[UInt8]:
        """Yield frames as arrays, each after the copy of the next frame is enqueued, if there is a next frame."""
        downloads: deque[_Download] = deque()
        spare: list[runtime.Pinned] = []
        try:
            for frame in map(_on_gpu, frames):
                staging = spare.pop() if spare else runtime.pinned(frame.bytes, "frames copied to the host")
                downloads.append(_Download(self._executor, frame, staging))
                if len(downloads) > AHEAD:
                    yield downloads[0].array()
                    spare.append(downloads.popleft().staging)
            for download in downloads:
                yield download.array()
        finally:
            for download in downloads:
                download.finish()
            for staging in (*spare, *(download.staging for download in downloads)):
                staging.close()


class _Download:
    """The copy of a tensor to pinned memory; nothing else may use that memory before `finish`."""

    def __init__(self, executor: Executor, tensor: CudaTensor, staging: runtime.Pinned) -> None:
        self.staging = staging
        self._shape, self._dtype = tensor.shape, tensor.dtype
        self._used = staging.array[: tensor.bytes]
        with executor.enqueuing():
            executor.copies.wait(tensor.ready)
            runtime.copy_to_host(self._used, tensor.buffer, executor.copies)
            self._done = executor.copies.record()
        tensor.read_until(self._done)

    def array(self) -> NDArray[Any]:
        """Wait for the copy and return it as a new array. Raises BackendError if work on the GPU failed."""
        self._done.synchronize()
        return self._used.view(self._dtype).reshape(self._shape).copy()

    def finish(self) -> None:
        """Wait until the copy ends, successful or not."""
        with suppress(BackendError):
            self._done.synchronize()


def _on_gpu(frame: Tensor) -> CudaTensor:
    assert isinstance(frame, CudaTensor)
    return frame
