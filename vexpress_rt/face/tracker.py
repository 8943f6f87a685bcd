"""Tracking of one face through the frames of a driving video."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.errors import NoFaceError
from vexpress_rt.face.detector import DETECTION_SIZE, largest_face, similar_faces_note
from vexpress_rt.types import Face, KeypointTrack, name_frames

LONGEST_GAP = Fraction(1, 2)  # seconds without a face that are interpolated


def track_faces(
    found: Iterable[Sequence[Face]], fps: Fraction, size: tuple[int, int], needed: int | None = None
) -> KeypointTrack:
    """Track one face through a driving video.

    The track starts with the largest face of the first frame that has one, and continues in each later frame with the
    face nearest to its last position. A note of the track says if another face of that first frame has a similar size.
    Gaps of at most LONGEST_GAP are interpolated linearly; at the ends, the nearest detected face is held.

    Args:
        found: The faces of each frame.
        fps: Frames per second of the video.
        size: (height, width) of the frames in pixels.
        needed: Number of frames that will be used; None for all. Gaps that begin after them are not checked.

    Raises:
        NoFaceError: No frame has a face, or a gap is longer than LONGEST_GAP. The message names the frames.
    """
    seen: list[int] = []
    points: list[NDArray[np.float64]] = []
    count = 0
    last: Face | None = None
    notes: tuple[str, ...] = ()
    for frame, faces in enumerate(found):
        count = frame + 1
        if faces:
            if last is None:
                notes = similar_faces_note(faces, "driving video")
            last = largest_face(faces) if last is None else _nearest(faces, last)
            seen.append(frame)
            points.append(last.keypoints[:3].astype(np.float64))
    if not seen:
        raise NoFaceError(
            f"no face was found in any of the driving video's {count} frames of {size[1]} x {size[0]} pixels (width x "
            f"height), searched scaled to {DETECTION_SIZE}; expected one in nearly every frame: take a video that is "
            "upright and shows a face from the front, crop it closer around the face, or give keypoints from a file"
        )
    _check_gaps(seen, count, fps, count if needed is None else needed)
    columns = np.stack(points).reshape(-1, 6).T
    filled = np.stack([np.interp(np.arange(count), seen, column) for column in columns], axis=1)
    return KeypointTrack(filled.reshape(count, 3, 2).astype(np.float32), fps, size, notes)


def _nearest(faces: Sequence[Face], last: Face) -> Face:
    def distance(face: Face) -> float:
        return float(np.linalg.norm(face.keypoints - last.keypoints, axis=1).mean())

    return min(faces, key=distance)


def _check_gaps(seen: list[int], count: int, fps: Fraction, needed: int) -> None:
    edges = [-1, *seen, count]
    gaps = [(a + 1, b) for a, b in pairwise(edges) if b - a - 1 > LONGEST_GAP * fps and a + 1 < needed]
    if gaps:
        lost = np.concatenate([np.arange(start, stop) for start, stop in gaps])
        raise NoFaceError(
            f"no face was found for longer than half a second in frames {name_frames(lost)} of the driving video's "
            f"{count} (counted from 0, {float(fps):g} per second); expected gaps of at most {int(LONGEST_GAP * fps)} "
            "frames: cut these frames out, crop the video closer around the face, or give keypoints from a file"
        )
