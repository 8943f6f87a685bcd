"""Where the face is in each frame of the video: wires keypoint sources, the face detector and retargeting."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from vexpress_rt.config import RETARGET_MODES, GenerationConfig, check_choice
from vexpress_rt.driving import read_frames
from vexpress_rt.errors import ConfigError, NoFaceError
from vexpress_rt.faces import track_faces
from vexpress_rt.image import face_crop
from vexpress_rt.keypoints import KEYPOINT_SUFFIXES, check_inside, fit_length, load_keypoints, resample, retarget
from vexpress_rt.records import Face, Float32, KeypointTrack, Portrait, UInt8

KeypointSource = str | os.PathLike[str] | ArrayLike | KeypointTrack
FaceFinder = Callable[[UInt8], list[Face]]


@dataclass(frozen=True)
class Motion:
    """points: (L, 3, 2) float32, pixels of the bundle's picture.  notes: what was decided on the way."""

    points: Float32
    notes: tuple[str, ...]


def choose_retarget(mode: str | None, source: KeypointSource | None) -> str:
    """The mode to use: as asked for, else `no_retarget` with keypoints and `fix_face` without.

    Raises ConfigError for an unknown mode, or one that needs keypoints when there are none.
    """
    if mode is None:
        return "fix_face" if source is None else "no_retarget"
    check_choice("retarget", mode, RETARGET_MODES)
    if source is None and mode != "fix_face":
        raise ConfigError(f"retarget is {mode!r} but there are no keypoints: give keypoints, or use 'fix_face'")
    return mode


def load_track(source: KeypointSource, find_faces: FaceFinder) -> KeypointTrack:
    """Keypoints from a file of arrays, from numbers, or, for any other file, from the faces of a driving video."""
    if isinstance(source, (str, os.PathLike)) and Path(source).suffix.lower() not in KEYPOINT_SUFFIXES:
        video = read_frames(Path(source))
        return track_faces((find_faces(frame) for frame in video.frames()), video.fps, video.size)
    return load_keypoints(source)


def to_picture(track: KeypointTrack, portrait: Portrait) -> KeypointTrack:
    """A track in pixels of its own pictures -> in pixels of the bundle's picture.

    Pictures as large as the original photo are cropped as that was; others by themselves, around the first face.
    """
    if track.size is None:
        return track
    crop = portrait.crop
    if track.size != crop.source:
        crop = face_crop(track.size, crop.size, track.points[0], portrait.crop_mode)
    return KeypointTrack(crop.to_cropped(track.points), track.fps)


def plan_motion(
    source: KeypointSource | None, mode: str, portrait: Portrait, length: int, config: GenerationConfig,
    find_faces: FaceFinder,
) -> Motion:  # fmt: skip
    """The face's place in each of `length` frames. mode: of `choose_retarget`. find_faces: the detector.

    Raises NoFaceError if the photo's own face is needed and unknown, or the driving video shows none; KeypointError
    for unreadable keypoints and for faces wholly outside the picture.
    """
    if mode == "fix_face":
        if portrait.keypoints is None:
            raise NoFaceError(
                "no face was found in the photo, and fix_face needs one: give the portrait's keypoints to prepare() "
                "(left eye, right eye, nose; --image-keypoints), or use another photo"
            )
        points = np.repeat(portrait.keypoints[None], length, axis=0)
        notes = () if source is None else ("keypoints were not used: fix_face holds the photo's own face still",)
        return Motion(points, notes)
    assert source is not None
    track = resample(to_picture(load_track(source, find_faces), portrait), config.rate)
    points, how = fit_length(track.points, length, config.extension)
    note = f"keypoints: {len(track.points)} frames for {length} of the video, {how}"
    points = retarget(points, portrait.keypoints, mode, config.upstream_anchor)
    check_inside(points, portrait.crop.size)
    return Motion(points, (note,))
