"""Compare the openness of the mouth in the frames with that expected from the sound."""

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
    """Return `mouth_opening` of each of L frames, (L,); NaN where the detector finds no face."""
    return np.array([_opening(frame, find_faces(frame)) for frame in frames])


def _opening(frame: UInt8, found: list[Face]) -> float:
    return mouth_opening(frame, largest_face(found).keypoints[:3]) if found else np.nan


def agreement(heard: Curve, seen: Curve) -> float:
    """Return the correlation of two curves over the frames where both are known; NaN if one is constant."""
    known = np.isfinite(heard) & np.isfinite(seen)
    if known.sum() < 2 or min(np.ptp(heard[known]), np.ptp(seen[known])) == 0:
        return float("nan")
    return float(np.corrcoef(heard[known], seen[known])[0, 1])


def moments(heard: Curve, pairs: int) -> list[int]:
    """Choose at most 2 x `pairs` frames: open mouths, and the most closed mouth between each and the next.

    Open mouths are the highest peaks of the curve that are at least L / (2 x `pairs`) frames apart.
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
    """Return the middle of the frames where a curve is lowest."""
    lowest = np.flatnonzero(piece == piece.min())
    return int(lowest[len(lowest) // 2])
