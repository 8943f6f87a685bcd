"""Which frames make a window, how often a frame is covered, and in which order windows may be walked.

A video of L frames is denoised in windows of F frames (model page, stage 9). In a step every frame's prediction is
the mean over the windows that cover it, so a window may start step s only when every window that it shares a frame
with has done step s - 1. `walk` gives two orders that respect this.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import WINDOW_ORDERS, check_choice
from vexpress_rt.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Frames start to stop - 1 of the video; `index` is the window's place in the plan."""

    index: int
    start: int
    stop: int


def plan_windows(length: int, frames: int, overlap: int) -> tuple[Window, ...]:
    """Windows of `frames` frames that cover a video of `length` frames, each `frames - overlap` after the one before.

    The last window is moved back to end at the last frame, so it may overlap its neighbours by more. A video that
    fits into one window gets the one window [0, frames); its frames beyond the video are surplus, to be dropped.

    Raises ConfigError unless length >= 1 and 0 <= overlap < frames.
    """
    if length < 1 or not 0 <= overlap < frames:
        raise ConfigError(
            f"windows of {frames} frames with an overlap of {overlap} over a video of {length} frames; "
            "expected a video of at least 1 frame, and an overlap of at least 0 and less than the window"
        )
    last = max(length - frames, 0)
    starts = [*range(0, last, frames - overlap), last]
    return tuple(Window(index, start, start + frames) for index, start in enumerate(starts))


def coverage(windows: Sequence[Window], length: int) -> NDArray[np.int64]:
    """How many windows cover each frame of the video: (length,) int64, nowhere less than 1."""
    edges = np.zeros(length + 1, np.int64)
    for window in windows:
        edges[window.start] += 1
        edges[min(window.stop, length)] -= 1
    return np.cumsum(edges[:-1])


def final_frames(windows: Sequence[Window], length: int) -> tuple[range, ...]:
    """For each window, the frames of the video that become final when it has done its last step, in either order.

    These are its frames that no later window covers. Taken window by window they are 0 to length - 1, in order.
    """
    bounds = [*(window.start for window in windows), length]
    return tuple(range(start, stop) for start, stop in pairwise(bounds))


def walk(windows: Sequence[Window], steps: int, window_order: str = "wavefront") -> Iterator[tuple[Window, int]]:
    """Every (window, step) once, step from 0, in an order in which they may run.

    In both orders, when (window, s) is given, every window that shares a frame with it has done step s - 1, and the
    earlier ones of them step s too. So at each frame predictions arrive step by step and, within a step, in the order
    of the windows: sums are bit-identical between the orders, and one accumulator a frame is enough.

    step_major: each step over all windows, then the next: the whole video is in flight.
    wavefront: always the earliest window that may run. After window k's first step, k - m does its second, k - 2m
        its third, and so on, m being how many later windows a window overlaps; then window k + 1 begins. Frames become
        final as early as the dependencies allow, and at most m (steps - 1) + 1 windows have begun and not ended, with
        m = ceil(F / (F - overlap)) - 1: 0 without overlap, 1 for an overlap of 1 to F/2. At the video's end it can be
        one more, because the last window, moved back, can overlap m + 1 earlier ones.

    Raises ConfigError for an unknown order or fewer than 1 step.
    """
    check_choice("window_order", window_order, WINDOW_ORDERS)
    if steps < 1:
        raise ConfigError(f"steps is {steps}; expected at least 1")
    if window_order == "step_major":
        return ((window, step) for step in range(steps) for window in windows)
    return _wavefront(windows, steps)


def _wavefront(windows: Sequence[Window], steps: int) -> Iterator[tuple[Window, int]]:
    neighbours = _neighbours(windows)
    done = [0] * len(windows)

    def may_run(k: int) -> bool:
        return done[k] < steps and all(done[other] >= done[k] for other in neighbours[k])

    # The earliest candidate goes first, so `done` never rises along the windows; and what holds an earlier neighbour
    # of k back overlaps k too. Hence whenever k may run, its earlier neighbours are a step ahead of it.
    candidates = [0]
    while candidates:
        k = heapq.heappop(candidates)
        if not may_run(k):
            continue
        yield windows[k], done[k]
        done[k] += 1
        for other in neighbours[k]:
            heapq.heappush(candidates, other)
        if done[k] == 1 and k + 1 < len(windows):
            heapq.heappush(candidates, k + 1)


def _neighbours(windows: Sequence[Window]) -> list[range]:
    """For each window the indices of those that share a frame with it, itself among them: always consecutive."""
    ranges, first, last = [], 0, 0
    for window in windows:
        while windows[first].stop <= window.start:
            first += 1
        while last < len(windows) and windows[last].start < window.stop:
            last += 1
        ranges.append(range(first, last))
    return ranges
