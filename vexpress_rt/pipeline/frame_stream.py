"""Frames of a video while it is generated: `FrameStream`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from fractions import Fraction
from typing import Self

from vexpress_rt.errors import InputError
from vexpress_rt.types import Float32, UInt8
from vexpress_rt.utils.stopwatch import Stopwatch


class _EndedError(BaseException):
    """Raised to end the work on a frame after the stream was closed. Callers never see it."""


class ProgressReporter:
    """Calls the caller's progress callback, and ends the work after the current step if the stream was closed.

    Args:
        progress: The callback: stage, steps done, total steps.

    Attributes:
        ended: Whether the stream was closed.
    """

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self._progress = progress
        self.ended = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage.

        Args:
            stage: Name of the stage.
            done: Number of steps done.
            total: Number of steps.

        Raises:
            RuntimeError: The callback raised StopIteration.
        """
        try:
            self._progress(stage, done, total)
        except StopIteration as error:  # raised by `next`, it would mean the end of the frames
            raise RuntimeError(f"progress raised StopIteration at {stage} {done} of {total}") from error
        if self.ended:
            raise _EndedError


class FrameStream:
    """An iterator of the frames of a video in order, each as soon as it is final: the result of `Generator.stream`.

        with generator.stream("portrait.png", "speech.wav") as frames:
            for frame in frames:
                show(frame, at=frames.time)

    Frames are (H, W, 3) uint8 RGB, each a new array. A frame is computed when it is requested. To compute ahead,
    request frames in a thread and put them into a queue.

    Several streams of one generator can be open, and frames requested from them in any order. A stream can be used and
    closed from any thread; calls wait for each other. The progress callback can close its stream, which then ends after
    the current step. Close a stream before its generator; otherwise its next frame raises BackendError. An exception
    while a frame is computed, the progress callback's included, is raised by `next` and closes the stream.

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
        report: ProgressReporter,
    ) -> None:
        self.fps = fps
        self.length = length
        self.keypoints = keypoints
        self.notes = notes
        self.done = 0
        self._frames = frames
        self._stopwatch = stopwatch
        self._report = report
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
        with self._lock:
            if self._computing:
                raise InputError(
                    f"frame {self.done + 1} of the stream was requested while frame {self.done} is computed; expected "
                    "one at a time: request it after `progress` has returned"
                )
            frame = self._next_frame()
            if self._report.ended or frame is None:
                self.close()
                raise StopIteration
            self.done += 1
            return frame

    def close(self) -> None:
        """End the stream and free its memory; closing twice is allowed.

        A progress callback that closes its stream returns first; the memory is freed after the current step.
        """
        with self._lock:
            self._report.ended = True
            if not self._computing:
                self._frames.close()
                self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _next_frame(self) -> UInt8 | None:
        """Compute the next frame; return None after the last one, and if the stream was closed meanwhile."""
        self._computing = True
        try:
            return next(self._frames, None)
        except _EndedError:
            return None
        except BaseException:
            self._finish()
            raise
        finally:
            self._computing = False

    def _finish(self) -> None:
        if self._final is None:
            self._final = self._stopwatch.finish()
