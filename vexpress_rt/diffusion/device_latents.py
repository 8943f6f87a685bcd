"""Latents in a GPU's memory: noise goes there once, and from then on they are copied and computed on within it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.backends.base import Tensor
from vexpress_rt.backends.cuda import runtime
from vexpress_rt.backends.cuda.buffer_pool import free, when_dropped
from vexpress_rt.backends.cuda.executor import DeviceTensor, Executor
from vexpress_rt.diffusion.context_windows import Window
from vexpress_rt.diffusion.latents import Flight
from vexpress_rt.native.device_kernels import Kernels
from vexpress_rt.native.latent_step import Coefficients
from vexpress_rt.types import Float32
from vexpress_rt.utils.closable import Closable


class DeviceLatents:
    """`latents.Latents` on a GPU, in the slots of two buffers; all that is done with them enters `executor.compute`.

    executor, kernels: of the GPU that the denoiser runs on.  shape: of a frame's latent, (c, h, w).
    vectors: of `samplers.Sampler`; what is remembered lies behind the latents.
    Raises BackendError when there is no room.
    """

    resident = True

    def __init__(
        self, executor: Executor, kernels: Kernels, flight: Flight, shape: tuple[int, ...], vectors: int = 1
    ) -> None:
        self._executor = executor
        self._kernels = kernels
        self._flight = flight
        self._shape = shape
        self._values = math.prod(shape)
        self._bytes = 4 * self._values
        purpose = f"latents of {flight.slots} frames in flight"
        self._vectors = executor.spares.allocate(vectors * flight.slots * self._bytes, purpose)
        self._totals = executor.spares.allocate(flight.slots * self._bytes, purpose)
        self._pinned: runtime.Pinned | None = None
        self._uploaded: runtime.Event | None = None
        self._host_copy: runtime.Pinned | None = None
        self._uses: list[runtime.Event] = []  # the last one, which passes when nothing uses the memory any more
        self._memory: list[Closable] = [self._vectors, self._totals]
        self._free = when_dropped(self, free, self._memory, self._uses)

    def begin(self, first: int, noise: Float32) -> None:
        """Frames `first` and following begin, with `noise` (n, c, h, w) float32."""
        staging = self._staging(noise.nbytes).view(np.float32).reshape(noise.shape)
        staging[...] = noise
        with self._executor.entering() as compute:
            for frames, slots in self._flight.pieces(first, first + len(noise)):
                runtime.copy_in(self._vectors, staging[frames], compute, at=slots.start * self._bytes)
            self._uploaded = self._used(compute)

    def gather(self, window: Window) -> DeviceTensor:
        """A window's latents (F, c, h, w)."""
        return self._copied(window.start, window.stop, "latents of a window")

    def step(
        self,
        window: Window,
        unconditional: Tensor | None,
        conditional: Tensor,
        scale: float,
        coefficients: Coefficients,
    ) -> None:
        """As `latents.Latents` has it."""
        assert isinstance(conditional, DeviceTensor)
        assert unconditional is None or isinstance(unconditional, DeviceTensor)
        halves = [half for half in (unconditional, conditional) if half is not None]
        shares = self._flight.shares(window)
        with self._executor.entering() as compute:
            for half in halves:
                compute.wait(half.ready)
            self._kernels.guided_step(
                self._vectors,
                self._totals,
                None if unconditional is None else unconditional.buffer,
                conditional.buffer,
                values=self._values,
                slots=self._flight.slots,
                shares=shares,
                scale=scale,
                coefficients=coefficients,
                stream=compute,
            )
            done = self._used(compute)
        for half in halves:
            half.read_until(done)

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """See `latents.Latents.copy_to_host`. The copy follows all work that is enqueued before it."""
        size = (stop - start) * self._bytes
        if self._host_copy is None or len(self._host_copy.array) < size:
            self._host_copy = runtime.pinned(size, "latents of a window")
            self._memory.append(self._host_copy)  # a smaller one stays in the list until `close`
        values = self._host_copy.array[:size]
        with self._executor.entering() as compute:
            for frames, slots in self._flight.pieces(start, stop):
                piece = values[frames.start * self._bytes : frames.stop * self._bytes]
                runtime.copy_out(piece, self._vectors, compute, at=slots.start * self._bytes)
            done = self._used(compute)

        def copied() -> Float32:
            done.synchronize()
            return values.view(np.float32).reshape(stop - start, *self._shape)

        return copied

    def take(self, frame: int) -> DeviceTensor:
        """The latent (1, c, h, w) of a frame."""
        return self._copied(frame, frame + 1, "the latent of a frame")

    def close(self) -> None:
        """Free the slots, but not tensors that were given. Closing twice is allowed."""
        self._free()

    def _copied(self, start: int, stop: int, purpose: str) -> DeviceTensor:
        executor, size = self._executor, self._bytes
        with executor.entering() as compute:
            buffer = executor.spares.take((stop - start) * size, purpose, compute)
            for frames, slots in self._flight.pieces(start, stop):
                length, place = (frames.stop - frames.start) * size, frames.start * size
                runtime.copy_across(buffer, self._vectors, length, compute, to_byte=place, from_byte=slots.start * size)
            done = self._used(compute)
        return DeviceTensor((stop - start, *self._shape), "float32", buffer, done, executor.spares)

    def _used(self, compute: runtime.Stream) -> runtime.Event:
        """Note that what has entered so far may use the slots; passes when it is done."""
        self._uses[:] = [compute.record()]
        return self._uses[0]

    def _staging(self, size: int) -> NDArray[np.uint8]:
        """Pinned memory that nothing is copied from any more."""
        if self._uploaded is not None:
            self._uploaded.synchronize()
        if self._pinned is None or len(self._pinned.array) < size:
            self._pinned = runtime.pinned(size, "noise of a window")
            self._memory.append(self._pinned)  # a smaller one stays there until the end
        return self._pinned.array[:size]
