"""The latent store in a GPU's memory: noise is copied there once, and all further work stays in that memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.backends.base import Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import free, when_dropped
from vexpress_rt.backends.cuda.executor import CudaTensor, Executor
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.latents import LatentRing
from vexpress_rt.native.device_kernels import Kernels
from vexpress_rt.native.latent_step import Coefficients, Correction
from vexpress_rt.types import Float32
from vexpress_rt.utils.closable import Closable


@dataclass
class _Staging:
    """A staging buffer in pinned memory, for copies to the GPU.

    Attributes:
        memory: The pinned memory, allocated at the first copy.
        uploaded: An event that passes when the last copy from the buffer is done.
    """

    memory: runtime.Pinned | None = None
    uploaded: runtime.Event | None = None


class DeviceLatents:
    """The latent store on a GPU; `Latents` documents the methods. All work is enqueued on `executor.compute`."""

    keep_on_device = True

    def __init__(
        self, executor: Executor, kernels: Kernels, ring: LatentRing, shape: tuple[int, ...], state_size: int = 1
    ) -> None:
        """Allocate the slots.

        Args:
            executor: The executor of the GPU that the denoiser runs on.
            kernels: The kernels of that GPU.
            ring: The slots of the frames in flight.
            shape: Shape of a frame's latent, (c, h, w).
            state_size: Elements of a frame's state, from `samplers.Sampler`.

        Raises:
            BackendError: The GPU's memory ran out.
        """
        self._executor = executor
        self._kernels = kernels
        self._ring = ring
        self._shape = shape
        self._values = math.prod(shape)
        self._bytes = 4 * self._values
        purpose = f"latents of {ring.slots} frames in flight"
        self._state = executor.pool.allocate(state_size * ring.slots * self._bytes, purpose)
        self._totals = executor.pool.allocate(ring.slots * self._bytes, purpose)
        # Two, so that the host can write one buffer while the GPU copies from the other.
        self._staging = deque([_Staging(), _Staging()])
        self._host_copy: runtime.Pinned | None = None
        self._uses: list[runtime.Event] = []  # one event, after the last use of the memory
        self._memory: list[Closable] = [self._state, self._totals]
        self._free = when_dropped(self, free, self._memory, self._uses)

    def write(self, first: int, latents: Float32) -> None:
        """Copy the latents of consecutive frames to the GPU."""
        staging, values = self._stage(latents)
        with self._executor.enqueuing() as compute:
            for frames, slots in self._ring.pieces(first, first + len(latents)):
                runtime.copy_from_host(self._state, values[frames], compute, at=slots.start * self._bytes)
            staging.uploaded = self._record_use(compute)

    def gather(self, window: Window) -> CudaTensor:
        """Return a copy of a window's latents on the GPU."""
        return self._copy_frames(window.start, window.stop, "latents of a window")

    def correct(
        self, unconditional: Tensor | None, conditional: Tensor, scale: float, correction: Correction
    ) -> CudaTensor:
        """Return corrected predictions on the GPU; see `Latents.correct`."""
        first, second = _on_gpu(unconditional, conditional)
        expected = self._upload(correction.expected, "a frame's true prediction")
        read = [tensor for tensor in (first, second, expected) if tensor is not None]
        executor = self._executor
        with executor.enqueuing() as compute:
            out = executor.pool.acquire(len(correction.weights) * self._bytes, "predictions of a window", compute)
            for tensor in read:
                compute.wait(tensor.ready)
            self._kernels.correct_predictions(
                None if first is None else first.buffer,
                second.buffer,
                expected.buffer,
                out,
                values=self._values,
                frame=correction.frame,
                weights=correction.weights,
                scale=scale,
                stream=compute,
            )
            done = compute.record()
        for tensor in read:
            tensor.read_until(done)
        return CudaTensor(second.shape, "float32", out, done, executor.pool)

    def step(
        self,
        window: Window,
        unconditional: Tensor | None,
        conditional: Tensor,
        scale: float,
        coefficients: Coefficients,
    ) -> None:
        """Enqueue the kernel that adds predictions and takes steps; see `Latents.step`."""
        first, second = _on_gpu(unconditional, conditional)
        predictions = [tensor for tensor in (first, second) if tensor is not None]
        updates = self._ring.updates(window)
        with self._executor.enqueuing() as compute:
            for tensor in predictions:
                compute.wait(tensor.ready)
            self._kernels.guided_step(
                self._state,
                self._totals,
                None if first is None else first.buffer,
                second.buffer,
                values=self._values,
                slots=self._ring.slots,
                updates=updates,
                scale=scale,
                coefficients=coefficients,
                stream=compute,
            )
            done = self._record_use(compute)
        for tensor in predictions:
            tensor.read_until(done)

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """See `Latents.copy_to_host`. The copy follows all work that is enqueued before it."""
        size = (stop - start) * self._bytes
        if self._host_copy is None or len(self._host_copy.array) < size:
            self._host_copy = runtime.pinned(size, "latents of a window")
            self._memory.append(self._host_copy)  # a smaller one from before is freed by `close`
        values = self._host_copy.array[:size]
        with self._executor.enqueuing() as compute:
            for frames, slots in self._ring.pieces(start, stop):
                piece = values[frames.start * self._bytes : frames.stop * self._bytes]
                runtime.copy_to_host(piece, self._state, compute, at=slots.start * self._bytes)
            done = self._record_use(compute)

        def copied() -> Float32:
            done.synchronize()
            return values.view(np.float32).reshape(stop - start, *self._shape)

        return copied

    def take(self, frame: int) -> CudaTensor:
        """Return a copy of a frame's final latent on the GPU."""
        return self._copy_frames(frame, frame + 1, "the latent of a frame")

    def close(self) -> None:
        """Free the memory of the store; see `Latents.close`."""
        self._free()

    def _copy_frames(self, start: int, stop: int, purpose: str) -> CudaTensor:
        """Copy the latents of frames [start, stop) to a tensor on the GPU."""
        executor, size = self._executor, self._bytes
        with executor.enqueuing() as compute:
            buffer = executor.pool.acquire((stop - start) * size, purpose, compute)
            for frames, slots in self._ring.pieces(start, stop):
                length, offset = (frames.stop - frames.start) * size, frames.start * size
                runtime.copy_on_device(
                    buffer, self._state, length, compute, to_byte=offset, from_byte=slots.start * size
                )
            done = self._record_use(compute)
        return CudaTensor((stop - start, *self._shape), "float32", buffer, done, executor.pool)

    def _upload(self, array: Float32, purpose: str) -> CudaTensor:
        """Copy an array to the GPU."""
        executor = self._executor
        staging, values = self._stage(array)
        with executor.enqueuing() as compute:
            buffer = executor.pool.acquire(array.nbytes, purpose, compute)
            runtime.copy_from_host(buffer, values, compute)
            staging.uploaded = self._record_use(compute)
        return CudaTensor(array.shape, "float32", buffer, staging.uploaded, executor.pool)

    def _record_use(self, compute: runtime.Stream) -> runtime.Event:
        """Record that the work enqueued so far uses the memory; return an event that passes when that work is done."""
        self._uses[:] = [compute.record()]
        return self._uses[0]

    def _stage(self, array: Float32) -> tuple[_Staging, NDArray[np.float32]]:
        """Copy an array into the staging buffer that was used longest ago, after its last copy to the GPU is done."""
        staging = self._staging[0]
        self._staging.rotate()
        if staging.uploaded is not None:
            staging.uploaded.synchronize()
        if staging.memory is None or len(staging.memory.array) < array.nbytes:
            staging.memory = runtime.pinned(array.nbytes, "latents on their way to the GPU")
            self._memory.append(staging.memory)  # a smaller one from before is freed by `close`
        values = staging.memory.array[: array.nbytes].view(np.float32).reshape(array.shape)
        values[...] = array
        return staging, values


def _on_gpu(unconditional: Tensor | None, conditional: Tensor) -> tuple[CudaTensor | None, CudaTensor]:
    assert isinstance(conditional, CudaTensor)
    assert unconditional is None or isinstance(unconditional, CudaTensor)
    return unconditional, conditional
