"""Context windows: the frames of each window, how many windows cover a frame, and the order in which windows run.

A video of L frames is denoised in windows of F frames. In each step, the prediction of a frame is the mean over the
windows that cover it. Therefore a window may run step s only after every window that shares a frame with it has run
step s - 1. `walk` yields two orders that respect this.

Source: docs/model/specification.md, stage 9.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import STEP_MAJOR, WINDOW_ORDERS, check_choice
from vexpress_rt.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) of the video.

    Attributes:
        index: Number of the window in the plan, from 0.
        start: First frame.
        stop: Frame after the last one; beyond the end of a video that is shorter than a window.
    """

    index: int
    start: int
    stop: int


def plan_windows(length: int, frames: int, overlap: int) -> tuple[Window, ...]:
    """Return windows that cover a video, each `frames - overlap` frames after the one before.

    The last window is moved back so that it ends at the last frame; it may then overlap its neighbours by more. A video
    that fits into one window gets the window [0, frames), and frames beyond the video are dropped in the end.

    Args:
        length: Frames of the video, at least 1.
        frames: Frames of a window.
        overlap: Minimum number of frames that neighbouring windows share, 0 <= overlap < frames.

    Raises:
        ConfigError: `length` or `overlap` is out of range.
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
    """Return how many windows cover each frame of the video: (length,) int64, at least 1.

    Args:
        windows: The windows, from `plan_windows`.
        length: Number of frames of the video.
    """
    edges = np.zeros(length + 1, np.int64)
    for window in windows:
        edges[window.start] += 1
        edges[min(window.stop, length)] -= 1
    return np.cumsum(edges[:-1])


def final_frames(windows: Sequence[Window], length: int) -> tuple[range, ...]:
    """Return for each window the frames of the video that are final after its last step, in either order.

    These are the window's frames that no later window covers. Together, the ranges are 0 to length - 1, in order.

    Args:
        windows: The windows, from `plan_windows`.
        length: Number of frames of the video.
    """
    bounds = [*(window.start for window in windows), length]
    return tuple(range(start, stop) for start, stop in pairwise(bounds))


def walk(windows: Sequence[Window], steps: int, window_order: str = "wavefront") -> Iterator[tuple[Window, int]]:
    """Yield every (window, step) once, step from 0, in an order that respects the dependencies.

    When (window, s) is yielded, every window that shares a frame with it has run step s - 1, and the earlier ones of
    these windows have run step s too. So the predictions of a frame arrive step by step and, within a step, in the
    order of the windows: sums are bit-identical in both orders, and one accumulator per frame is enough.

    Args:
        windows: The windows, from `plan_windows`.
        steps: Number of steps, at least 1.
        window_order: "step_major" runs each step over all windows before the next, so that the whole video is in
            flight. "wavefront" always runs the earliest window that may run. Let m be the number of later windows that
            a window overlaps. After the first step of window k, window k - m runs its second step, window k - 2m its
            third, and so on; then window k + 1 begins. No order makes a frame final earlier: until then, only the
            window-steps have run that this frame and the frames before it depend on. At most m (steps - 1) + 1
            windows are in flight, with m = ceil(F / (F - overlap)) - 1: 0 without overlap, 1 for an overlap of 1 to
            F / 2. At the end of the video one more window can be in flight, because the last window, moved back, can
            overlap m + 1 earlier ones.

    Raises:
        ConfigError: `window_order` is unknown, or `steps` is less than 1.
    """
    check_choice("window_order", window_order, WINDOW_ORDERS)
    if steps < 1:
        raise ConfigError(f"steps is {steps}; expected at least 1")
    if window_order == STEP_MAJOR:
        return ((window, step) for step in range(steps) for window in windows)
    return _wavefront(windows, steps)


def _wavefront(windows: Sequence[Window], steps: int) -> Iterator[tuple[Window, int]]:
    neighbours = _neighbours(windows)
    done = [0] * len(windows)

    def may_run(k: int) -> bool:
        return done[k] < steps and all(done[other] >= done[k] for other in neighbours[k])

    # Proof of the promise in `walk`: the earliest candidate runs first, so `done` never rises along the windows, and a
    # window that blocks an earlier neighbour of k overlaps k too. So when k may run, its earlier neighbours are a step
    # ahead of it.
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
    """Return for each window the indices of the windows that share a frame with it, itself included; consecutive."""
    ranges, first, last = [], 0, 0
    for window in windows:
        while windows[first].stop <= window.start:
            first += 1
        while last < len(windows) and windows[last].start < window.stop:
            last += 1
        ranges.append(range(first, last))
    return ranges
