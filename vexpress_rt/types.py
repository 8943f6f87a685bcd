"""Data types that several packages share, with checked shapes and stated units.

The dataclasses are immutable and check their fields on construction, so that no stage receives malformed data. Arrays
are not copied; callers that keep a reference must not write to them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vexpress_rt.config import brief, exact_rate
from vexpress_rt.errors import ImageError, KeypointError

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

MAX_KEYPOINT_FRAMES = 1_000_000
FARTHEST_POINT = 1e6  # pixels; beyond any picture, and sums of such values stay finite
MAX_SIDE = 100_000  # pixels along a side of a picture that keypoints come from
MAX_BUNDLE_SIDE = 1 << 16  # pixels along a side of a bundle's picture; more than any plausible bundle has


class FileStamp(NamedTuple):
    """Properties of a file that change when it is replaced or written to.

    Attributes:
        inode: Number in the file system.
        size: Bytes.
        written: Time of the last write, in nanoseconds since 1970.
    """

    inode: int
    size: int
    written: int

    @classmethod
    def of(cls, path: Path) -> FileStamp | None:
        """Return the current stamp of a file.

        Args:
            path: The file.

        Returns:
            The stamp; None if there is no such file.
        """
        try:
            found = os.stat(path)
        except (OSError, ValueError):  # ValueError: a NUL or half a surrogate pair in the name
            return None
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


def frame_count(duration: Fraction, fps: Fraction) -> int:
    """Return the number of video frames for speech: ceil(duration x fps), at least 1.

    Args:
        duration: Length of the speech in seconds.
        fps: Frames per second.
    """
    return max(1, math.ceil(duration * fps))


@dataclass(frozen=True)
class Crop:
    """The part of a picture that is scaled to the bundle's picture size.

    Attributes:
        left: Left edge in pixels of the original picture, after its orientation was applied.
        top: Top edge in the same pixels.
        width: Width in the same pixels.
        height: Height in the same pixels.
        size: (height, width) of the picture that it is scaled to, in pixels.
        source: (height, width) of the original picture in pixels.
    """

    left: float
    top: float
    width: float
    height: float
    size: tuple[int, int]
    source: tuple[int, int]

    def to_cropped(self, points: Float32) -> Float32:
        """Map points from pixels of the original picture to pixels of the cropped one.

        Args:
            points: (..., 2) float32, x then y.

        Returns:
            (..., 2) float32.
        """
        scale = np.array([self.size[1] / self.width, self.size[0] / self.height])
        mapped: Float32 = ((points - np.array([self.left, self.top])) * scale).astype(np.float32)
        return mapped


@dataclass(frozen=True)
class Face:
    """A detected face, in pixels of the picture.

    Attributes:
        box: (4,) float32: left, top, right, bottom.
        score: In [0, 1].
        keypoints: (5, 2) float32, x then y: left eye, right eye, nose, left and right corner of the mouth.
    """

    box: Float32
    score: float
    keypoints: Float32

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        return float(max(self.box[2] - self.box[0], 0) * max(self.box[3] - self.box[1], 0))


@dataclass(frozen=True)
class KeypointTrack:
    """Keypoints of a face over time.

    Args:
        points: Array-like (K, 3, 2), x then y in pixels: left eye, right eye, nose. K is 1 to MAX_KEYPOINT_FRAMES;
            values are finite, and their magnitude is at most FARTHEST_POINT. Stored as float32.
        fps: Frame rate of the track, 1 to 240; None for the rate of the generated video. Stored as an exact Fraction.
        size: (height, width) of the picture in which the points were found, in pixels, whole numbers of 1 to MAX_SIDE;
            None for points in pixels of the bundle's picture.
        notes: What was repaired or left out on reading, for `Video.notes`.

    Raises:
        KeypointError: A value has another type or is outside its range.
    """

    points: Float32
    fps: Fraction | None = None
    size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        points = keypoint_array(self.points)
        if len(points) == 0:
            raise KeypointError(
                f"keypoints of shape {points.shape}; expected (frames, 3, 2) with at least one frame: "
                "left eye, right eye, nose, each x then y in pixels"
            )
        check_finite_points(points)
        _check_near(points)
        if not isinstance(self.notes, (tuple, list)) or not all(isinstance(note, str) for note in self.notes):
            raise KeypointError(f"the keypoints' notes are {brief(self.notes)}; expected a tuple of strings, or ()")
        checked = {"points": points, "fps": _rate(self.fps), "size": _size(self.size), "notes": tuple(self.notes)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def keypoint_array(values: Any) -> Float32:
    """Convert array-like keypoints to an array; a float32 array is not copied.

    Args:
        values: Array-like of shape (K, 3, 2), real numbers, in pixels.

    Returns:
        (K, 3, 2) float32, K >= 0.

    Raises:
        KeypointError: `values` has another shape, more than MAX_KEYPOINT_FRAMES frames, or values that are not real
            numbers.
    """
    expected = "expected (frames, 3, 2): left eye, right eye, nose, each x then y in pixels"
    if isinstance(values, (list, tuple)):  # before stacking, so that the message can name the frame
        if len(values) > MAX_KEYPOINT_FRAMES:
            raise _too_long(len(values))
        for frame, value in enumerate(values):
            if (shape := shape_of(value)) != (3, 2):
                advice = five_points_advice(shape)
                raise KeypointError(f"keypoints have shape {shape} in frame {frame}; {expected}{advice}")
    if len(shape := shape_of(values)) != 3 or shape[1:] != (3, 2):
        found = f"have shape {shape}" if shape or isinstance(values, np.ndarray) else f"are a {type(values).__name__}"
        raise KeypointError(f"keypoints {found}; {expected}{five_points_advice(shape)}")
    if shape[0] > MAX_KEYPOINT_FRAMES:
        raise _too_long(shape[0])
    try:
        array = np.asarray(values)
    except Exception as error:  # user-defined array types raise anything
        raise _no_array(error) from error
    if array.dtype.kind not in "fiu":
        raise KeypointError(f"keypoints have dtype {array.dtype}; expected real numbers, in pixels")
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        array = np.where(np.ma.getmaskarray(values), np.nan, array)  # KeypointTrack refuses NaN
    with np.errstate(over="ignore"):  # KeypointTrack refuses infinity
        return array.astype(np.float32, copy=False)


def shape_of(value: Any) -> tuple[int, ...]:
    """Return the shape of an array-like.

    Args:
        value: Any object.

    Raises:
        KeypointError: `value` has no shape.
    """
    try:
        return np.shape(value)
    except Exception as error:
        raise _no_array(error) from error


def _no_array(error: Exception) -> KeypointError:
    return KeypointError(f"keypoints are not an array: {str(error)[:200]}: pass (frames, 3, 2) numbers")


def _too_long(frames: int) -> KeypointError:
    return KeypointError(
        f"keypoints have {frames} frames; expected at most {MAX_KEYPOINT_FRAMES}: cut the track in parts"
    )


def five_points_advice(shape: tuple[int, ...]) -> str:
    """Return advice for a message about the five points of a face detector.

    Args:
        shape: The shape of the given points.

    Returns:
        The advice; empty for other shapes than (..., 5, 2).
    """
    if shape[-2:] == (5, 2):
        return ". Of a detector's five points pass the first three: points[..., :3, :]"
    return ""


def _rate(fps: object) -> Fraction | None:
    try:
        return None if fps is None else exact_rate(fps)
    except ValueError as error:  # ConfigError; ValueError for a number with thousands of digits
        raise KeypointError(
            f"the keypoints' {str(error)[:200]}: give the rate of their pictures, or None if it is the video's"
        ) from error


def _size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    sides: tuple[object, ...] = ()
    if isinstance(size, (tuple, list)) or (isinstance(size, np.ndarray) and size.ndim == 1):
        sides = tuple(size[:3])  # three show that a sequence is too long, without copying all of it
    whole = all(isinstance(side, Integral) and not isinstance(side, bool) for side in sides)
    if len(sides) != 2 or not whole or not all(1 <= int(side) <= MAX_SIDE for side in sides):  # type: ignore[call-overload]
        raise KeypointError(
            f"the keypoints' size is {brief(size)}; expected (height, width) in pixels of the pictures that they come "
            f"from, whole numbers of 1 to {MAX_SIDE}, such as (480, 640), or None for the bundle's picture"
        )
    return int(sides[0]), int(sides[1])  # type: ignore[call-overload]


def _check_near(points: Float32) -> None:
    far = np.flatnonzero((np.abs(points) > FARTHEST_POINT).any(axis=(1, 2)))
    if far.size:
        raise KeypointError(
            f"keypoints lie up to {float(np.abs(points).max()):.3g} pixels from the picture's corner in frames "
            f"{name_frames(far)}; expected at most {FARTHEST_POINT:g}: give x and y in pixels"
        )


def check_finite_points(points: Float32) -> None:
    """Check that points are finite.

    Args:
        points: (frames, ..., 2) float32.

    Raises:
        KeypointError: A point is NaN or infinite. The message names the first such frames.
    """
    bad = np.flatnonzero(~np.isfinite(points.reshape(len(points), -1)).all(axis=1))
    if bad.size:
        raise KeypointError(
            f"keypoints are NaN or infinite in {bad.size} of {len(points)} frames, first in {bad[:5].tolist()}: "
            "interpolate or drop those frames before passing the track in"
        )


def name_frames(frames: NDArray[np.int64], most: int = 10) -> str:
    """Return frame numbers as ranges, for messages: `3, 12-40 and 2 more`.

    Args:
        frames: (N,) rising frame numbers.
        most: Maximum number of ranges.
    """
    runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
    named = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:most]]
    return ", ".join(named) + (f" and {len(runs) - most} more" if len(runs) > most else "")


@dataclass(frozen=True)
class Portrait:
    """A photo, encoded once for any number of videos with the same bundle.

    Attributes:
        image: (H, W, 3) uint8 RGB, of the bundle's size.
        keypoints: (3, 2) float32 in pixels of `image` (left eye, right eye, nose); None if none were given or found:
            then `no_retarget` is the only possible mode.
        crop: The part of the original picture that `image` shows.
        reference: The engine inputs that depend on the photo alone: projected keys and values of every attention block,
            by their names in `engine_spec`.
        bundle: Identity of the bundle whose engines computed `reference`.
        crop_mode: The requested mode, one of `config.CROP_MODES`.
        notes: What was repaired or left out on reading, and whether no face was found, for `Video.notes`.
    """

    image: UInt8
    keypoints: Float32 | None
    crop: Crop
    reference: Mapping[str, Any] = field(repr=False)
    bundle: str = ""
    crop_mode: str = "face"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ImageError(
                f"a portrait of shape {self.image.shape} and dtype {self.image.dtype}; expected (H, W, 3) uint8 RGB"
            )


@dataclass(frozen=True, kw_only=True)
class Video:
    """The result of `Generator.generate`.

    Attributes:
        frames: (L, H, W, 3) uint8 RGB; None if they were written to a file and not kept.
        fps: Frames per second, exact.
        length: Number of frames, L.
        keypoints: (L, 3, 2) float32, the requested positions of the face in pixels of the video (left eye, right eye,
            nose); (0, 3, 2) for a video without keypoints.
        path: The file; None if no output was requested.
        timings: Seconds of host time by stage, and `total`. GPU work is asynchronous, so a stage's time may include
            waiting for an earlier one.
        notes: Repairs of the inputs, and choices that were left to the generator.
    """

    frames: UInt8 | None = field(repr=False)
    fps: Fraction
    length: int
    keypoints: Float32 = field(repr=False)
    path: Path | None
    timings: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return float(self.length / self.fps)
