"""Where the face is in each frame of the video: wires keypoint sources, the face detector and retargeting."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
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

KeypointSource = str | os.PathLike[str] | ArrayLike | KeypointTrack
FaceFinder = Callable[[UInt8], list[Face]]
FrameProgress = Callable[[int, int], None]  # called with done and total, in frames

ENDLESS_MODES = tuple(mode for mode in EXTENSION_MODES if mode != "stretch")
LONGEST_TURN = Fraction(60)  # seconds of a driving video that are followed where no end is known


class CroppedFace(Protocol):
    """What is needed of a portrait, or of a photo that is not encoded yet; `Portrait` says what each is."""

    @property
    def keypoints(self) -> Float32 | None: ...
    @property
    def crop(self) -> Crop: ...
    @property
    def crop_mode(self) -> str: ...


@dataclass(frozen=True)
class PoseTrack:
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
        raise ConfigError(
            f"retarget is {mode!r}, which follows keypoints, and there are none: give a file of keypoints or a driving "
            "video as keypoints= or --keypoints, or use 'fix_face', which holds the face still and needs a face in the "
            "photo, or its keypoints as prepare(..., keypoints=) or --image-keypoints"
        )
    return mode


def check_face(
    mode: str, keypoints: Float32 | None, size: tuple[int, int], *, driven: bool, searched: bool | None = None
) -> None:
    """Check that the photo's face is known if the retargeting mode needs it.

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
        remedies.append(f"use a bundle that has one (python -m export.build --engine {FACE_DETECTOR})")
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
    """Keypoints from a file of arrays, from numbers, or, for any other file, from the faces of a driving video.

    seconds: of the video to be made. A driving video is searched so far and over the longest gap that may follow, so
    that the frames before are those that the whole would give; each decoded frame is searched once.
    progress: called after each frame of a driving video with the frames done and the largest possible total; may raise.
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
    needed, findings = math.ceil(seconds * video.fps) + 1, ReadReport()
    most = needed + math.ceil(LONGEST_GAP * video.fps)
    track = track_faces(_search(video, find_faces, most, findings, progress), video.fps, video.size, needed)
    return replace(track, notes=(*findings.notes(), *track.notes))


def _search(
    video: DrivingVideo, find_faces: FaceFinder, most: int, findings: ReadReport, progress: FrameProgress | None
) -> Iterator[list[Face]]:
    """Yield the faces in each of at most `most` frames, at the video's constant rate."""
    done = 0
    (height, width), (rows, columns) = video.size, video.shown or video.size
    scale = np.array([width / columns, height / rows], np.float32)
    with closing(video.runs(findings)) as runs:
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
    """A track in pixels of its own pictures -> in pixels of the bundle's picture.

    Pictures as large as the original photo are cropped as that was; others by themselves, around the first face.
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
    """The face's place in each of `length` frames.

    mode: of `choose_retarget`.  find_faces: the detector.  progress: of the search, see `load_track`.

    Raises NoFaceError if the photo's own face is needed and unknown, or the driving video shows none; KeypointError
    for unreadable keypoints and for faces wholly outside the picture; VideoError for a driving video that is unusable.
    """
    own = portrait.keypoints
    check_face(mode, own, portrait.crop.source, driven=source is not None)
    if own is not None and mode == "fix_face":
        notes = () if source is None else ("keypoints were not used: fix_face holds the photo's own face still",)
        return PoseTrack(np.repeat(own[None], length, axis=0), notes)
    assert source is not None
    track = load_track(source, find_faces, length / settings.rate, progress)
    track = resample(to_picture(track, portrait), settings.rate)
    points, how = fit_length(track.points, length, settings.extension)
    points = retarget(points, own, mode, settings.upstream_anchor)
    check_inside(points, portrait.crop.size)
    return PoseTrack(points, (*track.notes, _note(len(track.points), length, how)))


def looping_pose_track(
    source: KeypointSource | None, mode: str, portrait: CroppedFace, settings: Settings, extension: str,
    find_faces: FaceFinder,
) -> tuple[Callable[[int], Float32], tuple[str, ...]]:  # fmt: skip
    """The face's place (3, 2) float32 in each frame, from 0 on, of a video that need not end; and notes on the track.

    extension: "loop", "mirror" or "hold", for frames beyond the track; a driving video is followed for LONGEST_TURN.
    Other arguments and errors are those of `plan_pose_track`; the whole track is searched for the anchor of
    retargeting.
    """
    check_choice("extension", extension, ENDLESS_MODES)
    if mode == "fix_face":
        motion = plan_pose_track(source, mode, portrait, 1, settings, find_faces)
        notes = motion.notes
    else:
        assert source is not None
        track = load_track(source, find_faces, LONGEST_TURN)
        length = len(resample(track, settings.rate).points)
        motion = plan_pose_track(track, mode, portrait, length, settings, find_faces)
        notes = track.notes  # not how it was fitted to a length, since there is none
    points = motion.points

    def place(frame: int) -> Float32:
        point: Float32 = points[repeated_frames(np.array(frame), len(points), extension)]
        return point

    return place, notes


def _note(count: int, length: int, how: str) -> str:
    """How a track of `count` frames came to `length`; `how` as `fit_length` tells it."""
    if how == "as is":
        return f"keypoints: {count} frames, as many as the video has"
    if how == "cut":
        return f"keypoints: longer than the video, cut to its {length} frames"
    return f"keypoints: {count} frames for {length} of the video, extended by {how}"
