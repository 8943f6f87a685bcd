"""The times at which the frames of a live session are due, by which lateness is measured.

A frame is due one frame after the frame before it, but not before the sound has arrived that a window beginning with it
needs. These are the times at which a player that never waits for computation would play it: with speech that arrives in
real time, and with speech that arrives faster than it is played. Frames that are pulled ahead of their times are not
late.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction


class PlaybackClock:
    """Keeps the due times of the frames that were not pulled. All times are seconds on the clock of the session.

    Not thread-safe: the owner must hold a lock.
    """

    def __init__(self, fps: Fraction) -> None:
        """Begin before the first frame.

        Args:
            fps: Frames per second.
        """
        self._duration = float(1 / fps)
        self._earliest = -math.inf  # one frame after the last pulled frame was due
        self._arrivals: deque[tuple[int, float]] = deque()  # frames before the first can be made since the second

    def arrive(self, stop: int, now: float) -> None:
        """Note that the sound for all frames before `stop` has arrived.

        Args:
            stop: Number of a frame; no effect unless it is larger than in all earlier calls since `restart`.
            now: The time.
        """
        if not self._arrivals or stop > self._arrivals[-1][0]:
            self._arrivals.append((stop, now))

    def delay(self, frame: int, now: float) -> float:
        """Return by how many seconds the next frame is late; 0 if it is not, or if its sound has not arrived.

        Args:
            frame: The next frame to be pulled.
            now: The time.
        """
        due = self._due(frame)
        return 0.0 if due is None else max(0.0, now - due)

    def overdue(self, frame: int, now: float) -> int:
        """Return how many frames, from the next one on, were due before `now`.

        Args:
            frame: The next frame to be pulled.
            now: The time.
        """
        begin, due = frame, self._earliest
        for stop, arrival in self._arrivals:
            if stop <= frame:
                continue
            due = max(due, arrival)
            count = min(stop - frame, max(0, math.ceil((now - due) / self._duration)))
            frame, due = frame + count, due + count * self._duration
            if frame < stop:
                break
        return frame - begin

    def pulled(self, frame: int) -> None:
        """Go on to the frame after `frame`.

        Args:
            frame: The next frame, which was pulled or skipped.
        """
        due = self._due(frame)
        self._earliest = (self._earliest if due is None else due) + self._duration
        while len(self._arrivals) > 1 and self._arrivals[0][0] <= frame + 1:
            self._arrivals.popleft()

    def restart(self) -> None:
        """Forget all times: the next frame is due when its sound arrives."""
        self._earliest = -math.inf
        self._arrivals.clear()

    def _due(self, frame: int) -> float | None:
        """Return the time at which the next frame is due; None if its sound has not arrived."""
        return next((max(self._earliest, arrival) for stop, arrival in self._arrivals if stop > frame), None)
