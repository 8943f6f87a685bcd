"""Do the lips follow the sound? Openness heard in it against openness seen in the frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.pocket.faces import mouth_opening
from vexpress_rt.face.detector import largest_face
from vexpress_rt.types import Face, UInt8

FaceFinder = Callable[[UInt8], list[Face]]
Curve = NDArray[np.floating[Any]]  # (L,), by frame


def openings(frames: Iterable[UInt8], find_faces: FaceFinder) -> Curve:
    """`mouth_opening` in each of L frames, (L,), where the detector finds the face in it; NaN where it finds none."""
    return np.array([_opening(frame, find_faces(frame)) for frame in frames])


def _opening(frame: UInt8, found: list[Face]) -> float:
    return mouth_opening(frame, largest_face(found).keypoints[:3]) if found else np.nan


def agreement(heard: Curve, seen: Curve) -> float:
    """Correlation of two curves over the frames where both are known; NaN where one does not vary."""
    known = np.isfinite(heard) & np.isfinite(seen)
    if known.sum() < 2 or min(np.ptp(heard[known]), np.ptp(seen[known])) == 0:
        return float("nan")
    return float(np.corrcoef(heard[known], seen[known])[0, 1])


def moments(heard: Curve, pairs: int) -> list[int]:
    """At most 2 x `pairs` frames in rising order: open mouths, and after each the most closed one before the next.

    Of the curve's peaks the highest, none nearer to another than half an even share of the time.
    """
    padded = np.pad(heard, 1, constant_values=-np.inf)
    peaks = np.flatnonzero((heard > padded[:-2]) & (heard >= padded[2:]))
    opened: list[int] = []
    for peak in peaks[np.argsort(-heard[peaks], kind="stable")].tolist():
        if all(abs(peak - other) * 2 * pairs >= len(heard) for other in opened):
            opened.append(peak)
    opened = sorted(opened[:pairs])
    ends = [*opened[1:], len(heard)]
    closed = [start + _lowest(heard[start:end]) for start, end in zip(opened, ends, strict=True)]
    return sorted({*opened, *closed})


def _lowest(piece: Curve) -> int:
    """The middle of where a curve is lowest."""
    lowest = np.flatnonzero(piece == piece.min())
    return int(lowest[len(lowest) // 2])
