"""Where the latents of a video's frames are while it is denoised: what `denoise` asks of it, and the host's memory.

`latents_cuda` has them in a GPU's memory. What a step does to them is in neither: `native.guided_step` for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from vexpress_rt.backends.base import Tensor
from vexpress_rt.diffusion.context_windows import Window, coverage, walk
from vexpress_rt.native.latent_step import Coefficients, Share, guided_step_numpy
from vexpress_rt.types import Float32


class Flight:
    """Where the frames in flight lie, and which windows each has heard: pure counting, for any kind of memory.

    In flight are the frames from the first window that has not ended to the last one that has begun, without gaps. So
    frame f lies in slot f mod `slots`, and the frames of a window in one piece of the slots or in two.

    slots: as many as frames are ever in flight at once: in wavefront order those of about as many windows as there are
        steps, in breadth order all.
    """

    def __init__(self, windows: Sequence[Window], steps: int, schedule: str = "wavefront") -> None:
        stop = windows[-1].stop
        self._coverage = coverage(windows, stop)
        self._first = np.searchsorted([window.stop for window in windows], np.arange(stop), side="right")
        self.slots = _most_in_flight(windows, steps, schedule)

    def slot(self, frame: int) -> int:
        """Where a frame lies."""
        return frame % self.slots

    def pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Where frames start to stop - 1, no more than `slots`, lie: which of them, and in which slots."""
        done = 0
        while start + done < stop:
            slot = self.slot(start + done)
            count = min(stop - start - done, self.slots - slot)
            yield slice(done, done + count), slice(slot, slot + count)
            done += count

    def shares(self, window: Window) -> list[Share]:
        """The part of each of a window's frames in any step of it: within a step, windows come in their order."""
        frames = range(window.start, window.stop)
        heard = (window.index - self._first[window.start : window.stop]).tolist()
        covering = self._coverage[window.start : window.stop].tolist()
        return [Share(self.slot(frame), *counts) for frame, *counts in zip(frames, heard, covering, strict=True)]


def _most_in_flight(windows: Sequence[Window], steps: int, schedule: str) -> int:
    most = ended = 0
    for window, step in walk(windows, steps, schedule):
        if step == 0:
            most = max(most, window.stop - windows[ended].start)
        if step == steps - 1:
            ended = window.index + 1
    return most


class Latents(Protocol):
    """The latents of the frames in flight, what the sampler remembers of each, and the sums of their predictions in the
    step that each is in.

    resident: whether predictions are to stay where the engine computes them.
    """

    @property
    def resident(self) -> bool: ...

    def begin(self, first: int, noise: Float32) -> None:
        """Frames `first` and following begin, with `noise` (n, c, h, w)."""
        ...

    def gather(self, window: Window) -> Tensor:
        """A window's latents (F, c, h, w) float32."""
        ...

    def step(
        self,
        window: Window,
        unconditional: Tensor | None,
        conditional: Tensor,
        scale: float,
        coefficients: Coefficients,
    ) -> None:
        """Add a window's predictions (F, c, h, w); frames that all their windows cover by now take their step.

        unconditional: None for no guidance, else `scale` is that of it.  coefficients: of `samplers.Sampler`.
        """
        ...

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """Begin to copy the current latents of frames [start, stop) to the host.

        Returns:
            A function that waits for the copy and returns it, (n, c, h, w) float32. Call it before the next
            `copy_to_host` and before `close`.
        """
        ...

    def take(self, frame: int) -> Tensor:
        """The latent (1, c, h, w) of a frame, which does not change any more; its slot is free then."""
        ...

    def close(self) -> None:
        """Free what it holds, but not what it gave. Closing twice is allowed."""
        ...


MakeLatents = Callable[[Flight, tuple[int, ...], int], Latents]  # shape of a frame's latent, (c, h, w); vectors


class HostLatents:
    """`Latents` in NumPy arrays.

    shape: of a frame's latent, (c, h, w).  vectors: of `samplers.Sampler`; what is remembered lies beside the latents.
    """

    resident = False

    def __init__(self, flight: Flight, shape: tuple[int, ...], vectors: int = 1) -> None:
        self._flight = flight
        self._vectors = np.empty((vectors, flight.slots, *shape), np.float32)
        self._latents: Float32 = self._vectors[0]
        self._totals = np.empty_like(self._latents)

    def begin(self, first: int, noise: Float32) -> None:
        """Frames `first` and following begin, with `noise` (n, c, h, w)."""
        for frames, slots in self._flight.pieces(first, first + len(noise)):
            self._latents[slots] = noise[frames]

    def gather(self, window: Window) -> Float32:
        """A window's latents (F, c, h, w), copied."""
        return np.concatenate([self._latents[slots] for _, slots in self._flight.pieces(window.start, window.stop)])

    def step(
        self,
        window: Window,
        unconditional: Tensor | None,
        conditional: Tensor,
        scale: float,
        coefficients: Coefficients,
    ) -> None:
        """As `Latents` has it."""
        assert isinstance(conditional, np.ndarray)
        assert unconditional is None or isinstance(unconditional, np.ndarray)
        shares = self._flight.shares(window)
        guided_step_numpy(self._vectors, self._totals, unconditional, conditional, shares, scale, coefficients)

    def copy_to_host(self, start: int, stop: int) -> Callable[[], Float32]:
        """See `Latents.copy_to_host`."""
        pieces = [self._latents[slots] for _, slots in self._flight.pieces(start, stop)]
        return lambda: pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def take(self, frame: int) -> Float32:
        """The latent (1, c, h, w) of a frame, copied."""
        slot = self._flight.slot(frame)
        return self._latents[slot : slot + 1].copy()

    def close(self) -> None:
        """There is nothing to free."""
