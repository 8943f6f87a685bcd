"""The store of latents in a GPU's memory: frames are written once, and everything else happens within that memory."""

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
    """Pinned memory for copies to the GPU.

    Attributes:
        memory: Its memory, allocated at the first copy.
        uploaded: Passes when the last copy from it is done.
    """

    memory: runtime.Pinned | None = None
    uploaded: runtime.Event | None = None


class DeviceLatents:
    """The store on a GPU; `Latents` documents the methods. All its work is enqueued on `executor.compute`."""

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
        # Two, so that the host copies into one while the GPU is still to copy from the other.
        self._staging = deque([_Staging(), _Staging()])
        self._host_copy: runtime.Pinned | None = None
        self._uses: list[runtime.Event] = []  # the last one, after which nothing uses the memory any more
        self._memory: list[Closable] = [self._state, self._totals]
        self._free = when_dropped(self, free, self._memory, self._uses)

    def write(self, first: int, latents: Float32) -> None:
        """Copy the latents of consecutive frames to the GPU."""
        staging, values = self._stage(latents)
        with self._executor.enqueuing() as compute:
            for frames, slots in self._ring.pieces(first, first + len(latents)):
                runtime.copy_from_host(self._state, values[frames], compute, at=slots.start * self._bytes)
            staging.uploaded = self._used(compute)

    def gather(self, window: Window) -> CudaTensor:
        """Return a copy of a window's latents on the GPU."""
        return self._copied(window.start, window.stop, "latents of a window")

    def correct(
        self, unconditional: Tensor | None, conditional: Tensor, scale: float, correction: Correction
    ) -> CudaTensor:
        """Return corrected predictions on the GPU; see `Latents.correct`."""
        first, second = _on_gpu(unconditional, conditional)
        expected = self._upload(correction.expected, "a frame's right prediction")
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
        halves = [half for half in (first, second) if half is not None]
        updates = self._ring.updates(window)
        with self._executor.enqueuing() as compute:
            for half in halves:
                compute.wait(half.ready)
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
            done = self._used(compute)
        for half in halves:
            half.read_until(done)

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """See `Latents.copy_to_host`. The copy follows all work that is enqueued before it."""
        size = (stop - start) * self._bytes
        if self._host_copy is None or len(self._host_copy.array) < size:
            self._host_copy = runtime.pinned(size, "latents of a window")
            self._memory.append(self._host_copy)  # a smaller one stays in the list until `close`
        values = self._host_copy.array[:size]
        with self._executor.enqueuing() as compute:
            for frames, slots in self._ring.pieces(start, stop):
                piece = values[frames.start * self._bytes : frames.stop * self._bytes]
                runtime.copy_to_host(piece, self._state, compute, at=slots.start * self._bytes)
            done = self._used(compute)

        def copied() -> Float32:
            done.synchronize()
            return values.view(np.float32).reshape(stop - start, *self._shape)

        return copied

    def take(self, frame: int) -> CudaTensor:
        """Return a copy of a frame's final latent on the GPU."""
        return self._copied(frame, frame + 1, "the latent of a frame")

    def close(self) -> None:
        """Free the memory of the store; see `Latents.close`."""
        self._free()

    def _copied(self, start: int, stop: int, purpose: str) -> CudaTensor:
        executor, size = self._executor, self._bytes
        with executor.enqueuing() as compute:
            buffer = executor.pool.acquire((stop - start) * size, purpose, compute)
            for frames, slots in self._ring.pieces(start, stop):
                length, place = (frames.stop - frames.start) * size, frames.start * size
                runtime.copy_on_device(
                    buffer, self._state, length, compute, to_byte=place, from_byte=slots.start * size
                )
            done = self._used(compute)
        return CudaTensor((stop - start, *self._shape), "float32", buffer, done, executor.pool)

    def _upload(self, array: Float32, purpose: str) -> CudaTensor:
        """Copy an array to the GPU."""
        executor = self._executor
        staging, values = self._stage(array)
        with executor.enqueuing() as compute:
            buffer = executor.pool.acquire(array.nbytes, purpose, compute)
            runtime.copy_from_host(buffer, values, compute)
            staging.uploaded = self._used(compute)
        return CudaTensor(array.shape, "float32", buffer, staging.uploaded, executor.pool)

    def _used(self, compute: runtime.Stream) -> runtime.Event:
        """Note that the work enqueued so far may use the memory; return an event that passes when it is done."""
        self._uses[:] = [compute.record()]
        return self._uses[0]

    def _stage(self, array: Float32) -> tuple[_Staging, NDArray[np.float32]]:
        """Copy an array into pinned memory whose last copy to the GPU is done."""
        staging = self._staging[0]
        self._staging.rotate()
        if staging.uploaded is not None:
            staging.uploaded.synchronize()
        if staging.memory is None or len(staging.memory.array) < array.nbytes:
            staging.memory = runtime.pinned(array.nbytes, "latents on their way to the GPU")
            self._memory.append(staging.memory)  # a smaller one stays in the list until `close`
        values = staging.memory.array[: array.nbytes].view(np.float32).reshape(array.shape)
        values[...] = array
        return staging, values


def _on_gpu(unconditional: Tensor | None, conditional: Tensor) -> tuple[CudaTensor | None, CudaTensor]:
    assert isinstance(conditional, CudaTensor)
    assert unconditional is None or isinstance(unconditional, CudaTensor)
    return unconditional, conditional
