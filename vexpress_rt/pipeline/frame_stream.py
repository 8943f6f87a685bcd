"""Frames of a video while it is generated: `FrameStream`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import NoReturn, Self

from vexpress_rt.errors import CancelledError, InputError
from vexpress_rt.types import Float32, UInt8
from vexpress_rt.utils.cancellation import CancelToken, cancellable, check_cancelled
from vexpress_rt.utils.process_bound import refuse_pickling
from vexpress_rt.utils.stopwatch import Stopwatch


class WorkControl:
    """What the caller of a video hears of its work, and how the caller ends it.

    Args:
        progress: The progress callback: stage, steps done, total steps.
        cancel: Tells that the caller cancelled the work; None if the caller cannot.
    """

    def __init__(self, progress: Callable[[str, int, int], None], cancel: CancelToken | None = None) -> None:
        self._progress = progress
        self._cancel = cancel
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether the work was ended, by `end` or by the caller's token."""
        return self._ended or (self._cancel is not None and self._cancel.is_set())

    def end(self) -> None:
        """End the work before its next engine call."""
        self._ended = True

    def running(self) -> AbstractContextManager[None]:
        """Return a context manager around the work, in which `check_cancelled` raises CancelledError once it ended."""
        return cancellable(lambda: self.ended)

    def report(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage.

        Args:
            stage: Name of the stage.
            done: Number of steps done.
            total: Number of steps.

        Raises:
            RuntimeError: The callback raised StopIteration.
            CancelledError: The work was ended, perhaps by the callback.
        """
        try:
            self._progress(stage, done, total)
        except StopIteration as error:  # raised by `next`, it would mean the end of the frames
            raise RuntimeError(f"progress raised StopIteration at {stage} {done} of {total}") from error
        check_cancelled()


class FrameStream:
    """An iterator of the frames of a video in order, each as soon as it is final: the result of `Generator.stream`.

        with generator.stream("portrait.png", "speech.wav") as frames:
            for frame in frames:
                show(frame, at=frames.time)

    Frames are (H, W, 3) uint8 RGB, each a new array. A frame is computed when it is requested. To compute ahead,
    request frames in a thread and put them into a queue.

    Several streams of one generator can be open, and frames requested from them in any order. A stream can be used from
    any thread; requests of frames wait for each other. `cancel` and `close` end it from any thread, the progress
    callback's included, even while a frame is computed: at most one engine call later. Close a stream before its
    generator; otherwise its next frame raises BackendError. An exception while a frame is computed, the progress
    callback's included, is raised by `next` and closes the stream.

    Attributes:
        fps: Frames per second, exactly.
        length: Number of frames, L.
        keypoints: (L, 3, 2) float32, target keypoints in pixels of the video: left eye, right eye, nose; (0, 3, 2) for
            a video without keypoints.
        notes: Repairs of the inputs, and choices that were left to the generator.
        done: Number of frames returned so far.
    """

    def __init__(
        self,
        frames: Generator[UInt8, None, None],
        *,
        fps: Fraction,
        length: int,
        keypoints: Float32,
        notes: tuple[str, ...],
        stopwatch: Stopwatch,
        control: WorkControl,
    ) -> None:
        self.fps = fps
        self.length = length
        self.keypoints = keypoints
        self.notes = notes
        self.done = 0
        self._frames = frames
        self._stopwatch = stopwatch
        self._control = control
        self._computing = False
        self._final: Mapping[str, float] | None = None
        self._lock = threading.RLock()

    @property
    def time(self) -> Fraction:
        """The presentation time of the last frame in seconds, (done - 1) / fps; 0 before the first frame."""
        return max(self.done - 1, 0) / self.fps

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds by stage, as in `Video.timings`, and `total` since the call, which includes the caller's own time."""
        return self._stopwatch.finish() if self._final is None else self._final

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> UInt8:
        """Return the next frame.

        Raises:
            StopIteration: All frames were returned, or the stream is closed.
            InputError: The progress callback requested a frame while one is computed.
            VExpressError: As described in `Generator.stream`.
        """
        try:
            with self._lock:
                if self._computing:
                    raise InputError(
                        f"frame {self.done + 1} of the stream was requested while frame {self.done} is computed; "
                        "expected one at a time: request it after `progress` has returned"
                    )
                frame = self._next_frame()
                if self._control.ended or frame is None:
                    self.close()
                    raise StopIteration
                self.done += 1
                return frame
        finally:
            if self._control.ended:  # perhaps by `cancel` while this thread held the lock
                self.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether the stream was cancelled or closed before its last frame."""
        return self._control.ended and self.done < self.length

    def cancel(self) -> None:
        """End the stream without waiting: a thread that computes a frame ends after its current engine call.

        The frames of the stream end (StopIteration), in that thread as well, and its memory is freed by then.
        """
        self._control.end()
        if self._lock.acquire(blocking=False):  # otherwise the thread that computes frees the memory
            try:
                self._free()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the stream, wait for the current engine call of a thread that computes, and free its memory.

        Closing twice is allowed. A progress callback that closes its stream does not wait: it returns first.
        """
        self._control.end()
        with self._lock:
            self._free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        refuse_pickling(self, "send its frames, which are NumPy arrays")

    def _next_frame(self) -> UInt8 | None:
        """Compute the next frame; return None after the last one, and if the stream was ended meanwhile."""
        self._computing = True
        try:
            with self._control.running():
                return next(self._frames, None)
        except CancelledError:
            return None
        except BaseException:
            self._finish()
            raise
        finally:
            self._computing = False

    def _free(self) -> None:
        """Free the memory, unless the progress callback of a frame that is computed asks for it."""
        if not self._computing:
            self._frames.close()
            self._finish()

    def _finish(self) -> None:
        if self._final is None:
            self._final = self._stopwatch.finish()
