"""Keypoint tracks: reading from files and arrays, checks, and fitting to a video's length and frame rate.

A face is three points, x then y in pixels: left eye, right eye, nose. "Left" is the eye further left in the picture.
Source: docs/model/specification.md, stage 4.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vexpress_rt.config import EXTENSION_MODES, check_choice
from vexpress_rt.errors import KeypointError
from vexpress_rt.media.safe_arrays import read_arrays
from vexpress_rt.types import (
    Float32,
    KeypointTrack,
    check_finite_points,
    five_points_advice,
    keypoint_array,
    name_frames,
    shape_of,
)

Positions = NDArray[np.floating[Any]]  # in frames

KEYPOINT_SUFFIXES = (".npy", ".npz", ".pth", ".pt")


def load_keypoints(source: KeypointTrack | str | os.PathLike[str] | ArrayLike) -> KeypointTrack:
    """Read a keypoint track from a file or an array; a track is returned as it is.

    Args:
        source: Array-like (L, 3, 2), or a list of L (3, 2) arrays, in pixels, of any real dtype; or the path of a file
            with such an array: .npy, .npz (one array, or one named `keypoints`), .pth or .pt (an array, a tensor, or a
            list of these). Faces of five points are refused, because the order of their points is unknown.

    Raises:
        KeypointError: The file is missing, damaged, too large or holds anything but arrays; or the points have another
            shape or are not finite.
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
    """Convert the three points of a photo's face to an array.

    Args:
        values: Array-like (3, 2), x then y in pixels of the photo.

    Returns:
        (3, 2) float32.

    Raises:
        KeypointError: `values` has another shape, or values that are not finite real numbers.
    """
    if (shape := shape_of(values)) != (3, 2):
        expected = "expected (3, 2): left eye, right eye, nose, each x then y in pixels of the photo"
        raise KeypointError(f"the portrait's keypoints have shape {shape}; {expected}{five_points_advice(shape)}")
    points: Float32 = KeypointTrack(keypoint_array([values])).points[0]
    return points


def check_inside(points: Float32, size: tuple[int, int]) -> None:
    """Check that the face of every frame lies in the picture, at least in part.

    Args:
        points: (L, 3, 2) float32, x then y in pixels.
        size: (height, width) of the picture in pixels.

    Raises:
        KeypointError: A point is NaN or infinite, or the box around the points of a frame does not touch the picture.
            The message names the frames.
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
    """Cut or extend a track to a number of frames.

    Args:
        points: (K, 3, 2) float32, K >= 1.
        length: Frames of the result, at least 1.
        extension: How to extend a shorter track: "stretch" slows it down (`interpolate`, as the public implementation
            does), "hold" repeats the last frame, "loop" starts again, "mirror" runs back and forth without repeating
            the frames at the ends.

    Returns:
        The points, (length, 3, 2) float32; and how they were fitted: "cut", "as is", or the extension.

    Raises:
        ConfigError: An unknown extension.
    """
    positions, how = fit_positions(len(points), length, extension)
    return (_sample(points, positions) if how == "stretch" else points[positions.astype(np.int64)]), how


def fit_positions(count: int, length: int, extension: str) -> tuple[Positions, str]:
    """Return the frames of a track that the frames of a video show.

    Args:
        count: Frames of the track, at least 1.
        length: Frames of the video, at least 1.
        extension: As in `fit_length`.

    Returns:
        Positions in the track, (length,); and how it was fitted, as in `fit_length`. A stretched track begins
        before its first frame and ends after its last; all other positions are whole numbers.

    Raises:
        ConfigError: An unknown extension.
    """
    check_choice("extension", extension, EXTENSION_MODES)
    assert length >= 1
    assert count >= 1
    frames = np.arange(length)
    if count >= length:
        return frames.astype(np.float64), "as is" if count == length else "cut"
    if extension == "stretch":
        return _stretched(count, length), extension
    return repeated_frames(frames, count, extension).astype(np.float64), extension


def describe_fit(what: str, count: int, length: int, how: str) -> str:
    """Describe how a track fits a video, for its notes.

    Args:
        what: What the track is of: "keypoints".
        count: Frames of the track.
        length: Frames of the video.
        how: From `fit_positions`.
    """
    if how == "as is":
        return f"{what}: {count} frames, as many as the video has"
    if how == "cut":
        return f"{what}: longer than the video, cut to its {length} frames"
    return f"{what}: {count} frames for {length} of the video, extended by {how}"


def repeated_frames(frames: NDArray[np.int64], count: int, extension: str) -> NDArray[np.int64]:
    """Return the frames of a track that is repeated without end.

    Args:
        frames: (n,) frame numbers of the repeated track, from 0.
        count: Frames of the track.
        extension: "hold", "loop" or "mirror", as in `fit_length`.

    Returns:
        (n,) frame numbers of the track, below `count`.
    """
    if extension == "hold" or count == 1:
        return np.minimum(frames, count - 1)
    if extension == "loop":
        return frames % count
    return count - 1 - np.abs(frames % (2 * count - 2) - (count - 1))


def interpolate(points: Float32, length: int) -> Float32:
    """Resample a track to a number of frames that cover the same time.

    Linear interpolation at the middle of each frame, as torch's `interpolate` with `align_corners=False`.

    Args:
        points: (K, 3, 2) float32, K >= 1.
        length: Frames of the result.

    Returns:
        (length, 3, 2) float32.
    """
    return _sample(points, _stretched(len(points), length))


def _stretched(count: int, length: int) -> Positions:
    return (np.arange(length) + 0.5) * (count / length) - 0.5


def resample(track: KeypointTrack, fps: Fraction) -> KeypointTrack:
    """Resample a track to another frame rate; a track without a rate is returned as it is.

    The ratio of the rates is exact, so that a long track does not drift away from its video.

    Args:
        track: A track of K frames.
        fps: Frames per second of the result.

    Returns:
        A track of ceil(K fps / track.fps) frames, interpolated linearly.
    """
    if track.fps is None or track.fps == fps:
        return track
    return replace(track, points=_sample(track.points, resampled_positions(len(track.points), track.fps, fps)), fps=fps)


def resampled_positions(count: int, fps: Fraction, target: Fraction) -> Positions:
    """Return the frames of a track that it shows at another frame rate; see `resample`.

    Args:
        count: Frames of the track.
        fps: Its frames per second.
        target: Frames per second of the result.

    Returns:
        Positions in the track, (ceil(count target / fps),) float64, which may begin before its first frame.
    """
    ratio = fps / target
    return (np.arange(math.ceil(count / ratio)) + 0.5) * float(ratio) - 0.5


def _sample(points: Float32, positions: Positions) -> Float32:
    """Interpolate (n, 3, 2) points at positions (n,), in frames; the first and last frame are held beyond the ends."""
    positions = np.clip(positions, 0, len(points) - 1)
    below = positions.astype(np.int64)
    above = np.minimum(below + 1, len(points) - 1)
    weight = (positions - below)[:, None, None]
    return (points[below] * (1 - weight) + points[above] * weight).astype(np.float32)
