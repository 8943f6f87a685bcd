"""Keypoint tracks: read, fit to the video's length and rate, retarget to a face, draw.

A face is three points, x then y in pixels: left eye, right eye, nose, where "left" is the one further left in the
picture. Spec: model.md, stages 4 and 5.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from vexpress_rt.config import EXTENSION_MODES, RETARGET_MODES, check_choice
from vexpress_rt.errors import KeypointError, NoFaceError
from vexpress_rt.media.safe_arrays import read_arrays
from vexpress_rt.types import (
    Float32,
    KeypointTrack,
    UInt8,
    check_finite_points,
    five_points_advice,
    keypoint_array,
    name_frames,
    shape_of,
)
from vexpress_rt.utils.shutdown import native_call

KEYPOINT_SUFFIXES = (".npy", ".npz", ".pth", ".pt")

_LIMBS = ((0, 2), (1, 2))
_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
_RADIUS = 4
_FAR = 100_000.0  # pixels; OpenCV counts in 32-bit integers, with 16 bits of them for fractions in places
_SMALLEST_DISTANCE = 1e-3  # pixels between two points that are still told apart


def load_keypoints(source: KeypointTrack | str | os.PathLike[str] | ArrayLike) -> KeypointTrack:
    """Make a track of a file or of numbers; a track is returned as it is.

    source: array-like (L, 3, 2) or a list of L (3, 2) arrays, pixels, any real dtype; or the path of a file that holds
        such: .npy, .npz (one array, or one named `keypoints`), .pth or .pt (an array, a tensor, or a list of these).
    Faces of five points are refused rather than guessed at. Raises KeypointError if there is no such file, it is
    damaged, too large or holds anything but arrays, or the points are misshapen or not finite.
    """
    if isinstance(source, KeypointTrack):
        return source
    if isinstance(source, (str, os.PathLike)):
        path = Path(os.fsdecode(source))
        try:
            return KeypointTrack(keypoint_array(read_arrays(path)))
        except KeypointError as error:
            raise error if str(path) in str(error) else KeypointError(f"{path}: {error}") from error
    return KeypointTrack(keypoint_array(source))


def load_portrait_keypoints(values: ArrayLike) -> Float32:
    """The three points of a photo's face: (3, 2), x then y in pixels -> float32. Raises KeypointError."""
    if (shape := shape_of(values)) != (3, 2):
        expected = "expected (3, 2): left eye, right eye, nose, each x then y in pixels of the photo"
        raise KeypointError(f"the portrait's keypoints have shape {shape}; {expected}{five_points_advice(shape)}")
    points: Float32 = KeypointTrack(keypoint_array([values])).points[0]
    return points


def check_inside(points: Float32, size: tuple[int, int]) -> None:
    """Raise KeypointError naming the frames whose face, of points (L, 3, 2), is NaN or lies wholly outside the picture.

    size: (height, width) in pixels. A face is outside when the box around its points does not touch the picture.
    """
    check_finite_points(points)
    low, high = points.min(axis=1), points.max(axis=1)  # (L, 2)
    outside = ((high < 0) | (low >= np.array(size[::-1]))).any(axis=1)
    if outside.any():
        first = points[int(np.argmax(outside))].astype(np.float64).round(1).tolist()
        raise KeypointError(
            f"the face lies wholly outside the picture of {size[1]} x {size[0]} pixels (width x height) in frames "
            f"{name_frames(np.flatnonzero(outside))} (counted from 0), at first at {first}: give keypoints in pixels "
            "of the picture, say how large the pictures were that they come from (--keypoints-size; "
            "KeypointTrack(points, size=(height, width))), or crop the driving video to the face"
        )


def fit_length(points: Float32, length: int, extension: str) -> tuple[Float32, str]:
    """Make a track of (K, 3, 2) points `length` frames long; returns (length, 3, 2) points and how it was done.

    A longer track is cut ("cut"), one of that length stays ("as is"). A shorter one is extended by `extension`:
    "stretch" slows it down (`interpolate`; what upstream does), "hold" repeats the last frame, "loop" starts again,
    "mirror" runs back and forth without repeating the frames at the ends. Raises ConfigError for another extension.
    """
    check_choice("extension", extension, EXTENSION_MODES)
    assert length >= 1
    assert len(points) >= 1
    count = len(points)
    if count >= length:
        return points[:length], "as is" if count == length else "cut"
    if extension == "stretch":
        return interpolate(points, length), extension
    return points[repeated_frames(np.arange(length), count, extension)], extension


def repeated_frames(frames: NDArray[np.int64], count: int, extension: str) -> NDArray[np.int64]:
    """Which of a track's `count` frames are those of the numbers `frames`, from 0 on, where it goes on without end.

    extension: as `fit_length` has it, but "stretch", which needs an end.
    """
    if extension == "hold" or count == 1:
        return np.minimum(frames, count - 1)
    if extension == "loop":
        return frames % count
    return count - 1 - np.abs(frames % (2 * count - 2) - (count - 1))


def interpolate(points: Float32, length: int) -> Float32:
    """Resample (K, 3, 2) points to (length, 3, 2), linearly in time, both ends of the time span kept.

    As torch's linear interpolation with `align_corners=False`: frames are spans of time, sampled at their middles.
    """
    return _sample(points, (np.arange(length) + 0.5) * (len(points) / length) - 0.5)


def resample(track: KeypointTrack, fps: Fraction) -> KeypointTrack:
    """Bring a track to `fps` frames a second; a track that does not know its own rate is returned as it is.

    K frames become ceil(K fps / track.fps), each the linear interpolation at exactly its own time, so that a
    long track does not drift away from its video.
    """
    if track.fps is None or track.fps == fps:
        return track
    ratio = track.fps / fps
    middles = (np.arange(math.ceil(len(track.points) / ratio)) + 0.5) * float(ratio) - 0.5
    return replace(track, points=_sample(track.points, middles), fps=fps)


def _sample(points: Float32, positions: NDArray[np.floating[Any]]) -> Float32:
    """Points (n, 3, 2) at positions (n,) in frames, held beyond the ends."""
    positions = np.clip(positions, 0, len(points) - 1)
    below = positions.astype(np.int64)
    above = np.minimum(below + 1, len(points) - 1)
    weight = (positions - below)[:, None, None]
    return (points[below] * (1 - weight) + points[above] * weight).astype(np.float32)


def retarget(target: Float32, reference: Float32 | None, mode: str, upstream_anchor: bool = False) -> Float32:
    """Fit the motion of a target track to the face of the photo.

    target: (L, 3, 2), pixels.  reference: (3, 2), the photo's own keypoints; only "no_retarget" does without.
    mode: "no_retarget": the target as it is; "fix_face": the reference, held still; "offset_retarget": the reference,
        moved against half the motion of the scaled target's nose; "naive_retarget": the scaled target, with the nose
        of frame 0 on the reference's nose.
    upstream_anchor: choose the frame that decides the scale as upstream does, by a search that nearly always ends on
        the last frame, instead of the frame whose pose is nearest the reference's. (Spec: model.md, stage 5.)
    Returns (L, 3, 2) float32. Raises ConfigError for another mode, NoFaceError without a needed reference, and
    KeypointError if points coincide so that no scale can be found.
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
    """How much wider and higher (x, y) the photo's face is than the track's in the anchor frame."""
    ratios, ratio = _pose_ratio(track), float(_pose_ratio(face[None])[0])
    measures = np.stack([_eye_distance(track), _nose_distance(track)], axis=1)  # (L, 2)
    usable = measures.min(axis=1) > _SMALLEST_DISTANCE
    if upstream_anchor:
        anchor, best = 0, 10000.0
        for frame, candidate in enumerate(ratios):
            if abs(candidate - ratio) < best:
                anchor, best = frame, candidate  # upstream's slip: a ratio is kept where the difference is meant
    else:
        anchor = int(np.argmin(np.where(usable, abs(ratios - ratio), np.inf)))
    of_face = np.array([_eye_distance(face[None])[0], _nose_distance(face[None])[0]])
    degenerate = "the photo's face" if (of_face <= _SMALLEST_DISTANCE).any() else ""
    if not usable[anchor]:
        degenerate = f"frame {anchor} of the driving keypoints" + ("" if usable.any() else " (and in every other)")
    if degenerate:
        raise KeypointError(
            f"in {degenerate} the eyes coincide, or the nose lies between them, so that no scale can be found; "
            "expected three points that form a triangle: give other keypoints, or use 'no_retarget' or 'fix_face'"
        )
    scale: NDArray[np.float64] = of_face / measures[anchor]
    return scale


def _pose_ratio(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the head is turned, (L,): left eye to nose over right eye to nose."""
    left, right = (np.linalg.norm(faces[:, eye] - faces[:, 2], axis=-1) for eye in (0, 1))
    ratio: NDArray[np.float64] = left / (right + 1e-6)
    return ratio


def _eye_distance(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = np.linalg.norm(faces[:, 1] - faces[:, 0], axis=-1)
    return distance


def _nose_distance(faces: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (L,) from the nose to the segment between the eyes."""
    along = faces[:, 1] - faces[:, 0]
    to_nose = faces[:, 2] - faces[:, 0]
    share = (to_nose * along).sum(axis=-1) / np.maximum((along * along).sum(axis=-1), 1e-12)
    nearest = np.clip(share, 0, 1)[:, None] * along
    distance: NDArray[np.float64] = np.linalg.norm(to_nose - nearest, axis=-1)
    return distance


@native_call()
def draw_keypoints(points: Float32, height: int, width: int) -> UInt8:
    """Draw a face as the V-Kps guider was trained to see it.

    points: (3, 2), pixels; parts outside the picture are cut off.
    Returns (height, width, 3) uint8 RGB: on black, two limbs from the eyes to the nose in 0.6 of the eyes' colours,
    then a disc of radius 4 at each point: red, green, blue. Raises KeypointError if a point is not finite.
    """
    check_finite_points(points[None])
    # Where a point is that far outside the picture, its limb may point elsewhere, but nothing overflows.
    near = np.clip(points.astype(np.float64), -_FAR, _FAR)
    canvas = np.zeros((height, width, 3), np.uint8)
    for first, second in _LIMBS:
        (x0, y0), (x1, y1) = near[first], near[second]
        centre = int((x0 + x1) / 2), int((y0 + y1) / 2)
        half_axes = int(math.hypot(x0 - x1, y0 - y1) / 2), _RADIUS
        angle = int(math.degrees(math.atan2(y0 - y1, x0 - x1)))
        polygon = np.array(cv2.ellipse2Poly(centre, half_axes, angle, 0, 360, 1))
        cv2.fillConvexPoly(canvas, polygon, [int(0.6 * channel) for channel in _COLOURS[first]])
    for (x, y), colour in zip(near, _COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), _RADIUS, colour, -1)
    return canvas
