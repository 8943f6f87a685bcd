"""The videos of an evaluation: one of each person in each scene. In each scene, only one signal varies.

* voice: the person's own speech; the head is still.
* silence: no speech; the head is still.
* pose: no speech; the person's own head movement.
* photo: the same speech, head movement and noise for all people.
* recorded: recorded speech from a file; the head is still. Only the first RECORDED_PEOPLE people.
* depth: the person's own speech and head movement, driven by depth without keypoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.pocket.acting import random_motion
from export.pocket.architecture import FPS, SIZE
from export.pocket.evaluate.subjects import FIRST, Subject
from export.pocket.faces import Person, Pose, draw_depth, keypoints
from export.pocket.lips import LIPS, RATE, mouth_track
from export.pocket.speech import Samples, clip
from vexpress_rt.media.recording import open_recording

SCENES = ("voice", "silence", "pose", "photo", "recorded", "depth")
SHARED = 2 * FIRST  # seed of speech and movement that are the same for all people
RECORDED_PEOPLE, RECORDED_SECONDS = 4, 4.0
# What `fix_face` leaves at rest; expressions follow the voice.
_HELD = {"yaw": 0.0, "pitch": 0.0, "roll": 0.0, "x": 0.0, "y": 0.0, "scale": 1.0, "blink": 0.0}
LOUDNESS = 0.6  # exponent of sound pressure: S. S. Stevens, "The measurement of loudness", JASA 27(5), 1955

Voice = Callable[[int, float], Samples]  # takes a seed and a duration in seconds


@dataclass(frozen=True)
class Case:
    """A video of L frames to make.

    Attributes:
        scene: One of SCENES.
        subject: The person.
        samples: Mono at 16 kHz, (N,) float32.
        noise: Seed of the initial noise.
        person: The person to expect: the looks of the photo, with the eye distance of the keypoints.
        poses: Expected pose of each frame.
        points: Their keypoints in pixels, (L, 3, 2) float32.
        signal: What drives the head, "keypoints" or "depth"; None for a head that stays as in the photo.
        followed: Curve that the mouth's opening should correlate with, (L,): openness, or loudness of a recording.
    """

    scene: str
    subject: Subject
    samples: Samples
    noise: int
    person: Person
    poses: tuple[Pose, ...]
    points: NDArray[np.float32]
    signal: str | None
    followed: NDArray[np.float64]

    @property
    def held(self) -> bool:
        """Whether the head stays as in the photo."""
        return self.signal is None

    def depth(self) -> NDArray[np.float32]:
        """Draw the depth of the person in the expected poses.

        Returns:
            (L, H, W) float32 in [0, 1], nearer is larger.
        """
        return np.stack([draw_depth(self.person, pose, height=SIZE, width=SIZE) for pose in self.poses])


def speech(seed: int, seconds: float) -> Samples:
    """Make a recording with speech.

    Args:
        seed: Seed of the recording.
        seconds: Its duration.

    Returns:
        Mono at 16 kHz, (N,) float32.

    Raises:
        ExportError: espeak-ng is not installed.
    """
    return clip(seed, seconds, silent=0.0)


def cases_of(subject: Subject, seconds: float, voice: Voice = speech, *, depth: bool = False) -> list[Case]:
    """Return the videos of a person in all scenes except `recorded`.

    Args:
        subject: The person.
        seconds: Duration of each video.
        voice: Makes the speech.
        depth: Whether to add the scene `depth`.
    """
    seed, own_distance = subject.seed, subject.person.eye_distance
    silence, own_speech, shared_speech = (
        np.zeros(round(seconds * RATE), np.float32),
        voice(seed, seconds),
        voice(SHARED, seconds),
    )
    own, shared = _motion(silence, seed), _motion(shared_speech, SHARED)
    cases = [
        _held("voice", subject, own_speech),
        _held("silence", subject, clip(seed, seconds, silent=1.0)),  # silence or steady noise
        _moved("pose", subject, silence, seed, own, own_distance),
        # Keypoints of average proportions, so that only the photo differs.
        _moved("photo", subject, shared_speech, SHARED, shared, 1.0),
    ]
    if depth:
        moved = _moved("depth", subject, own_speech, seed, _motion(own_speech, seed), own_distance)
        cases.append(replace(moved, signal="depth"))
    return cases


def all_cases(
    subjects: Sequence[Subject], seconds: float, recorded: Sequence[Path], voice: Voice = speech, *, depth: bool = False
) -> list[Case]:
    """Return the videos of all people in all scenes, person after person.

    Args:
        subjects: The people.
        seconds: Duration of each video.
        recorded: Files of recorded speech.
        voice: Makes the speech.
        depth: Whether to add the scene `depth`.

    Raises:
        AudioError: A recording cannot be read.
        ExportError: espeak-ng is not installed.
    """
    recordings = [open_recording(path, RATE).read()[: round(RECORDED_SECONDS * RATE)] for path in recorded]
    cases = []
    for number, subject in enumerate(subjects):
        cases += cases_of(subject, seconds, voice, depth=depth)
        if number < RECORDED_PEOPLE:
            cases += [
                replace(_held("recorded", subject, samples), followed=loudness(samples)) for samples in recordings
            ]
    return cases


def loudness(samples: Samples) -> NDArray[np.float64]:
    """Return the loudness of a recording at each frame, smoothed with the time constant of lips.

    Args:
        samples: Mono at 16 kHz, (N,).

    Returns:
        (L,).
    """
    reach = round(LIPS * RATE)
    bell = np.hanning(2 * reach + 1)
    padded = np.pad(np.square(_a_weighted(samples)), reach)
    middles = np.minimum((np.arange(_frames(samples)) + 0.5) * RATE / FPS, len(samples) - 1).astype(int)
    power = np.array([np.average(padded[at : at + 2 * reach + 1], weights=bell) for at in middles])
    return np.asarray(power ** (LOUDNESS / 2))


def _a_weighted(samples: Samples) -> NDArray[np.float64]:
    """Filter with the A-weighting curve of IEC 61672, up to a constant."""
    square = np.square(np.fft.rfftfreq(len(samples), 1 / RATE))
    low, middle, upper, high = np.square((20.6, 107.7, 737.9, 12194.0))
    curve = square**2 / ((square + low) * np.sqrt((square + middle) * (square + upper)) * (square + high))
    return np.asarray(np.fft.irfft(np.fft.rfft(samples) * curve * high, len(samples)))


def _frames(samples: Samples) -> int:
    return max(1, -(-len(samples) * FPS // RATE))


def _motion(samples: Samples, seed: int) -> tuple[Pose, ...]:
    """Return random poses of a head that speaks."""
    mouths = mouth_track(samples).at(_frames(samples), FPS)
    return tuple(random_motion(np.random.default_rng((seed, 8)), mouths, FPS))


def _held(scene: str, subject: Subject, samples: Samples) -> Case:
    poses = tuple(replace(pose, **_HELD) for pose in _motion(samples, subject.seed))
    points = np.repeat(subject.rest.keypoints[None], len(poses), axis=0)
    followed = np.array([pose.mouth for pose in poses])
    return Case(scene, subject, samples, subject.seed, subject.person, poses, points, None, followed)


def _moved(
    scene: str, subject: Subject, samples: Samples, noise: int, poses: tuple[Pose, ...], eye_distance: float
) -> Case:
    person = replace(subject.person, eye_distance=eye_distance)
    points = np.stack([keypoints(person, pose, SIZE, SIZE) for pose in poses])
    followed = np.array([pose.mouth for pose in poses])
    return Case(scene, subject, samples, noise, person, poses, points, "keypoints", followed)
