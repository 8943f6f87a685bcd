"""Retargeting: a keypoint track's motion is fitted to the face of the photo.

Source: docs/model/specification.md, stage 5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import RETARGET_MODES, check_choice
from vexpress_rt.errors import KeypointError, NoFaceError
from vexpress_rt.types import Float32, check_finite_points

_SMALLEST_DISTANCE = 1e-3  # pixels; points closer together count as coincident


def retarget(target: Float32, reference: Float32 | None, mode: str, upstream_anchor: bool = False) -> Float32:
    """Fit the motion of a target track to the face of the photo.

    Args:
        target: (L, 3, 2) float32 in pixels.
        reference: (3, 2) float32, the keypoints of the photo in pixels; None is allowed for "no_retarget" alone.
        mode: "no_retarget" keeps the target. "fix_face" repeats the reference. "offset_retarget" moves the reference
            against the motion of the scaled target's nose, by half of it. "naive_retarget" moves the scaled target so
            that its nose in frame 0 is at the reference's nose.
        upstream_anchor: Whether to choose the anchor frame, which determines the scale, with the faulty search of the
            public implementation, which nearly always ends at the last frame. Otherwise it is the frame with the pose
            nearest to the reference's.

    Returns:
        (L, 3, 2) float32.

    Raises:
        ConfigError: An unknown mode.
        NoFaceError: The mode needs a reference and there is none.
        KeypointError: Points coincide, so that no scale can be computed.

    Source: docs/model/specification.md, stage 5.
    """
    check_choice("retarget", mode, RETARGET_MODES)
    if mode == "no_retarget":
        return target
    if reference is None:
        raise NoFaceError(
            f"retarget {mode!r} needs the face in the photo, and none was found: "
            "give its keypoints (left eye, right eye, nose), or use 'no_retarget'"
        )
    face, track = reference.astype(np.float64), target.astype(np.float64)
    if mode == "fix_face":
        return np.repeat(reference[None].astype(np.float32), len(target), axis=0)
    scaled = track * _scale_to(face, track, upstream_anchor)
    if mode == "naive_retarget":
        moved = scaled + (face[2] - scaled[0, 2])
    else:
        moved = face - (scaled[:, 2] - scaled[0, 2])[:, None] / 2
    with np.errstate(over="ignore"):
        result: Float32 = moved.astype(np.float32)
    check_finite_points(result)
    return result


def _scale_to(face: NDArray[np.float64], track: NDArray[np.float64], upstream_anchor: bool) -> NDArray[np.float64]:
    """Return the scale (x, y) from the track's face in the anchor frame to the photo's face."""
    ratios, ratio = _pose_ratio(track), float(_pose_ratio(face[None])[0])
    measures = np.stack([_eye_distance(track), _nose_distance(track)], axis=1)  # (L, 2)
    usable = measures.min(axis=1) > _SMALLEST_DISTANCE
    if upstream_anchor:
        anchor, best = 0, 10000.0
        for frame, candidate in enumerate(ratios):
            if abs(candidate - ratio) < best:
                anchor, best = frame, candidate  # as the public code: it keeps the ratio, not the difference
    else:
        anchor = int(np.argmin(np.where(usable, abs(ratios - ratio), np.inf)))
    face_measures = np.array([_eye_distance(face[None])[0], _nose_distance(face[None])[0]])
    degenerate = "the photo's face" if (face_measures <= _SMALLEST_DISTANCE).any() else ""
    if not usable[anchor]:
        degenerate = f"frame {anchor} of the driving keypoints" + ("" if usable.any() else " (and in every other)")
    if degenerate:
        raise KeypointError(
            f"in {degenerate} the eyes coincide, or the nose lies between them, so that no scale can be found; "
            "expected three points that form a triangle: give other keypoints, or use 'no_retarget' or 'fix_face'"
        )
    scale: NDArray[np.float64] = face_measures / measures[anchor]
    return scale


def _pose_ratio(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the turn of the head, (L,): the distance from left eye to nose over that from right eye to nose."""
    left, right = (np.linalg.norm(faces[:, eye] - faces[:, 2], axis=-1) for eye in (0, 1))
    ratio: NDArray[np.float64] = left / (right + 1e-6)
    return ratio


def _eye_distance(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance (L,) between the eyes."""
    distance: NDArray[np.float64] = np.linalg.norm(faces[:, 1] - faces[:, 0], axis=-1)
    return distance


def _nose_distance(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance (L,) of the nose from the segment between the eyes."""
    along = faces[:, 1] - faces[:, 0]
    to_nose = faces[:, 2] - faces[:, 0]
    share = (to_nose * along).sum(axis=-1) / np.maximum((along * along).sum(axis=-1), 1e-12)
    nearest = np.clip(share, 0, 1)[:, None] * along
    distance: NDArray[np.float64] = np.linalg.norm(to_nose - nearest, axis=-1)
    return distance
