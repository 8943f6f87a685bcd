"""Depth maps: reading from arrays, NumPy files and videos of depth, and checks.

A map is (H, W), nearer is larger: floats of 0 (background) to 1, or uint8 or uint16, of which 255 or 65535 is 1.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from vexpress_rt.errors import DepthError
from vexpress_rt.media.ffmpeg import MAX_PIXELS
from vexpress_rt.media.safe_arrays import DEPTH, read_array
from vexpress_rt.media.video_decoder import ReadReport
from vexpress_rt.media.video_reader import DrivingVideo
from vexpress_rt.types import MAX_KEYPOINT_FRAMES, MAX_SIDE, Crop, Float32, name_frames

DEPTH_SUFFIXES = (".npy", ".npz")

_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of BT.709
_GREY = 24  # largest difference of two channels of a grey pixel, after lossy compression
_EXPECTED = "expected (frames, height, width) or (height, width), floats of 0 to 1, uint8 or uint16, nearer is larger"


@dataclass(frozen=True, eq=False)
class DepthMaps:
    """Depth maps of one size.

    Attributes:
        values: K maps (H, W), K at least 1, of uint8, uint16 or floats of 0 to 1.
        fps: Maps per second; None for one in each frame of the generated video.
    """

    values: Sequence[NDArray[Any]] | NDArray[Any]
    fps: Fraction | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the maps in pixels."""
        height, width = self.values[0].shape
        return height, width

    def at(self, position: float) -> Float32:
        """Return the map at a position in frames, interpolated linearly between two maps, and held beyond the ends.

        Args:
            position: The position, 0 for the first map.

        Returns:
            (H, W) float32 in [0, 1].
        """
        position = min(max(position, 0.0), len(self) - 1.0)
        below = int(position)
        weight = np.float32(position - below)
        depth = _scaled(self.values[below])
        return depth if weight == 0 else depth * (1 - weight) + _scaled(self.values[below + 1]) * weight


def _scaled(values: NDArray[Any]) -> Float32:
    """Return a map as float32 of 0 to 1."""
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    scaled: Float32 = values.astype(np.float32) / np.float32(np.iinfo(values.dtype).max)
    return scaled


def load_depth(source: str | os.PathLike[str] | ArrayLike) -> DepthMaps:
    """Read depth maps from an array or a NumPy file.

    Args:
        source: Array-like (K, H, W) or (H, W); or the path of a .npy file, or of an .npz file with one array or one
            named `depth`.

    Raises:
        DepthError: The file is missing, damaged, too large or holds anything but numbers; or the maps have another
            shape or dtype, are not finite, or are out of range.
    """
    if not isinstance(source, (str, os.PathLike)):
        return DepthMaps(_checked(source))
    path = Path(os.fsdecode(source))
    try:
        return DepthMaps(_checked(read_array(path, DEPTH)))
    except DepthError as error:
        raise error if str(path) in str(error) else DepthError(f"{path}: {error}") from error


def _checked(values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except Exception as error:  # user-defined array types raise anything
        raise DepthError(f"depth maps are no array ({str(error)[:200]}); {_EXPECTED}") from error
    maps = array[None] if array.ndim == 2 else array
    if maps.ndim != 3 or not maps.size or max(maps.shape[1:]) > MAX_SIDE or len(maps) > MAX_KEYPOINT_FRAMES:
        raise DepthError(f"depth maps have shape {array.shape}; {_EXPECTED}")
    if (pixels := maps.shape[1] * maps.shape[2]) > MAX_PIXELS:  # copies of a map take several times its size
        raise DepthError(f"depth maps have {pixels} pixels each; expected at most {MAX_PIXELS}: scale them down")
    if maps.dtype.kind != "f" and maps.dtype.str[1:] not in ("u1", "u2"):
        raise DepthError(
            f"depth maps have dtype {maps.dtype}; {_EXPECTED}: divide them by their largest possible value"
        )
    if np.ma.is_masked(values):
        raise DepthError(f"depth maps are masked in places; {_EXPECTED}: fill them, the background with 0")
    if maps.dtype.kind == "f":
        _check_values(maps)
    return maps


def _check_values(maps: NDArray[np.floating[Any]]) -> None:
    """Check floats without a second array of the same size."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        lows, highs = (bound.astype(np.float64) for bound in (maps.min(axis=(1, 2)), maps.max(axis=(1, 2))))
    wrong = np.flatnonzero(~((lows >= 0) & (highs <= 1)))  # both are NaN if the map has one
    if not wrong.size:
        return
    low, high = lows[wrong[0]], highs[wrong[0]]
    found = "NaN or infinity" if not np.isfinite([low, high]).all() else f"values of {low} to {high}"
    raise DepthError(
        f"depth maps hold {found} in frames {name_frames(wrong)} (counted from 0); {_EXPECTED}: divide distances into "
        "that range, nearer larger, and give the background 0"
    )


def video_depth(video: DrivingVideo, report: ReadReport) -> Generator[tuple[Float32 | None, int], None, None]:
    """Decode a video of depth: the luma of its frames, of 8 bits.

    Args:
        video: The video.
        report: Receives notes on damage, repairs and coloured pictures.

    Yields:
        Map (H, W) float32 in [0, 1], and the number of frames that show it, as `DrivingVideo.runs`.

    Raises:
        VideoError: As in `DrivingVideo.runs`.
    """
    with closing(video.runs(report)) as runs:
        for picture, repeats in runs:
            if picture is None:
                yield None, repeats
                continue
            if int(np.ptp(picture[::4, ::4].astype(np.int16), axis=-1).max()) > _GREY:
                report.add_note("its pictures are coloured, and their luma is used; a map of colours is not depth")
            yield (picture.astype(np.float32) @ _LUMA) / np.float32(255), repeats


def crop_depth(depth: Float32, crop: Crop) -> Float32:
    """Crop a map and scale it linearly to the bundle's size; each pixel is a mean where it becomes smaller.

    Args:
        depth: (H, W) float32 in [0, 1].
        crop: The crop, in pixels of a picture of `crop.source`; the map may be smaller or larger by one factor.

    Returns:
        (h, w) float32 in [0, 1] of `crop.size`.
    """
    height, width = depth.shape
    down, across = height / crop.source[0], width / crop.source[1]
    box = (crop.left * across, crop.top * down, (crop.left + crop.width) * across, (crop.top + crop.height) * down)
    if depth.shape == crop.size and box == (0, 0, width, height):
        return depth
    box = (box[0], box[1], min(box[2], width), min(box[3], height))  # after rounding
    with Image.fromarray(np.ascontiguousarray(depth)) as image:
        scaled = image.resize(crop.size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.clip(np.asarray(scaled, np.float32), 0, 1)
