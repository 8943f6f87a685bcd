"""The pose track of a video: keypoints from a file, an array or a driving video, retargeted to the photo's face."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from vexpress_rt.bundle.engine_spec import FACE_DETECTOR
from vexpress_rt.config import EXTENSION_MODES, RETARGET_MODES, Settings, check_choice
from vexpress_rt.errors import ConfigError, KeypointError, NoFaceError, VideoError
from vexpress_rt.face.detector import DETECTION_SIZE
from vexpress_rt.face.keypoint_track import (
    KEYPOINT_SUFFIXES,
    check_inside,
    describe_fit,
    fit_length,
    load_keypoints,
    repeated_frames,
    resample,
)
from vexpress_rt.face.retargeting import retarget
from vexpress_rt.face.tracker import LONGEST_GAP, track_faces
from vexpress_rt.media.image import face_crop
from vexpress_rt.media.video_decoder import ReadReport
from vexpress_rt.media.video_reader import DrivingVideo, read_frames
from vexpress_rt.types import Crop, Face, Float32, KeypointTrack, UInt8
from vexpress_rt.utils.paths import as_path
from vexpress_rt.utils.project_links import EXPORTER

KeypointSource = str | os.PathLike[str] | ArrayLike | KeypointTrack
FaceFinder = Callable[[UInt8], list[Face]]
FrameProgress = Callable[[int, int], None]  # called with done and total, in frames

LOOPING_MODES = tuple(mode for mode in EXTENSION_MODES if mode != "stretch")
LONGEST_LOOP = Fraction(60)  # seconds of a driving video that a looping pose track uses at most


class CroppedFace(Protocol):
    """A portrait, or a photo that is not encoded yet; `Portrait` documents the attributes."""

    @property
    def keypoints(self) -> Float32 | None:
        """Keypoints (3, 2) of the face, if one was found."""
        ...

    @property
    def crop(self) -> Crop:
        """The part of the photo that is used."""
        ...

    @property
    def crop_mode(self) -> str:
        """The way in which the part was chosen."""
        ...


@dataclass(frozen=True)
class PoseTrack:
    """The keypoints of the face in each frame of a video.

    Attributes:
        points: (L, 3, 2) float32: left eye, right eye and nose as (x, y) in pixels of the bundle's picture.
        notes: Repairs of the keypoints, and choices about them, for `Video.notes`.
    """

    points: Float32
    notes: tuple[str, ...]


def choose_retarget(mode: str | None, source: KeypointSource | None) -> str:
    """Return the retargeting mode. The default is `no_retarget` with keypoints and `fix_face` without.

    Args:
        mode: One of `config.RETARGET_MODES`, or None for the default.
        source: The keypoints, or None.

    Raises:
        ConfigError: The mode is unknown, or needs keypoints and there are none.
    """
    if mode is None:
        return "fix_face" if source is None else "no_retarget"
    check_choice("retarget", mode, RETARGET_MODES)
    if source is None and mode != "fix_face":
        raise ConfigError(
            f"retarget is {mode!r}, which follows keypoints, and there are none: give a file of keypoints or a driving "
            "video as keypoints= or --keypoints, or use 'fix_face', which holds the face still and needs a face in the "
            "photo, or its keypoints as prepare(..., keypoints=) or --image-keypoints"
        )
    return mode


def choose_pose(mode: str | None, source: KeypointSource | None, guiders: Sequence[str], *, depth: bool) -> str | None:
    """Return the retargeting mode, or None for a video without keypoints.

    Videos of a bundle without a guider of keypoints have none. With depth maps, the depth alone places the head, unless
    keypoints or a retargeting mode are given as well: "fix_face" then holds the photo's face still.

    Args:
        mode: As for `choose_retarget`.
        source: As for `choose_retarget`.
        guiders: The signals of the bundle's guiders.
        depth: Whether depth maps are given.

    Raises:
        ConfigError: As `choose_retarget`; or the bundle has no guider for what is given.
    """
    given = {"keypoints": source is not None, "retarget": mode is not None, "depth": depth}
    for argument, signal in (("keypoints", "keypoints"), ("retarget", "keypoints"), ("depth", "depth")):
        if given[argument] and signal not in guiders:
            raise ConfigError(
                f"{argument} is given, and this bundle has no guider of {signal} (its guiders: "
                f"{', '.join(guiders) or 'none'}): leave {argument}= or --{argument} out, or use a bundle of a model "
                "with that guider"
            )
    alone = depth and source is None and mode is None
    return None if alone or "keypoints" not in guiders else choose_retarget(mode, source)


def check_face(
    mode: str, keypoints: Float32 | None, size: tuple[int, int], *, driven: bool, searched: bool | None = None
) -> None:
    """Raise NoFaceError if the retargeting mode needs the photo's face, and it is unknown.

    Args:
        mode: The retargeting mode.
        keypoints: (3, 2) float32 of the photo's face, or None.
        size: (height, width) of the photo in pixels.
        driven: Whether the video has keypoints or a driving video.
        searched: Whether a detector searched the photo for a face; None for unknown.

    Raises:
        NoFaceError: `mode` needs the face, and `keypoints` is None. The message lists every remedy.
    """
    if keypoints is not None or mode == "no_retarget":
        return
    photo = f"its {size[1]} x {size[0]} pixels (width x height), searched scaled to {DETECTION_SIZE}"
    remedies = [
        "Give the photo's keypoints (left eye, right eye, nose) as prepare(..., keypoints=) or --image-keypoints"
    ]
    if searched is None:
        why = f"no face was found, or the bundle has no face detector, in {photo}"
    elif searched:
        why = f"no face was found in {photo}"
    else:
        why = "the bundle has no face detector"
        remedies.append(f"use a bundle that has one: `python -m export.build --engine {FACE_DETECTOR}` {EXPORTER}")
    if searched is not False:
        remedies.append("take a photo that is upright, shows a face from the front and is cropped closer around it")
    if driven:
        remedies.append("use no_retarget, which follows the driving keypoints as they are")
    raise NoFaceError(
        f"{mode} needs the place of the face in the photo, and it is unknown: {why}. {', or '.join(remedies)}"
    )


def load_track(
    source: KeypointSource, find_faces: FaceFinder, seconds: Fraction, progress: FrameProgress | None = None
) -> KeypointTrack:
    """Load keypoints from an array, a file of arrays or, for any other file, the faces of a driving video.

    Args:
        source: The keypoints.
        find_faces: Returns the faces in a picture.
        seconds: Duration of the generated video. A driving video is searched for as long plus the longest gap, so that
            the track equals the beginning of the whole driving video's track. Each decoded frame is searched once.
        progress: Called after each frame of a driving video with the frames done and their largest possible total. Its
            exceptions end the search.

    Raises:
        KeypointError: The keypoints are unreadable.
        NoFaceError: The driving video shows no face.
        VideoError: The driving video is unusable.
    """
    if not isinstance(source, (str, os.PathLike)):
        return load_keypoints(source)
    path = as_path(source, "the keypoints", KeypointError)
    if path.suffix.lower() in KEYPOINT_SUFFIXES:
        return load_keypoints(path)
    try:
        video = read_frames(path)
    except VideoError as error:
        known = ", ".join(KEYPOINT_SUFFIXES)
        raise VideoError(f"{error}. It was taken for a driving video; files of keypoints end in {known}") from error
    needed, report = math.ceil(seconds * video.fps) + 1, ReadReport()
    most = needed + math.ceil(LONGEST_GAP * video.fps)
    track = track_faces(_search(video, find_faces, most, report, progress), video.fps, video.size, needed)
    return replace(track, notes=(*report.notes(), *track.notes))


def _search(
    video: DrivingVideo, find_faces: FaceFinder, most: int, report: ReadReport, progress: FrameProgress | None
) -> Iterator[list[Face]]:
    """Yield the faces in each of at most `most` frames, at the video's constant rate."""
    done = 0
    (height, width), (rows, columns) = video.size, video.shown or video.size
    scale = np.array([width / columns, height / rows], np.float32)
    with closing(video.runs(report)) as runs:
        for picture, repeats in runs:
            faces = [] if picture is None else [_scaled(face, scale) for face in find_faces(picture)]
            count = min(repeats, most - done)
            for _ in range(count):
                yield faces
            done += count
            if progress is not None:
                progress(done, most)
            if done >= most:
                return


def _scaled(face: Face, scale: Float32) -> Face:
    """Convert a face from pixels of the scaled picture to pixels of the frame. scale: (2,) float32, x and y."""
    if (scale == 1).all():
        return face
    return Face(face.box * np.tile(scale, 2), face.score, face.keypoints * scale)


def to_picture(track: KeypointTrack, portrait: CroppedFace) -> KeypointTrack:
    """Convert a track from pixels of its own pictures to pixels of the bundle's picture.

    If the track's pictures have the size of the original photo, they are cropped like the photo; otherwise around the
    face in the track's first frame.

    Args:
        track: The track. Without a size, it is in pixels of the bundle's picture and returned as it is.
        portrait: The portrait or photo.
    """
    if track.size is None:
        return track
    crop = portrait.crop
    if track.size != crop.source:
        crop = face_crop(track.size, crop.size, track.points[0], portrait.crop_mode)
    return replace(track, points=crop.to_cropped(track.points), size=None)


def plan_pose_track(
    source: KeypointSource | None, mode: str, portrait: CroppedFace, length: int, settings: Settings,
    find_faces: FaceFinder, progress: FrameProgress | None = None,
) -> PoseTrack:  # fmt: skip
    """Return the keypoints of the face in each frame of a video.

    Args:
        source: The keypoints, or None.
        mode: Retargeting mode, from `choose_retarget`.
        portrait: The portrait or photo.
        length: Frames of the video.
        settings: The resolved options.
        find_faces: Returns the faces in a picture.
        progress: See `load_track`.

    Raises:
        NoFaceError: The photo's face is needed and unknown, or the driving video shows no face.
        KeypointError: The keypoints are unreadable, or a face lies wholly outside the picture.
        VideoError: The driving video is unusable.
    """
    photo_face = portrait.keypoints
    check_face(mode, photo_face, portrait.crop.source, driven=source is not None)
    if photo_face is not None and mode == "fix_face":
        notes = () if source is None else ("keypoints were not used: fix_face holds the photo's own face still",)
        return PoseTrack(np.repeat(photo_face[None], length, axis=0), notes)
    assert source is not None
    track = load_track(source, find_faces, length / settings.rate, progress)
    track = resample(to_picture(track, portrait), settings.rate)
    points, how = fit_length(track.points, length, settings.extension)
    points = retarget(points, photo_face, mode, settings.upstream_anchor)
    check_inside(points, portrait.crop.size)
    return PoseTrack(points, (*track.notes, describe_fit("keypoints", len(track.points), length, how)))


def looping_pose_track(
    source: KeypointSource | None, mode: str, portrait: CroppedFace, settings: Settings, extension: str,
    find_faces: FaceFinder,
) -> tuple[Callable[[int], Float32], tuple[str, ...]]:  # fmt: skip
    """Return the keypoints of the face for a video without an end.

    The anchor frame of retargeting is searched in the whole track.

    Args:
        source: The keypoints, or None. Only the first LONGEST_LOOP seconds of a driving video are used.
        mode: Retargeting mode, from `choose_retarget`.
        portrait: The portrait or photo.
        settings: The resolved options.
        extension: "loop", "mirror" or "hold", for frames beyond the track.
        find_faces: Returns the faces in a picture.

    Returns:
        A function that maps a frame, from 0, to its keypoints (3, 2) float32; and the notes on the track.

    Raises:
        ConfigError: `extension` is unknown.
        InputError: As in `plan_pose_track`.
    """
    check_choice("extension", extension, LOOPING_MODES)
    if mode == "fix_face":
        pose = plan_pose_track(source, mode, portrait, 1, settings, find_faces)
        notes = pose.notes
    else:
        assert source is not None
        track = load_track(source, find_faces, LONGEST_LOOP)
        length = len(resample(track, settings.rate).points)
        pose = plan_pose_track(track, mode, portrait, length, settings, find_faces)
        notes = track.notes  # without the note about fitting to a length, because the video has none
    points = pose.points

    def keypoints_at(frame: int) -> Float32:
        keypoints: Float32 = points[repeated_frames(np.array(frame), len(points), extension)]
        return keypoints

    return keypoints_at, notes
