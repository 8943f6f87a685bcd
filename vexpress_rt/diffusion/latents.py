"""The latents of the frames in flight: their ring of slots, the protocol of latent stores, and the store on the host.

The store on a GPU is in `device_latents`. The arithmetic of a step is in `native.latent_step` for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from vexpress_rt.backends.base import Tensor
from vexpress_rt.diffusion.context_windows import Window, coverage, walk
from vexpress_rt.native.latent_step import (
    Coefficients,
    Correction,
    SlotUpdate,
    correct_predictions_numpy,
    guided_step_numpy,
)
from vexpress_rt.types import Float32


class LatentRing:
    """A ring of slots for the latents of the frames in flight. It computes indices and holds no memory.

    The frames in flight are those from the first window that has not ended to the last window that has begun, without
    gaps. Frame f has slot f mod `slots`, so the frames of a window are one contiguous piece of the slots, or two.

    Attributes:
        slots: Maximum number of frames in flight: in wavefront order those of about as many windows as there are steps,
            in step-major order all.
    """

    def __init__(self, windows: Sequence[Window], steps: int, window_order: str = "wavefront") -> None:
        """Count the frames in flight for `windows`, `steps` steps and an order of `context_windows.walk`."""
        stop = windows[-1].stop
        self._coverage = coverage(windows, stop)
        self._first = np.searchsorted([window.stop for window in windows], np.arange(stop), side="right")
        self.slots = _most_in_flight(windows, steps, window_order)

    def slot(self, frame: int) -> int:
        """Return the slot of a frame.

        Args:
            frame: Number of the frame in the video.
        """
        return frame % self.slots

    def pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Yield the contiguous pieces of frames [start, stop), at most `slots`: indices from `start`, and slots.

        Args:
            start: The first frame.
            stop: The frame after the last one.
        """
        done = 0
        while start + done < stop:
            slot = self.slot(start + done)
            count = min(stop - start - done, self.slots - slot)
            yield slice(done, done + count), slice(slot, slot + count)
            done += count

    def updates(self, window: Window) -> list[SlotUpdate]:
        """Return the update of each of a window's frames, the same in every step.

        Within a step, the windows that cover a frame run in order, so the window's index tells how many ran before it.

        Args:
            window: The window.
        """
        frames = range(window.start, window.stop)
        accumulated = (window.index - self._first[window.start : window.stop]).tolist()
        covering = self._coverage[window.start : window.stop].tolist()
        counts = zip(frames, accumulated, covering, strict=True)
        return [SlotUpdate(self.slot(frame), before, coverage) for frame, before, coverage in counts]


def _most_in_flight(windows: Sequence[Window], steps: int, window_order: str) -> int:
    most = ended = 0
    for window, step in walk(windows, steps, window_order):
        if step == 0:
            most = max(most, window.stop - windows[ended].start)
        if step == steps - 1:
            ended = window.index + 1
    return most


class Latents(Protocol):
    """A latent store: for each frame in flight its latent, its sampler state, and the sum of the step's predictions."""

    @property
    def keep_on_device(self) -> bool:
        """Whether the denoiser keeps its predictions on the device."""
        ...

    def write(self, first: int, latents: Float32) -> None:
        """Set the latents of consecutive frames.

        Args:
            first: The first frame.
            latents: (n, c, h, w) float32, such as the noise that frames begin with.
        """
        ...

    def gather(self, window: Window) -> Tensor:
        """Return a copy of a window's latents, (F, c, h, w) float32.

        Args:
            window: The window, whose frames are in the store.
        """
        ...

    def correct(
        self, unconditional: Tensor | None, conditional: Tensor, scale: float, correction: Correction
    ) -> Tensor:
        """Return guided predictions with a correction subtracted, (F, c, h, w) float32; the store does not change.

        Args:
            unconditional: (F, c, h, w) float32 from the denoiser, or None for no guidance.
            conditional: (F, c, h, w) float32 from the denoiser.
            scale: Guidance scale.
            correction: See `native.latent_step.Correction`.
        """
        ...

    def step(
        self,
        window: Window,
        unconditional: Tensor | None,
        conditional: Tensor,
        scale: float,
        coefficients: Coefficients,
    ) -> None:
        """Add a window's predictions to the totals of its frames; frames with all their predictions take the step.

        Args:
            window: The window.
            unconditional: (F, c, h, w) float32 from the denoiser, or None for no guidance.
            conditional: (F, c, h, w) float32 from the denoiser.
            scale: Guidance scale.
            coefficients: Coefficients of the step, from `samplers.Sampler`.
        """
        ...

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """Begin to copy the current latents of frames [start, stop) to the host.

        Args:
            start: The first frame.
            stop: The frame after the last one.

        Returns:
            A function that waits for the copy and returns it, (n, c, h, w) float32. Its memory belongs to the store:
            use it before the next `copy_to_host` and before `close`.
        """
        ...

    def take(self, frame: int) -> Tensor:
        """Return a copy of the final latent (1, c, h, w) float32 of a frame; afterwards the slot may be reused.

        Args:
            frame: Number of the frame in the video.
        """
        ...

    def close(self) -> None:
        """Free the store, but not the tensors that it returned. Closing twice is allowed."""
        ...


MakeLatents = Callable[[LatentRing, tuple[int, ...], int], Latents]  # ring, shape (c, h, w) of a latent, state size


class HostLatents:
    """The latent store in NumPy arrays; `Latents` documents the methods."""

    keep_on_device = False

    def __init__(self, ring: LatentRing, shape: tuple[int, ...], state_size: int = 1) -> None:
        """Allocate the slots.

        Args:
            ring: The slots of the frames in flight.
            shape: Shape of a frame's latent, (c, h, w).
            state_size: Elements of a frame's state, from `samplers.Sampler`.
        """
        self._ring = ring
        self._state = np.empty((state_size, ring.slots, *shape), np.float32)
        self._latents: Float32 = self._state[0]
        self._totals = np.empty_like(self._latents)

    def write(self, first: int, latents: Float32) -> None:
        """Copy the latents of consecutive frames into their slots."""
        for frames, slots in self._ring.pieces(first, first + len(latents)):
            self._latents[slots] = latents[frames]

    def gather(self, window: Window) -> Float32:
        """Return a copy of a window's latents."""
        return np.concatenate([self._latents[slots] for _, slots in self._ring.pieces(window.start, window.stop)])

    def correct(
        self, unconditional: Tensor | None, conditional: Tensor, scale: float, correction: Correction
    ) -> Float32:
        """Return corrected predictions; see `Latents.correct`."""
        return correct_predictions_numpy(*_arrays(unconditional, conditional), scale, correction)

    def step(
        self,
        window: Window,
        unconditional: Tensor | None,
        conditional: Tensor,
        scale: float,
        coefficients: Coefficients,
    ) -> None:
        """Add predictions and take the steps that are due; see `Latents.step`."""
        predictions = _arrays(unconditional, conditional)
        guided_step_numpy(self._state, self._totals, *predictions, self._ring.updates(window), scale, coefficients)

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """Return a function that returns the current latents; see `Latents.copy_to_host`."""
        pieces = [self._latents[slots] for _, slots in self._ring.pieces(start, stop)]
        return lambda: pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def take(self, frame: int) -> Float32:
        """Return a copy of a frame's final latent."""
        slot = self._ring.slot(frame)
        return self._latents[slot : slot + 1].copy()

    def close(self) -> None:
        """There is nothing to free."""


def _arrays(unconditional: Tensor | None, conditional: Tensor) -> tuple[Float32 | None, Float32]:
    assert isinstance(conditional, np.ndarray)
    assert unconditional is None or isinstance(unconditional, np.ndarray)
    return unconditional, conditional
