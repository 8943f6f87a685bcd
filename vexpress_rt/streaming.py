"""Frames while the video is still being made."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from fractions import Fraction
from typing import Self

from vexpress_rt.records import Float32, UInt8
from vexpress_rt.timings import Stopwatch


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
    any thread, which waits while another is at it. Close a stream before its generator: afterwards it raises
    BackendError. What goes wrong while a frame is made, and what `progress` raises, comes out of `next`; the stream is
    closed then.
    """

    def __init__(
        self,
        frames: Generator[UInt8, None, None],
        *,
        fps: Fraction,
        keypoints: Float32,
        notes: tuple[str, ...],
        watch: Stopwatch,
    ) -> None:
        self.fps = fps
        self.length = len(keypoints)
        self.keypoints = keypoints
        self.notes = notes
        self.done = 0
        self._frames = frames
        self._watch = watch
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
        """The next frame. Raises StopIteration after the last, and when the stream is closed; else as `stream` says."""
        with self._lock:
            try:
                frame = next(self._frames)
            except BaseException:
                self._finish()
                raise
            self.done += 1
            return frame

    def close(self) -> None:
        """Free what the stream holds, at once; there are no more frames then. Closing twice is allowed."""
        with self._lock:
            self._frames.close()
            self._finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _finish(self) -> None:
        if self._final is None:
            self._final = self._watch.finish()
