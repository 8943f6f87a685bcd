"""The 3x3x3 median filter: the reference implementation in NumPy, and the checks that C++ shares with it.

Source: docs/model/specification.md, stage 10.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vexpress_rt.errors import InputError
from vexpress_rt.types import UInt8

Median = Callable[[UInt8, UInt8, UInt8], UInt8]

TAPS = 3  # along time, rows and columns
_BAND_VALUES = 1 << 20  # values filtered at once, so that memory does not grow with the picture


def check_frames(name: str, frames: object, dims: tuple[str, ...]) -> UInt8:
    """Return `frames`, contiguous; raise InputError unless it is uint8 with these dims, 3 channels, and not empty.

    Args:
        name: Name of the argument, for the message.
        frames: The value found.
        dims: Names of the dims, for the message and for their number.
    """
    expected = f"a NumPy array ({', '.join(dims)}) uint8 with no dim of size 0"
    if not isinstance(frames, np.ndarray):
        raise InputError(f"{name} is of type {type(frames).__name__}; expected {expected}")
    if frames.dtype != np.uint8 or frames.ndim != len(dims) or frames.shape[-1] != 3 or frames.size == 0:
        raise InputError(
            f"{name} has shape {frames.shape} and dtype {frames.dtype}; expected {expected}: "
            "scale pictures to 0..255 and cast them before filtering"
        )
    return np.ascontiguousarray(frames)


def check_triple(previous: object, current: object, following: object) -> tuple[UInt8, UInt8, UInt8]:
    """Return three frames (H, W, 3) uint8, contiguous; raise InputError for other dtypes or shapes.

    Args:
        previous: The first frame.
        current: The middle frame.
        following: The frame after it.
    """
    named = {"previous": previous, "current": current, "following": following}
    first, middle, last = (check_frames(name, frame, ("H", "W", "3")) for name, frame in named.items())
    if not first.shape == middle.shape == last.shape:
        raise InputError(
            f"frames have shapes {first.shape}, {middle.shape} and {last.shape}; expected one shape for all three"
        )
    return first, middle, last


def median_3x3x3_numpy(previous: UInt8, current: UInt8, following: UInt8) -> UInt8:
    """Filter the middle one of three frames by the definition: partial sorts of 27 values. See `native.median_3x3x3`.

    Args:
        previous: (H, W, 3) uint8.
        current: (H, W, 3) uint8.
        following: (H, W, 3) uint8.

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: A frame has another shape or dtype.
    """
    triple = np.stack(check_triple(previous, current, following))
    padded = np.pad(triple, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    (windows,) = sliding_window_view(padded, (TAPS, TAPS, TAPS), axis=(0, 1, 2))  # (H, W, colours, time, rows, columns)
    height, width = current.shape[:2]
    filtered = np.empty_like(current)
    band = max(1, _BAND_VALUES // (3 * width))
    for top in range(0, height, band):
        values = windows[top : top + band].reshape(-1, width, 3, TAPS**3)
        filtered[top : top + band] = np.partition(values, TAPS**3 // 2, axis=-1)[..., TAPS**3 // 2]
    return filtered


def filter_clip(frames: object, median: Median) -> UInt8:
    """Apply `median` to every frame of a clip with its two neighbours; the clip is mirrored at its ends.

    Args:
        frames: (L, H, W, 3) uint8, L >= 1.
        median: Filters the middle one of three frames.

    Returns:
        (L, H, W, 3) uint8.

    Raises:
        InputError: `frames` has another shape or dtype.
    """
    clip = check_frames("frames", frames, ("L", "H", "W", "3"))
    last = len(clip) - 1
    filtered = np.empty_like(clip)
    for index, frame in enumerate(clip):
        before = abs(index - 1) if last else 0
        after = last - abs(last - index - 1) if last else 0
        filtered[index] = median(clip[before], frame, clip[after])
    return filtered


def median_filter_numpy(frames: UInt8) -> UInt8:
    """Filter every frame of a clip with `median_3x3x3_numpy`; see `native.median_filter`.

    Args:
        frames: (L, H, W, 3) uint8, L at least 1.
    """
    return filter_clip(frames, median_3x3x3_numpy)
