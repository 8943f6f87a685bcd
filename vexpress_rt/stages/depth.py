"""The depth of a video: depth maps of the head from an array, a file or a video, fitted to the picture and the frames.

Source: docs/model/specification.md, stage 4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vexpress_rt.config import Settings, check_choice
from vexpress_rt.errors import DepthError, VideoError
from vexpress_rt.face.keypoint_track import Positions, describe_fit, fit_positions, repeated_frames, resampled_positions
from vexpress_rt.media.depth_maps import DEPTH_SUFFIXES, DepthMaps, crop_depth, load_depth, video_depth
from vexpress_rt.media.image import face_crop
from vexpress_rt.media.video_decoder import ReadReport
from vexpress_rt.media.video_reader import read_frames
from vexpress_rt.stages.pose import LONGEST_LOOP, LOOPING_MODES, CroppedFace, FrameProgress
from vexpress_rt.types import Crop, Float32
from vexpress_rt.utils.memory_budget import Need, check_memory, free_memory
from vexpress_rt.utils.paths import as_path

DepthSource = str | os.PathLike[str] | ArrayLike

_CHECKED = 256  # frames of a video that are read between two checks of the free memory


@dataclass(frozen=True, eq=False)
class DepthTrack:
    """The depth in each frame of a video.

    Attributes:
        maps: The depth maps.
        crop: The part of the maps that is the bundle's picture.
        position: Returns the position of a frame, 0 for the first map and 0.5 for halfway to the second.
        notes: Repairs of the maps, and choices about them, for `Video.notes`.
    """

    maps: DepthMaps
    crop: Crop
    position: Callable[[int], float]
    notes: tuple[str, ...]

    def picture(self, frame: int) -> Float32:
        """Return the depth (H, W) float32 in [0, 1] of a frame, of the bundle's size."""
        return crop_depth(self.maps.at(self.position(frame)), self.crop)


def plan_depth_track(
    source: DepthSource, portrait: CroppedFace, length: int, settings: Settings, progress: FrameProgress | None = None
) -> DepthTrack:
    """Return the depth in each frame of a video, fitted to its length and rate as keypoints are.

    Args:
        source: The depth maps: see `media.depth_maps.load_depth`; any other file is a video of depth.
        portrait: The portrait or photo.
        length: Frames of the video.
        settings: The resolved options.
        progress: Called after each frame of a video with the frames done and their largest possible total.

    Raises:
        DepthError: The maps cannot be used, or do not fit into the free memory.
        VideoError: The video cannot be read.
    """
    maps, crop, notes = _load(source, portrait, length / settings.rate, progress)
    resampled = _resampled(maps, settings.rate)
    if len(maps) == 1:
        return DepthTrack(maps, crop, lambda frame: 0.0, (*notes, "depth: one map, held in all frames"))
    fitted, how = fit_positions(len(resampled), length, settings.extension)
    positions = np.interp(fitted, np.arange(len(resampled)), resampled)
    return DepthTrack(
        maps, crop, lambda frame: float(positions[frame]),
        (*notes, describe_fit("depth", len(resampled), length, how)),
    )  # fmt: skip


def looping_depth_track(
    source: DepthSource, portrait: CroppedFace, settings: Settings, extension: str
) -> DepthTrack:  # fmt: skip
    """Return the depth for a video without an end.

    Args:
        source: As in `plan_depth_track`. Only the first LONGEST_LOOP seconds of a video are used.
        portrait: The portrait or photo.
        settings: The resolved options.
        extension: "loop", "mirror" or "hold", for frames beyond the maps.

    Raises:
        ConfigError: `extension` is unknown.
        InputError: As in `plan_depth_track`.
    """
    check_choice("extension", extension, LOOPING_MODES)
    maps, crop, notes = _load(source, portrait, LONGEST_LOOP, None)
    positions = _resampled(maps, settings.rate)

    def position(frame: int) -> float:
        return float(positions[repeated_frames(np.array(frame), len(positions), extension)])

    return DepthTrack(maps, crop, position, notes)


def _resampled(maps: DepthMaps, rate: Fraction) -> Positions:
    """Return the positions of the maps at the rate of the generated video."""
    if maps.fps is None or maps.fps == rate:
        return np.arange(len(maps), dtype=np.float64)
    return np.clip(resampled_positions(len(maps), maps.fps, rate), 0, len(maps) - 1)


def _load(
    source: DepthSource, portrait: CroppedFace, seconds: Fraction, progress: FrameProgress | None
) -> tuple[DepthMaps, Crop, tuple[str, ...]]:
    """Return the maps, the part of them that is the bundle's picture, and the notes on both."""
    if isinstance(source, (str, os.PathLike)):
        path = as_path(source, "the depth", DepthError)
        if path.suffix.lower() not in DEPTH_SUFFIXES:
            return _load_video(source, portrait, seconds, progress)
    maps = load_depth(source)
    crop, notes = depth_crop(maps.size, portrait)
    return maps, crop, notes


def _load_video(
    source: str | os.PathLike[str], portrait: CroppedFace, seconds: Fraction, progress: FrameProgress | None
) -> tuple[DepthMaps, Crop, tuple[str, ...]]:
    """Read the first seconds of a video of depth into memory, at the bundle's size."""
    try:
        video = read_frames(as_path(source, "the depth", DepthError))
    except VideoError as error:
        known = ", ".join(DEPTH_SUFFIXES)
        raise VideoError(f"{error}. It was taken for a video of depth; files of depth maps end in {known}") from error
    crop, notes = depth_crop(video.size, portrait)
    height, width = crop.size
    most, report = math.ceil(seconds * video.fps) + 1, ReadReport()
    values: list[NDArray[np.uint16]] = []
    with closing(video_depth(video, report)) as maps:
        for depth, repeats in maps:
            if depth is not None:
                if len(values) % _CHECKED < repeats:
                    _check_memory(len(values), 2 * height * width)
                values += [np.rint(crop_depth(depth, crop) * 65535).astype(np.uint16)] * min(
                    repeats, most - len(values)
                )
            if progress is not None:
                progress(len(values), most)
            if len(values) >= most:
                break
    whole = Crop(0.0, 0.0, float(width), float(height), crop.size, crop.size)
    return DepthMaps(values, video.fps), whole, (*report.notes("depth video"), *notes)


def _check_memory(done: int, size: int) -> None:
    """Raise DepthError if the next maps of a video, of `size` bytes each, do not fit into the free memory."""
    need = Need(_CHECKED * size, f"the next {_CHECKED} maps", "cut the recording into parts, or use a smaller bundle")
    check_memory(f"a video of depth, after {done} frames,", [need], free_memory(), DepthError)


def depth_crop(size: tuple[int, int], portrait: CroppedFace) -> tuple[Crop, tuple[str, ...]]:
    """Choose the part of depth maps that is the bundle's picture.

    Maps of the bundle's size are used as they are. Maps with the aspect ratio of the original photo are of that photo,
    at any scale, and are cropped like it. All others are of the bundle's picture: whole if they have its aspect ratio
    or the photo was stretched, otherwise cut to the largest centred rectangle.

    Args:
        size: (height, width) of the maps in pixels.
        portrait: The portrait or photo.

    Returns:
        The crop in pixels of the maps, and the notes on it.
    """
    crop = portrait.crop
    if size != crop.size and _same_aspect(size, crop.source):
        down, across = size[0] / crop.source[0], size[1] / crop.source[1]
        return Crop(
            crop.left * across, crop.top * down, crop.width * across, crop.height * down, crop.size, size
        ), ()  # fmt: skip
    chosen = face_crop(size, crop.size, None, portrait.crop_mode)
    if portrait.crop_mode == "none" or _same_aspect(size, crop.size):
        return Crop(0.0, 0.0, float(size[1]), float(size[0]), crop.size, size), ()
    note = (
        f"depth: maps of {size[1]} x {size[0]} pixels (width x height) have neither the video's aspect ratio nor the "
        "photo's; their centre is used"
    )
    return chosen, (note,)


def _same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether one size is the other times a factor, rounded to pixels."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(other)
