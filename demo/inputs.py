"""Inputs of the demo: drawn people, a recording, keypoints, and a driving video."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.acting import act
from demo.lips import Curve
from export.pocket.faces import Pose, draw_face, keypoints, mouth_opening, random_person
from export.pocket.lips import RATE, mouth_track
from vexpress_rt.media.recording import Recording, open_recording
from vexpress_rt.media.video_writer import VideoWriter

# 16-bit output of export.pocket.speech.say(TEXT, "en-us+f3", pitch=50, speed=185), with espeak-ng 1.51.
SPEECH = Path(__file__).with_name("speech.flac")
TEXT = "Hello! I am a drawing. And now... I can talk!"
SITTERS = {"a": 1_000_028, "b": 1_000_027}  # seeds of people; the training data has those below 2000
DRIVER = 1_000_050  # seed of a person with a longer face and eyes farther apart
_DRIVER_SIZE, _DRIVER_SCALE = 256, 0.85  # height and width in pixels; scale of the head


@dataclass(frozen=True)
class Sitter:
    """A drawn person.

    Attributes:
        name: Part of file names.
        photo: PNG file.
        keypoints: File (.npy) with keypoints of the same face in motion, in pixels of the bundle's picture.
        closed: `mouth_opening` of a drawing with the mouth closed.
        opened: `mouth_opening` of a drawing with the mouth fully open.
    """

    name: str
    photo: Path
    keypoints: Path
    closed: float
    opened: float

    def openness(self, opening: Curve) -> Curve:
        """Scale values of `mouth_opening`: 0 for the closed mouth, 1 for the fully open one."""
        return (opening - self.closed) / (self.opened - self.closed)


@dataclass(frozen=True)
class Inputs:
    """The inputs of all scenes.

    Attributes:
        audio: Sound file.
        speech: The opened sound file.
        mouth: (L, 3) float32, shape of a mouth that speaks the recording: openness, width and rounding by frame.
        sitters: The drawn people.
        driving: Video of another person who speaks the recording.
    """

    audio: Path
    speech: Recording
    mouth: NDArray[np.float32]
    sitters: tuple[Sitter, ...]
    driving: Path


def make_inputs(folder: Path, speech: Path, size: tuple[int, int], fps: Fraction) -> Inputs:
    """Draw photos, keypoints and the driving video into a folder.

    Args:
        folder: Folder to write to.
        speech: Sound file of the speech.
        size: (height, width) of the bundle's picture.
        fps: Frames a second of the motion.

    Returns:
        The inputs.
    """
    recording = open_recording(speech, RATE)
    mouth = mouth_track(recording.read()).at(recording.frame_count(fps), float(fps))
    sitters = tuple(_sit(folder, name, seed, mouth, size, fps) for name, seed in SITTERS.items())
    driving = folder / "driving.mp4"
    with VideoWriter(driving, (_DRIVER_SIZE, _DRIVER_SIZE), fps, recording, quality=16) as writer:
        for pose in act(mouth, float(fps), mirrored=True, scale=_DRIVER_SCALE):
            writer.write(draw_face(DRIVER, pose, height=_DRIVER_SIZE, width=_DRIVER_SIZE, oversampling=2).image)
    return Inputs(speech, recording, mouth, sitters, driving)


def _sit(
    folder: Path, name: str, seed: int, mouth: NDArray[np.float32], size: tuple[int, int], fps: Fraction
) -> Sitter:
    person, photo, motion = random_person(seed), folder / f"portrait_{name}.png", folder / f"keypoints_{name}.npy"
    Image.fromarray(draw_face(person).image).save(photo)
    np.save(motion, np.stack([keypoints(person, pose, *size) for pose in act(mouth, float(fps))]))
    closed, opened = (draw_face(person, Pose(mouth=openness), height=size[0], width=size[1]) for openness in (0, 1))
    return Sitter(name, photo, motion, *(mouth_opening(each.image, each.keypoints) for each in (closed, opened)))
