"""Frames while the video is still being made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from fractions import Fraction
from typing import Self

from vexpress_rt.errors import InputError
from vexpress_rt.types import Float32, UInt8
from vexpress_rt.utils.stopwatch import Stopwatch


class _EndedError(BaseException):
    """Ends the work on a frame that nobody wants any more; never seen by a caller."""


class ProgressReporter:
    """Tells how far each stage of a video has come, and ends the work after a step if it was asked to meanwhile.

    progress: the caller's: stage, done, total.
    ended: whether no further step is wanted.
    """

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self._progress = progress
        self.ended = False

    def __call__(self, stage: str, done: int, total: int) -> None:
        try:
            self._progress(stage, done, total)
        except StopIteration as error:  # from `next`, it would say that all frames were given
            raise RuntimeError(f"progress raised StopIteration at {stage} {done} of {total}") from error
        if self.ended:
            raise _EndedError


class FrameStream:
    """The frames of a video, in order, each as soon as it is final: what `Generator.stream` gives.

    with generator.stream("portrait.png", "speech.wav") as frames:
        for frame in frames:
            show(frame, at=frames.time)

    An iterator of (H, W, 3) uint8 RGB arrays, which the caller may keep and change. Each is computed when it is asked
    for, and nothing ahead: who asks for frames in a thread of its own decides how many may wait.

    fps: frames a second, exact.  length: number of frames, L; known from the start, since all of the speech is.
    keypoints: (L, 3, 2) float32, where the face is asked to be, in pixels of the video (left eye, right eye, nose).
    notes: what was decided where the caller left a choice.
    done: frames given so far.

    Several streams of one generator may be open at once, and be asked by turns; a stream may be asked and closed from
    any thread, which waits while another is at it. `progress` may close it, too: it ends after the step that was told.
    Close a stream before its generator: afterwards it raises BackendError. What goes wrong while a frame is made, and
    what `progress` raises, comes out of `next`; the stream is closed then.
    """

    def __init__(
        self,
        frames: Generator[UInt8, None, None],
        *,
        fps: Fraction,
        keypoints: Float32,
        notes: tuple[str, ...],
        watch: Stopwatch,
        telling: ProgressReporter,
    ) -> None:
        self.fps = fps
        self.length = len(keypoints)
        self.keypoints = keypoints
        self.notes = notes
        self.done = 0
        self._frames = frames
        self._watch = watch
        self._telling = telling
        self._working = False
        self._final: Mapping[str, float] | None = None
        self._lock = threading.RLock()

    @property
    def time(self) -> Fraction:
        """When the frame given last is to be shown: (done - 1) / fps seconds after the speech begins; 0 before any."""
        return max(self.done - 1, 0) / self.fps

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds so far by stage, as `Video` has them, and `total` since the call, the caller's own time included."""
        return self._watch.finish() if self._final is None else self._final

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> UInt8:
        """The next frame. Raises StopIteration after the last, and when the stream is closed; InputError if `progress`
        asks for it while one is made; else as `stream` says.
        """
        with self._lock:
            if self._working:
                raise InputError(
                    f"frame {self.done + 1} of the stream was asked for while frame {self.done} is made; expected one "
                    "at a time: ask for it after `progress` has returned"
                )
            frame = self._work()
            if self._telling.ended or frame is None:
                self.close()
                raise StopIteration
            self.done += 1
            return frame

    def close(self) -> None:
        """Free what the stream holds; there are no more frames then. Closing twice is allowed.

        It is freed at once, but by `progress`, within whose step it is still needed, after that step.
        """
        with self._lock:
            self._telling.ended = True
            if not self._working:
                self._frames.close()
                self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _work(self) -> UInt8 | None:
        """The next frame; None if there is none, or it is not wanted any more."""
        self._working = True
        try:
            return next(self._frames, None)
        except _EndedError:
            return None
        except BaseException:
            self._finish()
            raise
        finally:
            self._working = False

    def _finish(self) -> None:
        if self._final is None:
            self._final = self._watch.finish()
